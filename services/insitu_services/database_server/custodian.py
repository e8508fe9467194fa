"""The first process of PostgreSQL's container: `custodian.py POSTGRES...` starts the server, stops it, gathers what ends.

Run as a file by a bare interpreter (`python -I -S`). A container is stopped by SIGTERM, by which PostgreSQL would wait for its clients
to leave for ever; what it needs is SIGINT. Not here: what the server is started with (__main__).
"""

import contextlib
import os
import signal
import sys

FAST_SHUTDOWN = signal.SIGINT  # roll back what is open and end in order (PostgreSQL's documentation, 18.5)


def main() -> None:
    """Start the server; end as it ends."""
    watched = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)  # before the start, so that none is lost
    server = os.fork()
    if server == 0:
        os.setpgid(0, 0)  # a terminal's Ctrl+C reaches this process only
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606
    while True:
        number = signal.sigwait(watched)
        if number == signal.SIGCHLD:
            _gather(server)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGQUIT if number == signal.SIGQUIT else FAST_SHUTDOWN)


def _gather(server: int) -> None:
    """Take note of every process that has ended, also of those whose parent is gone; end with the server."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            sys.exit(1)
        if pid == 0:
            return
        if pid == server:
            code = os.waitstatus_to_exitcode(status)
            sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
