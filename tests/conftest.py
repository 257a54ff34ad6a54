"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures for tests: GANVAS_TEST_DATA, or ../shared/data beside the repository. Skips without them."""
    folder = Path(os.environ.get("GANVAS_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real pictures: set GANVAS_TEST_DATA to a folder that has mnist/, mednist/ ...")
    return folder
