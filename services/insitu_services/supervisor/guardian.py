"""Ends the platform's processes and all their descendants when the supervisor is gone: `guardian.py < PIPE`.

The supervisor holds the pipe's other end and writes `watch SESSION TICKS SIGNAL` and `forget SESSION`; the end of the
pipe means that it died, however it died. Run as a file by a bare interpreter (`python -I -S`), so that it stays small.
Not here: the orderly end, which the supervisor sees to itself.
"""

import os
import signal
import sys
import time

PATIENCE = 5.0  # seconds between the signal and SIGKILL


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None if it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def members(session: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.getsid(int(entry)) == session and start_ticks(int(entry)) is not None:
                    found.append(int(entry))
            except OSError:
                continue
    return found


def send(pid: int, number: int) -> None:
    """Signal a process that may be gone."""
    try:
        os.kill(pid, number)
    except OSError:
        return


def end(watched: dict[int, tuple[int, int]]) -> None:
    """End every watched session: its own signal to the leader, SIGKILL to whatever is left."""
    mine = {s: v for s, v in watched.items() if start_ticks(s) in (v[0], None)}
    for session, (ticks, number) in mine.items():
        if start_ticks(session) == ticks:
            send(session, number)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and any(start_ticks(s) == v[0] for s, v in mine.items()):
        time.sleep(0.05)
    for session in mine:
        for pid in members(session):
            send(pid, signal.SIGKILL)


def main() -> None:
    """Read from the pipe until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: dict[int, tuple[int, int]] = {}
    for line in sys.stdin:
        word, session, *rest = line.split()
        if word == "watch":
            watched[int(session)] = (int(rest[0]), int(rest[1]))
        else:
            watched.pop(int(session), None)
    end(watched)


if __name__ == "__main__":
    main()
