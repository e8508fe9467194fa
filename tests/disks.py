"""Disks that misbehave: a small one that can be filled and made read-only, and one on which nothing becomes durable quickly.

Not here: a disk whose single calls fail (tests.crash.faults).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pytest

from .peers import preload

SLOW = Path(__file__).with_name("slow_disk.c")
BALLAST = "ballast"
REMOUNT_SECONDS = 120.0  # that making a disk read-only may take; a busy machine is slow


class Disk:
    """A file system in memory, mounted on a folder until the block is left.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    megabytes : int
    mode : int
        Of its topmost folder.

    Raises
    ------
    PermissionError
        Nothing can be mounted here.
    """

    def __init__(self, folder: Path, megabytes: int, mode: int = 0o755) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={megabytes}m,mode={mode:o}", "tmpfs")

    def __enter__(self) -> Disk:
        """Give it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take it away, also where somebody still looks at it."""
        subprocess.run(["umount", "-l", self.folder], check=False, capture_output=True)

    def _mount(self, *options: str) -> None:
        try:
            done = subprocess.run(["mount", *options, self.folder], check=False, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise PermissionError("there is no mount") from error
        if done.returncode:
            raise PermissionError(done.stderr.strip())

    @property
    def left(self) -> int:
        """Bytes that are free."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all space but `leave` bytes; somebody may be writing meanwhile."""
        with (self.folder / BALLAST).open("ab", buffering=0) as stream:
            while self.left > leave:
                try:
                    stream.write(bytes(max(1, min(1 << 20, self.left - leave))))
                except OSError:
                    return

    def free(self) -> None:
        """Give back what `fill` took."""
        (self.folder / BALLAST).unlink()

    def read_only(self) -> None:
        """Refuse writing from now on, as a kernel does that has found an error; for that no file may be open for writing."""
        deadline = time.monotonic() + REMOUNT_SECONDS
        while True:
            try:
                return self._mount("-o", "remount,ro")
            except PermissionError:
                if time.monotonic() > deadline:
                    raise

    def writable(self) -> None:
        """Allow writing again."""
        self._mount("-o", "remount,rw")


@contextmanager
def small_disk(folder: Path, megabytes: int = 8) -> Iterator[Disk]:
    """A small disk at `folder`; the test is skipped where none can be mounted."""
    try:
        disk = Disk(folder, megabytes, 0o700)
    except PermissionError as error:
        pytest.skip(f"this machine does not let the tests mount a disk: {error}")
    with disk:
        yield disk


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
