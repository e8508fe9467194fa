"""Starts the platform's processes in a few milliseconds: everything is imported once, each process is a fork of this one.

`python -m tests.crash.spawner` reads one JSON object a line: {"service", "log", "environment", "control"}, and answers with the
process id. A process does what `python -m insitu_services.SERVICE` does. All end with this one's standard input.
Not here: PostgreSQL, which runs as another user (site).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import traceback

SERVICES = ("receiver", "api", "dispatcher")


def become(request: dict[str, object]) -> None:
    """Turn this fork into a service. Never returns."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDWR)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        attached = ctypes.CDLL(None).crash_attach(str(request["control"]).encode())
        assert attached == 0, "the preloaded library is not there"
        importlib.import_module(f"insitu_services.{request['service']}.__main__").main()
        status = 0
    except BaseException:  # noqa: BLE001  # a fork must never run on into the loop below
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Serve until standard input ends."""
    for name in SERVICES:
        importlib.import_module(f"insitu_services.{name}.__main__")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has ended is gone at once
    print("ready", flush=True)
    started = []
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            become(json.loads(line))
        started.append(pid)
        print(pid, flush=True)
    for pid in started:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == pid:  # else the number is another's by now
                os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
