"""The receiver's parent process: binds the DICOM port once, forks the workers, replaces those that die.

It opens no database and serves no association, so that a fork copies nothing that must not be copied.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time

from insitu.errors import Unavailable
from insitu.settings import Settings

from .negotiation import networks

logger = logging.getLogger("insitu.receiver")

BACKLOG = 512
SHORTEST_PAUSE, LONGEST_PAUSE = (
    0.1,
    10.0,
)  # seconds before a worker that died is replaced; doubled while they keep dying
STEADY = 30.0  # seconds after which a worker counts as healthy
STOP_SECONDS = 3.7  # longer than a worker takes to drain, shorter than the supervisor's patience


def listen(address: str) -> socket.socket:
    """A socket that listens on HOST:PORT.

    Raises
    ------
    Unavailable
        The port is in use or not ours to take.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listener.close()
        raise Unavailable(
            "The DICOM port cannot be opened", value=address, why=str(error.strerror),
            remedy="Stop the program that has it, or choose another with --dicom HOST:PORT",
        ) from error  # fmt: skip
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


class Parent:
    """Keeps `settings.receiver_processes` workers alive.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        networks(settings.peers_allowed)  # a mistake there is told now, not to every peer
        self._settings = settings
        self._listener = listen(settings.dicom)
        # The workers hold the reading end only: it ends when this process does, however that comes.
        self._alive_reader, self._alive_writer = os.pipe()
        self._workers: dict[int, float] = {}
        self._pause = SHORTEST_PAUSE
        self._stopping = False

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; every worker has ended when this returns."""
        # Blocked and waited for, so that none is lost between two looks; the workers unblock them.
        watched = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        for _ in range(self._settings.receiver_processes):
            self._fork()
        logger.info("ready", extra={"fields": {"address": self._settings.dicom, "processes": len(self._workers)}})
        while True:
            missing = self._settings.receiver_processes - len(self._workers)
            received = signal.sigtimedwait(watched, self._pause if missing else 3600)
            if received is not None and received.si_signo != signal.SIGCHLD:
                break
            self._reap()
            if received is None:
                for _ in range(missing):
                    self._fork()
        self._stop()

    def _fork(self) -> None:
        pid = os.fork()
        if pid:
            self._workers[pid] = time.monotonic()
            return
        status = 1
        try:
            os.close(self._alive_writer)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
            from .worker import Worker

            Worker(self._listener, self._alive_reader, self._settings).run()
            status = 0
        except Exception:  # a worker must never run on into the parent's code
            logger.exception("a worker failed")
        finally:
            os._exit(status)

    def _reap(self) -> None:
        """Note the workers that have ended; one that did not last makes the next wait."""
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            began = self._workers.pop(pid, None)
            if began is None:
                continue
            lasted = time.monotonic() - began
            logger.warning("worker %d ended (%s) after %.0f s", pid, os.waitstatus_to_exitcode(status), lasted)
            self._pause = SHORTEST_PAUSE if lasted > STEADY else min(LONGEST_PAUSE, 2 * self._pause)

    def _stop(self) -> None:
        self._listener.close()
        for pid in self._workers:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._workers and time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                self._workers.pop(pid, None)
            else:
                time.sleep(0.02)
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
