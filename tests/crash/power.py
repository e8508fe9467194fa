"""A loss of power acted out on the blobs: what was not synchronised when the processes died is taken away.

A SIGKILL alone would not show a forgotten fsync, as the system's cache outlives every process. Taken away is whatever a file
system may take: names whose folder was not synchronised, bytes written after the file's last fsync. PostgreSQL's files are left
alone: that it synchronises its log before it says "committed" is PostgreSQL's own promise.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from .faults import NAMING, SYNC, Entry, Operation


def lose(entries: Iterable[Entry]) -> list[str]:
    """Take away what one process had not made durable; what was taken, by path.

    Parameters
    ----------
    entries : iterable of Entry
        The process's successful calls in their order; the process is dead.
    """
    durable: dict[int, int] = {}  # inode: bytes that are safe
    written: set[int] = (
        set()
    )  # inodes; a file that was written before the record began may have been made durable before it, too
    names: dict[str, int] = {}  # names that are not safe yet: inode
    files: dict[int, str] = {}
    folders: set[str] = set()  # the same of folders
    for entry in entries:
        if entry.operation is Operation.WRITE:
            written.add(entry.inode)
        elif entry.operation in SYNC:
            durable[entry.inode] = entry.size
            for path in [path for path in (*names, *folders) if os.path.dirname(path) == entry.path]:
                names.pop(path, None)
                folders.discard(path)
        elif entry.operation in NAMING:
            names[entry.path] = entry.inode
            files[entry.inode] = entry.path
        elif entry.operation is Operation.MKDIR:
            folders.add(entry.path)
        elif entry.operation is Operation.UNLINK:
            names.pop(entry.path, None)
    taken = []
    for path in names:
        # An object that was moved aside would be back at its first name, where nothing refers to it: that is no loss to act out.
        if Path(path).is_file() and not {"quarantine", "conflicts"} & set(Path(path).parts):
            os.unlink(path)
            taken.append(path)
    for inode in written & files.keys():
        path = files[inode]
        if Path(path).is_file() and os.stat(path).st_ino == inode and os.stat(path).st_size > durable.get(inode, 0):
            os.truncate(path, durable.get(inode, 0))
            taken.append(path)
    for path in folders:
        if Path(path).is_dir():
            shutil.rmtree(path)
            taken.append(path)
    return taken
