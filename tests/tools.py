"""Programs of other people that judge our results; a test that lacks one is skipped, saying what is missing, in one wording."""

from __future__ import annotations

import shutil

import pytest

from .peers import orthanc


def need_program(name: str, package: str) -> str:
    """Path of a program; the test is skipped where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(_missing(name, package))
    return found


def needs_program(name: str, package: str) -> pytest.MarkDecorator:
    """The same as a mark, for a test or a module."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=_missing(name, package))


def need_orthanc() -> None:
    """Skip the test where Orthanc cannot be started."""
    if not orthanc.installed():
        pytest.skip("needs Orthanc (Debian packages orthanc and orthanc-dicomweb) and a C compiler")


def _missing(name: str, package: str) -> str:
    return f"needs {name} (Debian package {package})"
