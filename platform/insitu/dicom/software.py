"""This software as the DICOM objects it writes name it. Not here: the algorithms (result)."""

from __future__ import annotations

from importlib.metadata import version

MANUFACTURER = "Insitu"
VERSION = version("insitu")
IMPLEMENTATION_VERSION_NAME = f"INSITU_{VERSION}"[:16]
