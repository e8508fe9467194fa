"""Keeping some of the disk free, so that the database goes on working when the images have filled the rest.

Not here: a disk that is full all the same (blobs say so when they are written).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from insitu.errors import Unavailable
from insitu.settings import Settings


def free(settings: Settings) -> int:
    """Bytes free on the disk of the blobs, or of those on their way to the object store; or above, where that is not there yet."""
    folder: Path = settings.spool if settings.object_store else settings.blobs
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require(settings: Settings) -> None:
    """See that an object may be taken.

    Raises
    ------
    Unavailable
        Less than `disk_reserve` is free.
    """
    left = free(settings)
    if left < settings.disk_reserve:
        raise Unavailable(
            "The disk is nearly full, so no objects are taken",
            value=f"{left / 1e6:.0f} MB free",
            why=f"{settings.disk_reserve / 1e6:.0f} MB are kept for the database (disk_reserve)",
            remedy="Free space on the disk of the home; objects are then taken again",
        )
