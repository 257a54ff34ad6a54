"""`python -m ganvas` is `ganvas`."""

import sys

from ganvas.cli import main

sys.exit(main())
