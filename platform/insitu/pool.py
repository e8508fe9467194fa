"""Connections to PostgreSQL, kept open and given out one at a time.

A new connection is made by the thread that needs one and tried for again at once while PostgreSQL is away, so that it is there
as soon as PostgreSQL is, and the reason why not is that thread's to tell. Not here: transactions (database).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from .patience import Patience, Watched, readable

CONNECT_SECONDS = 5  # for one attempt
TRY_EVERY = 0.25  # seconds between two attempts
IDLE_SECONDS = 600.0  # after which a connection more than the minimum is closed
OLDEST = 3600.0  # seconds after which a connection is replaced: a backend's memory only grows


class NoConnection(Exception):
    """None could be had in time; the text says why."""


class Pool:
    """At most `maximum` connections, outside a transaction.

    Parameters
    ----------
    dsn : str
        libpq connection string.
    minimum, maximum : int
        Connections kept open once they are, and at most opened.
    patience : Patience
        Watches them.
    options : mapping
        Of every connection.
    """

    def __init__(self, dsn: str, minimum: int, maximum: int, patience: Patience, options: dict[str, Any]) -> None:
        self._dsn = dsn
        self._minimum = minimum
        self._patience = patience
        self._options = options
        self._lock = threading.Lock()
        self._free = maximum  # connections that may be given out beside those that are
        self._waiting: deque[threading.Event] = deque()  # for one of them, the first who came first
        self._idle: deque[tuple[Watched, float]] = deque()  # and since when, the least used first
        self._born: dict[Watched, float] = {}
        self._closed = False

    def take(self, seconds: float) -> Watched:
        """A connection that is alive as far as can be told without asking; `give_back` it.

        Raises
        ------
        NoConnection
            None was to be had within `seconds`.
        """
        deadline = time.monotonic() + seconds
        self._acquire(seconds)
        try:
            while (connection := self._kept()) is not None:
                # An idle server says nothing: what can be read is its end, or its last words.
                if not readable(connection.fileno()):
                    return connection
                self._discard(connection)
            return self._connect(deadline)
        except BaseException:
            self._release()
            raise

    def give_back(self, connection: Watched) -> None:
        """Take a connection back; it is kept unless it is broken or old."""
        now = time.monotonic()
        unused: list[Watched] = []
        with self._lock:
            healthy = not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE
            if healthy and not self._closed and now - self._born[connection] < OLDEST:
                self._idle.append((connection, now))
            else:
                unused.append(connection)
            while len(self._idle) > self._minimum and now - self._idle[0][1] > IDLE_SECONDS:
                unused.append(self._idle.popleft()[0])
        for each in unused:
            self._discard(each)
        self._release()

    def close(self) -> None:
        """Close what is idle now, and what is given out when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, deque()
        for connection, _ in idle:
            self._discard(connection)

    def _acquire(self, seconds: float) -> None:
        with self._lock:
            if self._closed:
                raise NoConnection("it is closed")
            if self._free:
                self._free -= 1
                return
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(seconds):
            return
        with self._lock:
            if turn.is_set():  # at the last moment
                return
            self._waiting.remove(turn)
        raise NoConnection("every connection is in use")

    def _release(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1

    def _kept(self) -> Watched | None:
        with self._lock:
            return self._idle.pop()[0] if self._idle else None

    def _connect(self, deadline: float) -> Watched:
        while True:
            try:
                connection = Watched.connect(
                    self._dsn, autocommit=True, row_factory=dict_row, connect_timeout=CONNECT_SECONDS, **self._options
                )
            except psycopg.OperationalError as error:
                silent = isinstance(error, psycopg.errors.ConnectionTimeout)
                if silent or time.monotonic() + TRY_EVERY > deadline:
                    raise NoConnection(str(error).strip()) from error
                time.sleep(TRY_EVERY)
                continue
            self._patience.watch(connection)
            with self._lock:
                self._born[connection] = time.monotonic()
            return connection

    def _discard(self, connection: Watched) -> None:
        self._patience.forget(connection)
        with self._lock:
            self._born.pop(connection, None)
        with contextlib.suppress(psycopg.Error):
            connection.close()
