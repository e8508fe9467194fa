"""Cutting off conversations with a database server that has fallen silent, so that nobody waits for ever.

A server that is stopped, or hangs on its disk, keeps its connections open and says nothing; no time-out of its own helps then.
Not here: the pool of connections (database), and slow statements of a server that lives (`statement_timeout`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator

import psycopg

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5  # seconds
PROBE_SECONDS = 5  # given to a new connection


class Patience:
    """Watches transactions; one that is older than `seconds` is cut off where the server takes no new connection either.

    Parameters
    ----------
    dsn : str
        libpq connection string.
    seconds : float
    """

    def __init__(self, dsn: str, seconds: float) -> None:
        self._dsn = dsn
        self._seconds = seconds
        self._lock = threading.Lock()
        self._watched: dict[int, float] = {}  # a descriptor of our own for the connection -> when it is looked at
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextlib.contextmanager
    def over(self, connection: psycopg.Connection[object]) -> Iterator[None]:
        """Watch a connection while the block goes on."""
        descriptor = os.dup(connection.fileno())  # stays this connection's, also when the connection closes meanwhile
        with self._lock:
            self._watched[descriptor] = time.monotonic() + self._seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="patience", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(descriptor, None)
                os.close(descriptor)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_EVERY):
            now = time.monotonic()
            with self._lock:
                late = [descriptor for descriptor, until in self._watched.items() if until <= now]
            if not late:
                continue
            answers = self._answers()
            with self._lock:
                now = time.monotonic()
                for descriptor, until in list(self._watched.items()):
                    if until > now:
                        continue
                    self._watched[descriptor] = now + self._seconds
                    if not answers:
                        _cut(descriptor)
            if not answers:
                logger.error("the database has fallen silent: what waited for it was cut off")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._dsn, connect_timeout=PROBE_SECONDS).close()
        except psycopg.OperationalError as error:
            # One that speaks, if only to refuse (too many connections, starting), ends its conversations itself.
            return error.sqlstate is not None
        return True


def _cut(descriptor: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
