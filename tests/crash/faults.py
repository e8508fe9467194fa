"""The control block of the preloaded library (shim.c): which call fails or kills, and what has happened.

Not here: when a fault is set and what must hold afterwards (rounds, sweep, check).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SHIM = Path(__file__).with_name("shim.c")
ENTRIES = 65_536


class Operation(IntEnum):
    """Calls that change files, or tell others something."""

    OPEN = 0
    WRITE = 1
    FSYNC = 2
    FDATASYNC = 3
    RENAME = 4
    LINK = 5
    UNLINK = 6
    MKDIR = 7
    TRUNCATE = 8
    SEND = 9  # over a socket: what is asked of PostgreSQL, and answers to peers


SYNC = (Operation.FSYNC, Operation.FDATASYNC)
NAMING = (Operation.RENAME, Operation.LINK)
GROWING = (Operation.OPEN, Operation.WRITE, Operation.LINK, Operation.RENAME, Operation.MKDIR)  # need space on the disk
ALL = tuple(operation for operation in Operation if operation is not Operation.SEND)


class Mode(IntEnum):
    """What happens at the chosen call."""

    OFF = 0
    COUNT = 1
    FAIL = 2  # that call only
    KILL = 3  # the process ends itself by SIGKILL before it
    FAIL_FROM = 4  # that call and every later one; the first write is cut in half


class _Entry(ctypes.Structure):
    """struct entry of shim.c."""

    _fields_ = (
        ("operation", ctypes.c_int32),
        ("ready", ctypes.c_int32),
        ("inode", ctypes.c_uint64),
        ("size", ctypes.c_int64),
        ("path", ctypes.c_char * 232),
    )


class _Control(ctypes.Structure):
    """struct control of shim.c."""

    _fields_ = (
        ("mode", ctypes.c_int32),
        ("operations", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("log", ctypes.c_int32),
        ("at", ctypes.c_int64),
        ("seen", ctypes.c_int64),
        ("fired", ctypes.c_int64),
        ("pid", ctypes.c_int32),
        ("operation", ctypes.c_int32),
        ("named_only", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("entries", ctypes.c_int64),
        ("prefix", ctypes.c_char * 512),
        ("path", ctypes.c_char * 512),
        ("root", ctypes.c_char * 512),
        ("entry", _Entry * ENTRIES),
    )


@dataclass(frozen=True)
class Entry:
    """A call that succeeded: what it did to which file; `size` of the file after it, in bytes, -1 where it is gone."""

    operation: Operation
    inode: int
    size: int
    path: str


class Faults:
    """The control block of one process or family of processes.

    Parameters
    ----------
    file : Path
        Made here; the processes map it.
    prefix : Path
        Only calls on paths below this folder count.
    """

    def __init__(self, file: Path, prefix: Path) -> None:
        self.file = file
        self.prefix = prefix
        with file.open("wb") as stream:
            stream.truncate(ctypes.sizeof(_Control))
        file.chmod(0o666)
        with file.open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), ctypes.sizeof(_Control))
        self._control = _Control.from_buffer(self._memory)
        self._control.prefix = self._control.root = str(prefix).encode()

    def _set(self, mode: Mode, operations: Iterable[Operation], error: int, at: int, below: Path | None) -> None:
        control = self._control
        control.mode = Mode.OFF  # while the rest changes
        control.operations = sum(1 << operation for operation in set(operations))
        control.error, control.at = error, at
        control.seen = control.fired = control.pid = 0
        control.path = b""
        control.prefix = str(below or self.prefix).encode()
        control.mode = mode

    def count(self, operations: Iterable[Operation] = ALL) -> None:
        """Only count from now on."""
        self._set(Mode.COUNT, operations, 0, 0, None)

    def fail(
        self,
        at: int,
        operations: Iterable[Operation] = ALL,
        error: int = errno.EIO,
        *,
        on: bool = False,
        below: Path | None = None,
    ) -> None:
        """Let the call number `at` (from 1) fail with `error`; `on`: and all that follow."""
        self._set(Mode.FAIL_FROM if on else Mode.FAIL, operations, error, at, below)

    def kill(self, at: int, operations: Iterable[Operation] = ALL, *, below: Path | None = None) -> None:
        """Let the process end itself by SIGKILL before the call number `at`."""
        self._set(Mode.KILL, operations, 0, at, below)

    def off(self) -> None:
        """No more faults. What was counted stays to be read."""
        self._control.mode = Mode.OFF

    @property
    def active(self) -> bool:
        """Whether a fault is set."""
        return self._control.mode not in (Mode.OFF, Mode.COUNT)

    @property
    def seen(self) -> int:
        """Calls counted since the fault was set."""
        return int(self._control.seen)

    @property
    def fired(self) -> int:
        """How often the fault has happened since it was set."""
        return int(self._control.fired)

    @property
    def where(self) -> str:
        """The first call that was hit: operation and path below the folder."""
        path = self._control.path.decode(errors="replace").removeprefix(str(self.prefix))
        return f"{Operation(self._control.operation).name.lower()} {path}"

    @property
    def pid(self) -> int:
        """The process in which it happened first."""
        return int(self._control.pid)

    def refuse_nameless(self, refuse: bool) -> None:
        """Behave like a file system without nameless files (O_TMPFILE), such as NFS."""
        self._control.named_only = int(refuse)

    def record(self) -> None:
        """Note every call from now on."""
        control = self._control
        control.log = 0
        for number in range(min(control.entries, ENTRIES)):
            control.entry[number].ready = 0
        control.entries = 0
        control.log = 1

    def recorded(self) -> list[Entry]:
        """The calls since `record`, in their order; the record ends here."""
        control = self._control
        control.log = 0
        assert control.entries <= ENTRIES, "more calls than the record holds"
        entries = (control.entry[number] for number in range(control.entries))
        return [  # one that is not ready belongs to a process that was killed while it wrote it
            Entry(Operation(entry.operation), entry.inode, entry.size, entry.path.decode())
            for entry in entries
            if entry.ready
        ]
