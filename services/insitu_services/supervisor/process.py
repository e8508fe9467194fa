"""One supervised process: how it is started, asked to stop, ended with all its descendants, started again.

Not here: which processes there are (roster) and in which order they start and stop (supervisor).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from insitu.processes import ProcessRecord, alive, members, start_ticks

from .backoff import deaths_in_a_row, delay

TIED = Path(__file__).with_name("tied.py")
LOG_BYTES = 10_000_000  # size at which a log is turned over
LOG_GENERATIONS = 3
QUICK_END_SECONDS = 2.0


@dataclass(frozen=True)
class Definition:
    """What a process is.

    Attributes
    ----------
    name : str
        Also of its log.
    command : list of str
        Program by its full path, and arguments.
    environment : mapping
        The whole environment; nothing is inherited.
    ready : callable
        Given the running process, whether it does its work; asked until it says yes. May raise OSError for no.
    user : tuple of int, optional
        User and group it runs as, where we are root.
    stop_signal : int
        Asks it to stop.
    patience : float
        Seconds it is given to stop.
    orphan_signal : int
        What it gets when the supervisor dies.
    workplace : Path, optional
        Folder in which only it and its descendants work. PostgreSQL's processes have a session each, so that nothing else tells
        whose they are once the first is gone; and one that waits for a lock of a dead one never ends, and holds the
        shared memory that keeps the next server from starting.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    ready: Callable[[Process], bool]
    user: tuple[int, int] | None = None
    stop_signal: int = signal.SIGTERM
    patience: float = 3.0
    orphan_signal: int = signal.SIGKILL
    workplace: Path | None = None


@dataclass
class Process:
    """A process with its history.

    Parameters
    ----------
    definition : Definition
    logs : Path
        Folder of the logs.
    guardian : callable
        Takes a line for the guardian.
    """

    definition: Definition
    logs: Path
    guardian: Callable[[str], None]
    record: ProcessRecord = field(init=False)
    deaths: int = 0
    start_at: float | None = None  # monotonic time of the next start; None while it runs or is stopped
    born: float = 0.0  # monotonic
    last_exit: int | None = None
    _popen: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.record = ProcessRecord(name=self.definition.name)

    @property
    def log(self) -> Path:
        """File of its output."""
        return self.logs / f"{self.definition.name}.log"

    def start(self) -> None:
        """Start it, in a session of its own."""
        definition = self.definition
        popen = tied(
            definition.command, definition.environment, self.log, number=definition.orphan_signal, user=definition.user
        )
        self._popen = popen
        self.start_at = None
        self.born = time.monotonic()
        ticks = start_ticks(popen.pid)  # None where it is dead already; then poll() sees to it
        self.record.pid, self.record.ticks, self.record.ready = popen.pid, ticks, False
        self.record.started_at = time.time()
        if ticks is not None:
            self.guardian(f"watch {popen.pid} {ticks} {int(definition.orphan_signal)}")

    def poll(self) -> bool:
        """See whether it died since the last look; if so, end what it left behind and plan the next start."""
        if self._popen is None:
            return False
        code = self._popen.poll()
        if code is None:
            return False
        self.last_exit = code
        self._buried()
        self.deaths = deaths_in_a_row(self.deaths, time.monotonic() - self.born)
        self.record.restarts += 1
        self.start_at = time.monotonic() + delay(self.deaths)
        return True

    def check_ready(self) -> bool:
        """Ask whether it does its work; True at the moment it first says so."""
        if self._popen is None or self.record.ready:
            return False
        try:
            self.record.ready = self.definition.ready(self)
        except OSError:
            return False
        return self.record.ready

    def ask_to_stop(self) -> None:
        """Send the signal that asks it to stop."""
        self.start_at = None
        if self._popen is not None and self._popen.poll() is None:
            self._popen.send_signal(self.definition.stop_signal)

    def stopped(self) -> bool:
        """Whether it has ended; what it left behind is ended then too."""
        if self._popen is None:
            return True
        if self._popen.poll() is None:
            return False
        self._buried()
        return True

    def end(self) -> None:
        """End it and its descendants now."""
        if self._popen is None:
            return
        if self.definition.orphan_signal != signal.SIGKILL:  # it has a quick end of its own, which is better
            self._popen.send_signal(self.definition.orphan_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout=QUICK_END_SECONDS)
        self._popen.kill()
        self._popen.wait()
        self._buried()

    def turn_log(self) -> None:
        """Turn the log over where it has grown too large; the process goes on writing to the same file."""
        try:
            if self.log.stat().st_size < LOG_BYTES:
                return
        except FileNotFoundError:
            return
        for number in range(LOG_GENERATIONS - 1, 0, -1):
            older = self.logs / f"{self.definition.name}.log.{number}"
            if older.exists():
                older.replace(self.logs / f"{self.definition.name}.log.{number + 1}")
        shutil.copyfile(self.log, self.logs / f"{self.definition.name}.log.1")
        os.truncate(self.log, 0)

    def _buried(self) -> None:
        if self.record.pid is not None:
            end_members(self.record.pid)
            self.guardian(f"forget {self.record.pid}")
        if self.definition.workplace is not None:
            end_workers(self.definition.workplace)
        self._popen = None
        self.record.pid = self.record.ticks = self.record.started_at = None
        self.record.ready = False


def tied(
    command: list[str],
    environment: Mapping[str, str],
    log: Path,
    *,
    number: int = signal.SIGKILL,
    user: tuple[int, int] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own that gets the signal `number` when this process dies.

    Parameters
    ----------
    command : list of str
        Program by its full path, and arguments.
    environment : mapping
        Its whole environment.
    log : Path
        File its output is appended to.
    number : int
        The signal.
    user : tuple of int, optional
        User and group it runs as, where we are root.
    """
    tie = [sys.executable, "-I", "-S", str(TIED), str(os.getpid()), str(int(number))]
    if user is not None:
        tie.append(f"{user[0]}:{user[1]}")
    with log.open("ab") as stream:
        return subprocess.Popen(
            [*tie, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )


def last_words(log: Path) -> str:
    """Last line of a log that is not empty, shortened."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4000))
            lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


def end_members(session: int) -> None:
    """End what is left of a session whose leader is gone."""
    for pid in members(session):
        kill(pid, signal.SIGKILL)


def works_in(pid: int, folder: Path) -> bool:
    """Whether a process has `folder` as its working folder, as a PostgreSQL server has its data folder."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")) == folder.resolve()
    except OSError:
        return False


def end_workers(folder: Path) -> None:
    """End every process whose working folder is `folder`; for a folder of ours whose first process is gone."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and works_in(int(entry), folder):
            kill(int(entry), signal.SIGKILL)


def kill(pid: int, number: int) -> None:
    """Signal a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def end_leftover(record: ProcessRecord, number: int, patience: float = 10.0) -> bool:
    """End a process, with its session, that an earlier supervisor left; whether there was one.

    Parameters
    ----------
    record : ProcessRecord
        From an earlier state file of the present boot.
    number : int
        Signal that is sent first.
    patience : float
        Seconds between it and SIGKILL.
    """
    if record.pid is None or record.ticks is None:
        return False
    left = members(record.pid)
    if start_ticks(record.pid) not in (record.ticks, None) or not left:
        return False  # the number belongs to somebody else by now
    if alive(record.pid, record.ticks):
        kill(record.pid, number)
        deadline = time.monotonic() + patience
        while alive(record.pid, record.ticks) and time.monotonic() < deadline:
            time.sleep(0.02)
    end_members(record.pid)
    return True
