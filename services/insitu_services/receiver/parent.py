"""The receiver's parent process: binds the DICOM ports once, forks the workers, replaces those that die or are outdated.

It opens no database and serves no association, so that a fork copies nothing that must not be copied. On SIGHUP it becomes
the program and the settings that are there by then (exec), keeping its ports and its process number; new workers take what
comes, the earlier ones end when their associations have ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time

from insitu.errors import Unavailable
from insitu.settings import Settings
from insitu_services.dicom_tls import server_context

from .limit import WORKERS, Counts, Limit
from .negotiation import networks
from .worker import HURRIED_SECONDS, REPLACED, Worker

logger = logging.getLogger("insitu.receiver")

BACKLOG = 512
SHORTEST_PAUSE, LONGEST_PAUSE = (
    0.1,
    10.0,
)  # seconds before a worker that died is replaced; doubled while they keep dying
STEADY = 30.0  # seconds after which a worker counts as healthy
END_SECONDS = (
    1.2  # more than a worker takes to end after its associations; with those less than the supervisor's patience
)
BEGIN_SECONDS = 60.0  # until a new worker accepts; until then none is taken away
PORTS = ("dicom", "dicom_tls")  # the settings that name an address
INHERIT = "--inherit"
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}


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
    inherited : str, optional
        What the same process was before an exec, as `_inheritance` wrote it.

    Raises
    ------
    InsituError
        A port cannot be opened, a setting or a certificate is not usable.
    """

    def __init__(self, settings: Settings, inherited: str | None = None) -> None:
        check(settings)
        self._settings = settings
        before = json.loads(inherited) if inherited else {}
        self._listeners: dict[str, socket.socket] = {}
        self._addresses: dict[str, str] = {}
        for name in PORTS:
            address: str | None = getattr(settings, name)
            earlier = before.get("ports", {}).get(name)
            if earlier is not None and earlier[0] != address:
                os.close(earlier[1])
                earlier = None
            if address is not None:
                self._addresses[name] = address
                self._listeners[name] = listen(address) if earlier is None else socket.socket(fileno=earlier[1])
        # The workers hold the reading end only: it ends when this process does, however that comes.
        alive: tuple[int, int] = before.get("alive") or os.pipe()
        self._alive_reader, self._alive_writer = alive
        self._counts = Counts(before.get("counts"))
        self._places = {int(pid): place for pid, place in before.get("places", {}).items()}
        self._inheritable(False)
        self._workers: dict[int, float] = {}
        self._outdated: set[int] = set(before.get("workers", ()))
        self._leaving: set[int] = set(before.get("leaving", ()))
        self._pause = SHORTEST_PAUSE

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; every worker has ended when this returns."""
        # Blocked and waited for, so that none is lost between two looks; the workers unblock them.
        watched = STOP_SIGNALS | {signal.SIGCHLD, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        replacing = bool(self._outdated)
        for _ in range(self._settings.receiver_processes):
            if self._fork() and self._outdated:
                self._send_away(self._outdated.pop())
        if len(self._workers) == self._settings.receiver_processes:
            while self._outdated:
                self._send_away(self._outdated.pop())
        logger.info(
            "replaced" if replacing else "ready",
            extra={"fields": {**self._addresses, "processes": len(self._workers)}},
        )
        while True:
            self._reap()
            missing = self._settings.receiver_processes - len(self._workers)
            received = signal.sigtimedwait(watched, self._pause if missing > 0 else 3600)
            if received is not None and received.si_signo == signal.SIGHUP:
                self._become_new()
            elif received is not None and received.si_signo != signal.SIGCHLD:
                break
            elif received is None:
                for _ in range(missing):
                    if self._fork() and self._outdated:
                        self._send_away(self._outdated.pop())
        self._stop()

    def _fork(self) -> bool:
        """Start a worker; whether it has begun to accept."""
        place = next((place for place in range(WORKERS) if place not in self._places.values()), None)
        if place is None:
            logger.error("no worker is started while so many earlier ones end with their last associations")
            return False
        self._counts.wipe(place)
        begun_reader, begun_writer = os.pipe()
        pid = os.fork()
        if pid:
            os.close(begun_writer)
            self._workers[pid] = time.monotonic()
            self._places[pid] = place
            ready, _, _ = select.select([begun_reader], [], [], BEGIN_SECONDS)
            begun = bool(ready) and os.read(begun_reader, 1) != b""
            os.close(begun_reader)
            return begun
        status = 1
        try:
            os.close(begun_reader)
            os.close(self._alive_writer)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP})
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # for the parent; a terminal's would reach all

            def accepting() -> None:
                os.write(begun_writer, b"x")
                os.close(begun_writer)

            limit = Limit(self._counts, place, self._settings.associations_at_once)
            Worker(self._listeners, self._alive_reader, self._settings, limit).run(accepting)
            status = 0
        except Exception:  # a worker must never run on into the parent's code
            logger.exception("a worker failed")
        finally:
            os._exit(status)

    def _become_new(self) -> None:
        """Go on as the program and the settings that are there now; where they do not work, as before."""
        trial = subprocess.run(
            [sys.executable, "-m", "insitu_services.receiver", "--check"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if trial.returncode != 0:
            last = trial.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            logger.error("the receiver is not replaced, because the new one would not start: %s", last[0])
            return
        self._inheritable(True)
        logger.info("replacing the workers")
        inheritance = json.dumps(
            {
                "ports": {name: [self._addresses[name], port.fileno()] for name, port in self._listeners.items()},
                "alive": [self._alive_reader, self._alive_writer],
                "counts": self._counts.descriptor,
                "places": self._places,
                "workers": [*self._workers, *self._outdated],
                "leaving": list(self._leaving),
            }
        )
        os.execv(sys.executable, [sys.executable, "-m", "insitu_services.receiver", INHERIT, inheritance])  # noqa: S606

    def _inheritable(self, value: bool) -> None:
        """Whether an exec keeps what the workers of before and after share."""
        ports = [port.fileno() for port in self._listeners.values()]
        for descriptor in (self._alive_reader, self._alive_writer, self._counts.descriptor, *ports):
            os.set_inheritable(descriptor, value)

    def _send_away(self, pid: int) -> None:
        """Let a worker of before take nothing new and end with its last association."""
        self._leaving.add(pid)
        try:
            os.kill(pid, REPLACED)
        except ProcessLookupError:
            self._leaving.discard(pid)

    def _reap(self) -> None:
        """Note the workers that have ended; one that did not last makes the next wait."""
        while self._workers or self._outdated or self._leaving:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._outdated.clear()
                self._leaving.clear()
                break
            if pid == 0:
                break
            place = self._places.pop(pid, None)
            if place is not None:
                self._counts.wipe(place)
            if pid in self._leaving or pid in self._outdated:
                self._leaving.discard(pid)
                self._outdated.discard(pid)
                logger.info("worker %d, which was replaced, has ended", pid)
                continue
            began = self._workers.pop(pid, None)
            if began is None:
                continue
            lasted = time.monotonic() - began
            logger.warning("worker %d ended (%s) after %.0f s", pid, os.waitstatus_to_exitcode(status), lasted)
            self._pause = SHORTEST_PAUSE if lasted > STEADY else min(LONGEST_PAUSE, 2 * self._pause)

    def _stop(self) -> None:
        """Close the ports and let the workers end; a second request makes them hurry."""
        for listener in self._listeners.values():
            listener.close()
        left = {*self._workers, *self._outdated, *self._leaving}
        logger.info("ending", extra={"fields": {"associations": self._counts.total()}})
        _signal(left, signal.SIGTERM)
        deadline = time.monotonic() + self._settings.seconds_to_stop + END_SECONDS
        while left and time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                left.discard(pid)
            elif (
                again := signal.sigtimedwait(STOP_SIGNALS | {signal.SIGCHLD}, 0.2)
            ) and again.si_signo in STOP_SIGNALS:
                _signal(left, signal.SIGTERM)
                deadline = min(deadline, time.monotonic() + HURRIED_SECONDS + END_SECONDS)
        _signal(left, signal.SIGKILL)


def _signal(workers: set[int], number: int) -> None:
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def check(settings: Settings) -> None:
    """See that a receiver with these settings would start; a mistake is told now, not to every peer.

    Raises
    ------
    InsituError
        It would not.
    """
    networks(settings.peers_allowed)
    if settings.dicom_tls is not None:
        server_context(settings)
