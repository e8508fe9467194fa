"""Processes below a process: who they are, how much memory they use, ending them all. Linux, from /proc.

Not here: when a job is ended (runner).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LEAST = 19  # niceness
PAGE = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none gets out of sight."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(pid: int) -> list[int]:
    """Children of a process; empty if it has ended."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    for thread in threads:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except FileNotFoundError:
            if Path(f"/proc/{pid}/task/{thread}").exists():  # a kernel without these files
                return _children_by_parent(pid)
        except OSError:
            continue
    return found


def _children_by_parent(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry))
    return found


def descendants(pid: int, without: Iterable[int] = ()) -> list[int]:
    """Every process below `pid`, parents first, leaving out those of `without` with all below them."""
    left_out = set(without)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for child in children(waiting.pop()):
            if child not in left_out and child not in found:
                found.append(child)
                waiting.append(child)
    return found


def resident(pid: int) -> int:
    """Resident memory in bytes, shared pages counted in full; 0 if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def proportional(pid: int) -> int:
    """Resident memory in bytes, shared pages divided among their users (PSS); resident() where that is not told."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, IndexError):
        pass
    return resident(pid)


def memory(pids: Iterable[int], limit: int) -> int:
    """Memory in bytes that processes use together: the cheap sum where it is below `limit`, else the exact one."""
    listed = list(pids)
    upper = sum(map(resident, listed))
    return upper if upper <= limit else sum(map(proportional, listed))


def end_all(pid: int, without: Iterable[int] = (), seconds: float = 10.0) -> bool:
    """Kill every process below `pid` and reap those that are its children; False if some are left after `seconds`."""
    deadline = time.monotonic() + seconds
    left_out = list(without)
    while True:
        alive = [child for child in descendants(pid, left_out) if not _zombie(child)]
        for child in alive:
            _kill(child)
        if pid == os.getpid():
            reap(left_out)
        if not alive:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def reap(without: Iterable[int] = ()) -> None:
    """Take the exit status of adopted children that have ended."""
    left_out = set(without)
    for child in children(os.getpid()):
        if child not in left_out:
            try:
                os.waitpid(child, os.WNOHANG)
            except ChildProcessError:
                continue


def step_aside(pids: Iterable[int]) -> None:
    """Have processes take only the time of the processors that others leave.

    Where the kernel schedules by sessions (sched(7), autogroup), niceness counts within a session only, and a new one begins at 0;
    so this is to be done again for what was started since.
    """
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            if os.getpriority(os.PRIO_PROCESS, pid) < LEAST:
                os.setpriority(os.PRIO_PROCESS, pid, LEAST)
        session = Path(f"/proc/{pid}/autogroup")
        with contextlib.suppress(OSError):  # or a kernel without sessions, or one that takes a change later only
            if not session.read_text().rstrip().endswith(f" {LEAST}"):
                session.write_text(str(LEAST))


def with_variable(name: str, value: str) -> list[int]:
    """Processes of this user that were started with an environment variable of this value."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                content = Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            if wanted in content.split(b"\0"):
                found.append(int(entry))
    return found


def kill_with_variable(name: str, value: str) -> None:
    """Kill every process that `with_variable` finds."""
    for pid in with_variable(name, value):
        _kill(pid)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; with the pid it names the process. None if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
