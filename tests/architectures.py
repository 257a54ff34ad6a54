"""Names of the architectures, by what they support."""

from ganvas.models import MODELS

CLASSIC = [name for name, one in MODELS.items() if one.classic]
MODERN = [name for name in MODELS if name not in CLASSIC]
"""Those that support labels and all sizes."""
