"""Cutting off conversations with a database server that has fallen silent, so that nobody waits for ever.

A server that is stopped, or hangs on its disk, keeps its connections open and says nothing; so does a single backend of a
server that lives. No time-out of its own helps then. Not here: giving connections out (pool), and slow statements of a
server that lives (`statement_timeout`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import psycopg

logger = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_EVERY = 0.5  # seconds
PROBE_SECONDS = 5  # given to a new connection
GRACE = 2.0  # seconds a server gets to end a statement by its own clock
READ_SECONDS = 0.1  # given to a thread of ours to read what has come


class Watched(psycopg.Connection[dict[str, Any]]):
    """A connection that knows since when it waits for the server."""

    waits_since: float | None = None  # monotonic

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait for the server, as every statement and commit does."""
        self.waits_since = time.monotonic()
        try:
            return super().wait(gen, *arguments, **options)
        finally:
            self.waits_since = None


class Patience:
    """Watches connections and cuts one off that waits for longer than `seconds`, where that is the server's fault.

    It is where the server takes no new connection either; where it says that the backend does nothing; and where the
    backend works on a statement beyond `statement_seconds`, after which the server should have ended it.

    Parameters
    ----------
    dsn : str
        libpq connection string.
    seconds : float
    statement_seconds : float, optional
        `statement_timeout` of the connections; none where they have none.
    """

    def __init__(self, dsn: str, seconds: float, statement_seconds: float | None = None) -> None:
        self._dsn = dsn
        self._seconds = seconds
        self._statement_seconds = statement_seconds
        self._lock = threading.Lock()
        self._watched: dict[Watched, int] = {}  # with a descriptor of our own, which stays this connection's
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self.alone: float | None = (
            None  # when a backend was cut off last while the server lived, seconds since the epoch
        )

    def watch(self, connection: Watched) -> None:
        """Watch a new connection."""
        with self._lock:
            self._watched[connection] = os.dup(connection.fileno())
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="patience", daemon=True)
                self._thread.start()

    def forget(self, connection: Watched) -> None:
        """Watch a connection no more."""
        with self._lock:
            descriptor = self._watched.pop(connection, None)
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_EVERY):
            try:
                self._look()
            except Exception:  # without this thread everybody may wait for ever
                logger.exception("silent connections could not be looked for")

    def _look(self) -> None:
        late = {each: since for each in self._all() if (since := self._late(each)) is not None}
        if not late:
            return
        states = self._states(late)
        time.sleep(READ_SECONDS)
        now = time.monotonic()
        ended = 0
        with self._lock:
            for connection, since in late.items():
                descriptor = self._watched.get(connection)
                if descriptor is None or connection.waits_since != since or readable(descriptor):
                    continue  # it has got its answer meanwhile
                if states is None or self._stuck(states.get(connection.info.backend_pid), now - since):
                    cut(descriptor)
                    ended += 1
        if ended and states is None:
            logger.error("the database has fallen silent: %d connections that waited for it were cut off", ended)
        elif ended:
            self.alone = time.time()
            logger.error("%d processes of the database have fallen silent: their connections were cut off", ended)

    def _all(self) -> list[Watched]:
        with self._lock:
            return list(self._watched)

    def _late(self, connection: Watched) -> float | None:
        """Since when a connection waits, where that is too long."""
        since = connection.waits_since
        return since if since is not None and time.monotonic() - since > self._seconds else None

    def _stuck(self, state: str | None, waited: float) -> bool:
        """Whether the server is to blame for a wait, by what it says of the backend; no state where it has none such."""
        if state in ("active", "fastpath function call", "disabled"):
            return self._statement_seconds is not None and waited > self._statement_seconds + GRACE
        return True

    def _states(self, late: Iterable[Watched]) -> Mapping[int, str] | None:
        """State of the backends by their number, as the server tells it; None where it does not answer."""
        pids = [connection.info.backend_pid for connection in late]
        try:
            with psycopg.connect(
                self._dsn, connect_timeout=PROBE_SECONDS, options=f"-c statement_timeout={PROBE_SECONDS * 1000}"
            ) as probe:
                rows = probe.execute(
                    "SELECT pid, coalesce(state, 'disabled') FROM pg_stat_activity WHERE pid = ANY (%s)", (pids,)
                ).fetchall()
        except psycopg.OperationalError as error:
            # One that speaks, if only to refuse (too many connections, starting), ends its conversations itself.
            return None if error.sqlstate is None else dict.fromkeys(pids, "disabled")
        return dict(rows)


def readable(descriptor: int) -> bool:
    """Whether something, or the end, can be read without waiting."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def cut(descriptor: int) -> None:
    """End the conversation on a socket; who waits for it is told."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
