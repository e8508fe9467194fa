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

from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.settings import Settings

from .association import Association

logger = logging.getLogger("insitu.receiver")

MOST_ASSOCIATIONS = 250  # of one process; more are told to try again later
RENEW_EVERY = 8.0  # seconds; a lease lasts 30
END_SECONDS = 0.7  # for those that were aborted, all together
DRAIN_SECONDS = 2.5  # for open associations when the process is asked to stop


class Worker:
    """One worker.

    Parameters
    ----------
    listener : socket
        Shared with the other workers, not blocking.
    parent : int
        Descriptor that becomes readable when the parent process is gone.
    settings : Settings
    """

    def __init__(self, listener: socket.socket, parent: int, settings: Settings) -> None:
        self._listener = listener
        self._parent = parent
        self._settings = settings
        self._database = Database(settings.database_dsn("receiver"), minimum=1, maximum=16)
        self._archive = Archive(self._database, FileBlobStore(settings.blobs), settings)
        self._open: dict[Association, threading.Thread] = {}
        self._lock = threading.Lock()
        self._wake_reader, self._wake_writer = os.pipe()

    def run(self) -> None:
        """Accept until SIGTERM comes or the parent is gone; then let open associations end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os.write(self._wake_writer, b"x"))
        renewal = threading.Thread(target=self._renew, name="renew", daemon=True)
        renewal.start()
        watched: list[socket.socket | int] = [self._listener, self._parent, self._wake_reader]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self._parent in ready or self._wake_reader in ready:
                break
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                continue  # another worker took it, or the peer has gone again
            except OSError as error:
                logger.error("a connection could not be accepted: %s", error.strerror)
                time.sleep(0.1)
                continue
            connection.setblocking(True)
            self._serve(connection, address[0])
        self._drain()
        self._archive.close()
        self._database.close()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        with self._lock:
            full = len(self._open) >= MOST_ASSOCIATIONS
        association = Association(connection, peer, self._settings, self._archive, full=full)

        def work() -> None:
            try:
                association.run()
            finally:
                with self._lock:
                    self._open.pop(association, None)

        thread = threading.Thread(target=work, name=f"association {peer}", daemon=True)
        with self._lock:
            self._open[association] = thread
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more threads; the associations that are open go on
            logger.error("a connection could not be served: %s", error)
            with self._lock:
                self._open.pop(association, None)
            connection.close()

    def _renew(self) -> None:
        while True:
            time.sleep(RENEW_EVERY)
            with self._lock:
                associations = list(self._open)
            for association in associations:
                try:
                    association.renew()
                except Exception:  # without this thread the leases of all would end
                    logger.exception("a lease could not be renewed")

    def _drain(self) -> None:
        self._listener.close()  # who comes now is refused at once instead of waiting for nobody
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._open and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._lock:
            left = dict(self._open)
        for association in left:
            association.end()
        ended = time.monotonic() + END_SECONDS
        for thread in left.values():
            thread.join(timeout=max(0.0, ended - time.monotonic()))
