"""Programs of other people that judge our results."""

from __future__ import annotations

import shutil

import pytest


def need_program(name: str, package: str) -> str:
    """Path of a program; the test is skipped, saying what is missing, where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name} (Debian package {package})")
    return found
