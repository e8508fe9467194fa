"""Disks that misbehave: a small one that can be filled and made read-only, and one on which nothing becomes durable quickly.

Not here: a disk whose single calls fail (tests.crash.faults).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .peers import preload

SLOW = Path(__file__).with_name("slow_disk.c")


class SmallDisk:
    """A file system in memory at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filling = folder / "filling"

    def read_only(self, value: bool) -> None:
        """Make it read-only, or writable again."""
        subprocess.run(
            ["mount", "-o", f"remount,{'ro' if value else 'rw'}", str(self.folder)], check=True, capture_output=True
        )

    def fill(self) -> None:
        """Fill it to the last byte."""
        with self._filling.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(4096))
            except OSError:
                return

    def empty(self) -> None:
        """Remove what fills it."""
        self._filling.unlink()


@contextmanager
def small_disk(folder: Path, megabytes: int = 8) -> Iterator[SmallDisk]:
    """Mount a small file system at `folder`; the test is skipped where that may not be."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)],
        capture_output=True, check=False,
    ) if os.geteuid() == 0 and shutil.which("mount") else None  # fmt: skip
    if done is None or done.returncode != 0:
        pytest.skip("needs the right to mount a small file system (root)")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


class SlowDisk:
    """Makes every fsync of the processes that have `environment` last as long as is said."""

    def __init__(self, folder: Path) -> None:
        try:
            library = preload.library(SLOW)
        except FileNotFoundError:
            pytest.skip("needs a C compiler")
        self._control = folder / "slow_disk"
        self.slow(0)
        self.environment = {"LD_PRELOAD": str(library), "SLOW_DISK": str(self._control)}

    def slow(self, seconds: float) -> None:
        """From now on each takes so long; one that goes on ends when it is over."""
        partial = self._control.with_suffix(".part")
        partial.write_text(str(round(seconds * 1000)))
        partial.replace(self._control)
