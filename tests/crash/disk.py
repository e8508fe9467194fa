"""A real disk of limited size below a site: it can be full to the last byte, or become read-only, as no made-up error shows it.

Needs the right to mount (root, and a container that allows it). Not here: errors at chosen calls (faults).
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import TracebackType

from .site import PATIENCE

BALLAST = "ballast"


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
        done = subprocess.run(["mount", *options, self.folder], check=False, capture_output=True, text=True)
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
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._mount("-o", "remount,ro")
            except PermissionError:
                if time.monotonic() > deadline:
                    raise

    def writable(self) -> None:
        """Allow writing again."""
        self._mount("-o", "remount,rw")
