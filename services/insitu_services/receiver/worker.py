"""A worker process: accepts connections from the shared port and serves each in a thread.

Not here: the association (association), the other workers (parent).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import psycopg

from insitu import life
from insitu.archive.blobs import blob_store
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.errors import InsituError
from insitu.settings import Settings

from . import commitment
from .association import Association
from .limit import Limit
from .secure import Handshake, Identity

logger = logging.getLogger("insitu.receiver")

MOST_REFUSALS = 250  # of one process that are under way; beyond them a connection is closed without a word
REPLACED = signal.SIGUSR1  # another worker takes what comes
STOP, LEAVE = b"s", b"l"
END_SECONDS = 0.7  # for those that were aborted, all together
HURRIED_SECONDS = 2.5  # for open associations where it is asked to stop again, or the parent is gone


class Worker:
    """One worker.

    Parameters
    ----------
    listeners : mapping
        Setting that names the address ("dicom", "dicom_tls") to socket, shared with the other workers, not blocking.
    parent : int
        Descriptor that becomes readable when the parent process is gone.
    settings : Settings
    limit : Limit
        Of associations, over all workers.
    """

    def __init__(self, listeners: Mapping[str, socket.socket], parent: int, settings: Settings, limit: Limit) -> None:
        self._listeners = listeners
        self._identity = Identity(settings) if "dicom_tls" in listeners else None
        self._parent = parent
        self._settings = settings
        self._database = Database(
            settings.database_dsn("receiver"), minimum=1, maximum=16,
            patience=settings.database_patience, statement_seconds=settings.database_patience,
        )  # fmt: skip
        self._archive = Archive(self._database, blob_store(settings), settings)
        self._limit = limit
        self._refusals = threading.Semaphore(MOST_REFUSALS)
        self._open: dict[Association | Handshake, threading.Thread] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._signed = False
        self._wake_reader, self._wake_writer = os.pipe()

    def run(self, accepting: Callable[[], object] = lambda: None) -> None:
        """Accept until a signal comes or the parent is gone; then let open associations end.

        SIGTERM and SIGINT give them as long as `stop_seconds` says, a second one only a moment; `REPLACED` as `drain_seconds` says.

        Parameters
        ----------
        accepting : callable
            Called when it begins to accept.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os.write(self._wake_writer, STOP))
        signal.signal(REPLACED, lambda *_: os.write(self._wake_writer, LEAVE))
        renewal = threading.Thread(target=self._renew, name="renew", daemon=True)
        renewal.start()
        reporter = threading.Thread(
            target=commitment.keep_telling, args=(self._settings, self._database), name="commitment", daemon=True
        )
        reporter.start()
        accepting()
        watched: list[socket.socket | int] = [*self._listeners.values(), self._parent, self._wake_reader]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self._parent in ready or self._wake_reader in ready:
                break
            for name, listener in self._listeners.items():
                if listener in ready:
                    self._accept(listener, secure=name == "dicom_tls")
        for listener in self._listeners.values():
            listener.close()  # who comes now is served by another worker, or refused at once where there is none
        seconds = HURRIED_SECONDS
        if self._parent not in ready:
            leave = os.read(self._wake_reader, 1) == LEAVE
            seconds = self._settings.drain_seconds if leave else self._settings.seconds_to_stop
        self._drain(seconds)
        self._ended.set()
        if self._signed:  # else the database is away, and would be waited for
            with suppress(InsituError, psycopg.OperationalError), self._database.transaction() as connection:
                life.end(connection, "receiver")
        self._archive.close()
        self._database.close()

    def _accept(self, listener: socket.socket, *, secure: bool) -> None:
        try:
            connection, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker took it, or the peer has gone again
        except OSError as error:
            logger.error("a connection could not be accepted: %s", error.strerror)
            time.sleep(0.1)
            return
        connection.setblocking(True)
        self._serve(connection, address[0], secure=secure)

    def _serve(self, connection: socket.socket, peer: str, *, secure: bool) -> None:
        leave = self._limit.give_back
        full = not self._limit.take()
        if full:
            leave = self._refusals.release
            if not self._refusals.acquire(blocking=False):
                connection.close()
                return
        first: Association | Handshake
        if secure and self._identity is not None:
            first = Handshake(connection, peer, self._identity)
        else:
            first = Association(connection, peer, self._settings, self._archive, full=full)

        def work() -> None:
            served = first
            try:
                if isinstance(served, Handshake):
                    plug = served.run(self._settings.association_timeout)
                    if plug is None:
                        return
                    handshake, served = (
                        served,
                        Association(plug, peer, self._settings, self._archive, full=full, certificate=plug.certificate),
                    )
                    with self._lock:
                        self._open[served] = self._open.pop(handshake)
                served.run()
            finally:
                with self._lock:
                    self._open.pop(served, None)
                leave()

        thread = threading.Thread(target=work, name=f"association {peer}", daemon=True)
        with self._lock:
            self._open[first] = thread
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more threads; the associations that are open go on
            logger.error("a connection could not be served: %s", error)
            with self._lock:
                self._open.pop(first, None)
            leave()
            connection.close()

    def _renew(self) -> None:
        """Give signs of life, this process's and those of what is open: a lease lasts 30 s."""
        while not self._ended.is_set():
            with self._lock:
                associations = list(self._open)
            try:
                self._signed = False
                with self._database.transaction() as connection:
                    life.sign(
                        connection, "receiver", associations=len(associations), silent_at=self._database.silent_at
                    )
                self._signed = True
            except (InsituError, psycopg.OperationalError) as error:
                logger.warning("a sign of life could not be given: %s", str(error).strip())
            except Exception:  # without this thread the leases of all would end
                logger.exception("a sign of life could not be given")
            for association in associations:
                try:
                    association.renew()
                except Exception:  # the others go on
                    logger.exception("a lease could not be renewed")
            self._ended.wait(life.EVERY)

    def _drain(self, seconds: float) -> None:
        """Let open associations end for a while, a shorter one where a stop comes or the parent goes meanwhile."""
        deadline = time.monotonic() + seconds
        hurried = seconds <= HURRIED_SECONDS
        while self._open and time.monotonic() < deadline:
            if hurried:
                time.sleep(0.02)
                continue
            ready: list[int] = select.select([self._parent, self._wake_reader], [], [], 0.2)[0]
            if self._parent in ready or (ready and os.read(self._wake_reader, 1) == STOP):
                hurried = True
                deadline = min(deadline, time.monotonic() + HURRIED_SECONDS)
        with self._lock:
            left = dict(self._open)
        for association in left:
            association.end()
        ended = time.monotonic() + END_SECONDS
        for thread in left.values():
            thread.join(timeout=max(0.0, ended - time.monotonic()))
