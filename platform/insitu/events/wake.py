"""Waking the dispatcher: a PostgreSQL notification, sent apart from the store transaction and at most every 100 ms.

Not here: the events themselves (table series_event), which are complete without any notification.
"""

from __future__ import annotations

import logging
import select
import threading
import time

import psycopg

logger = logging.getLogger(__name__)

CHANNEL = "insitu_work"
INTERVAL = 0.1  # seconds between two notifications of one process


class Waker:
    """Sends notifications from its own thread and connection, so that a commit on the hot path never waits for one."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._asked = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()

    def wake(self) -> None:
        """Ask for a notification. Returns at once; calls within 100 ms become one."""
        if self._thread is None:
            with self._start:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
                    self._thread.start()
        self._asked.set()

    def close(self) -> None:
        """Send what was asked for and end the thread."""
        self._closed = True
        self._asked.set()
        if self._thread:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        connection: psycopg.Connection[tuple[object, ...]] | None = None
        while True:
            self._asked.wait()
            self._asked.clear()
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=5)
                connection.execute(f"NOTIFY {CHANNEL}")
            except psycopg.OperationalError:
                # The dispatcher also looks by itself once a second: a lost notification only costs time.
                logger.warning("a wake-up could not be sent")
                connection = None
            if self._closed:
                break
            time.sleep(INTERVAL)
        if connection is not None:
            connection.close()


class Listener:
    """Waits for notifications.

    Parameters
    ----------
    dsn : str
        libpq connection string.
    """

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, connect_timeout=10)
        self._connection.execute(f"LISTEN {CHANNEL}")

    def wait(self, seconds: float, also: int | None = None) -> bool:
        """Return when a notification came or descriptor `also` is readable (True) or `seconds` have passed (False).

        Raises
        ------
        psycopg.OperationalError
            The connection is gone; make a new listener.
        """
        watched = [self._connection.fileno()] + ([also] if also is not None else [])
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if not ready:
            return False
        for _ in self._connection.notifies(timeout=0):
            pass  # several notifications are one wake-up
        return True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
