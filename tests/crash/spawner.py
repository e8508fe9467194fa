"""Starts the processes of a site, and ends all of them when the harness ends, however it ends.

`python -m tests.crash.spawner FOLDER` reads one JSON object a line: {"service", "log", "environment", "control"} for one of the
platform's services, which is a fork of this process, where everything is imported, and does what `python -m insitu_services.SERVICE`
does; or {"command", "user", "log", "environment"} for a program. It answers with the process id. When standard input ends, because it
was closed or the harness was killed, everything that was started is killed with all below it, and FOLDER is removed.
Not here: what is started when (site).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from typing import Any

import psutil

SERVICES = ("receiver", "api", "dispatcher")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
MNT_DETACH = 2  # umount2(2)


def tie() -> None:
    """Be killed when the parent is."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def become(request: dict[str, Any]) -> None:
    """Turn this fork into what is asked for. Never returns."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDWR)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        if request.get("user") is not None:
            os.setgroups([])
            os.setgid(request["user"][1])
            os.setuid(request["user"][0])
        tie()  # a change of user would have undone it
        if "command" in request:
            os.execve(request["command"][0], request["command"], request["environment"])  # noqa: S606
        os.environ.update(request["environment"])
        attached = ctypes.CDLL(None).crash_attach(request["control"].encode())
        assert attached == 0, "the preloaded library is not there"
        importlib.import_module(f"insitu_services.{request['service']}.__main__").main()
        status = 0
    except BaseException:  # noqa: BLE001  a fork must never run on into the loop below
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


def end() -> None:
    """Kill everything that was started and lives, with all below it; it may stand still."""
    for _ in range(100):
        mine = [child for child in psutil.Process().children(recursive=True) if lives(child)]
        if not mine:
            return
        for process in mine:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.02)


def lives(process: psutil.Process) -> bool:
    """Whether a process has not ended; it may do so between two questions about it."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def unmount(folder: str) -> None:
    """Take away the disks that were mounted below a folder (tests.disks)."""
    with open("/proc/self/mounts") as stream:
        mounted = [line.split()[1] for line in stream]
    for path in mounted:
        if path.startswith(folder + "/"):
            ctypes.CDLL(None).umount2(path.encode(), MNT_DETACH)


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it comes to the harness, too, which ends this one
    for name in SERVICES:
        importlib.import_module(f"insitu_services.{name}.__main__")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has ended is gone at once
    # Whose parent is gone becomes a child of this process: so all are known by descent, and no number has to be remembered,
    # which may be another process's by then.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            become(json.loads(line))
        with contextlib.suppress(BrokenPipeError):
            print(pid, flush=True)
    end()
    unmount(sys.argv[1])
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
