"""A synchronous folder: what any program writes below it is durable before the program's call returns.

For the data of an S3 server that does not sync by itself what it acknowledges, as versitygw does not: only then does its answer
mean that the object would survive a power failure. `python -m insitu.archive.blobs.synchronous FOLDER` does it before the server
starts, with the attributes S and D of ext4, which new files and folders inherit. Elsewhere the file system must be mounted with
the option `sync`. Not here: our own files, which are synced one by one (files).
"""

from __future__ import annotations

import array
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from insitu.errors import InsituError, Invalid

GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS and FS_IOC_SETFLAGS of ioctl_iflags(2), 64 bits
SYNC, DIRSYNC = 0x8, 0x10000


def is_synchronous(path: Path) -> bool:
    """Whether a file, or what is made in a folder, becomes durable at once: by its attributes, or as its disk is mounted so."""
    if os.statvfs(path).f_flag & os.ST_SYNCHRONOUS:
        return True
    wanted = SYNC | DIRSYNC if path.is_dir() else SYNC
    try:
        return _flags(path) & wanted == wanted
    except OSError:
        return False


def make_synchronous(folder: Path) -> None:
    """Let everything that is written below a folder from now on be durable at once.

    Raises
    ------
    Invalid
        There is no such folder, or its file system cannot do that and is not mounted so.
    """
    if not folder.is_dir():
        raise Invalid("There is no such folder", value=str(folder))
    for each in _folders(folder):
        if is_synchronous(each):
            continue
        try:
            _set(each, _flags(each) | SYNC | DIRSYNC)
        except OSError as error:
            raise Invalid(
                "This folder cannot be made synchronous, so a power failure could take what its server acknowledged",
                value=str(each),
                why=error.strerror,
                remedy="Mount its file system with the option sync, or use ext4",
            ) from error


def _folders(folder: Path) -> Iterator[Path]:
    yield folder
    for top, names, _ in os.walk(folder):
        yield from (Path(top, name) for name in names)


def _flags(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = array.array("l", [0])
        fcntl.ioctl(descriptor, GET_FLAGS, found)
        return found[0]
    finally:
        os.close(descriptor)


def _set(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, SET_FLAGS, array.array("l", [flags]))
    finally:
        os.close(descriptor)


def main() -> None:
    """Make the named folder synchronous; exit status 1, with the reason, where that is not possible."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m insitu.archive.blobs.synchronous FOLDER")
    try:
        make_synchronous(Path(sys.argv[1]))
    except InsituError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
