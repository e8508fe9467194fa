"""The threads that exchange objects with nodes: they claim transfers and retrievals, so that no peer can hold up the dispatcher.

One thread looks for work, woken as the dispatcher is, and keeps the leases; each claim is carried by a thread of its own.
Not here: carrying it (transfers, retrievals).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import psycopg

from insitu.database import Database
from insitu.errors import InsituError
from insitu.events.wake import Listener
from insitu.nodes import leases
from insitu.nodes.leases import Claim, Table
from insitu.settings import Settings

logger = logging.getLogger("insitu.dispatcher")

LONGEST_WAIT = 10.0  # seconds; leases are renewed as often
END_SECONDS = 5.0  # that a thread gets to end its object when the process stops


class Exchange:
    """The exchange of one dispatcher process. Several processes share the work by leases.

    Parameters
    ----------
    settings : Settings
    database : Database
        A pool of its own, with a connection per thread and one more.
    carriers : mapping of str to callable
        What carries a claim, by table.
    stopping : threading.Event
        The one the carriers watch.
    is_peak : callable, optional
        Whether off-peak retrievals have to wait now.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        carriers: Mapping[Table, Callable[[Claim], None]],
        stopping: threading.Event,
        is_peak: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._database = database
        self._carriers = carriers
        self._is_peak = is_peak
        self._stopping = stopping
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="exchange", daemon=True)

    def start(self) -> None:
        """Begin to look for work."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no further object, and wait a little for those on their way; what is left is done after the next start."""
        self._stopping.set()
        self._nudge()
        deadline = time.monotonic() + END_SECONDS
        self._thread.join(END_SECONDS)
        with self._lock:
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _nudge(self) -> None:
        with suppress(OSError):
            os.write(self._writer, b"x")

    def _run(self) -> None:
        listener: Listener | None = None
        while not self._stopping.is_set():
            wait = self._turn()
            try:
                if listener is None:
                    listener = Listener(self._database.dsn)
                    continue  # what was queued before it listened is seen by another turn
                listener.wait(wait, also=self._reader)
            except psycopg.OperationalError:
                logger.warning("the exchange waits: the database does not answer")
                if listener is not None:
                    listener.close()
                listener = None
                self._stopping.wait(1.0)
            with suppress(BlockingIOError):
                os.read(self._reader, 1 << 10)
        if listener is not None:
            listener.close()

    def _turn(self) -> float:
        """Keep the leases, claim what is due; seconds until something is due again."""
        try:
            if time.monotonic() - self._renewed >= leases.RENEW_EVERY / 2:
                self._renew()
            for table in self._carriers:
                while self._free() and self._claim(table):
                    pass
            return self._until_next()
        except (InsituError, psycopg.OperationalError) as error:
            logger.warning("the exchange waits: %s", type(error).__name__)
        except Exception:  # the exchange must outlive one bad row
            logger.exception("the exchange failed")
        return 1.0

    def _renew(self) -> None:
        with self._lock:
            held = list(self._threads)
        if held:
            with self._database.transaction() as connection:
                leases.renew(connection, held)
        self._renewed = time.monotonic()

    def _free(self) -> bool:
        with self._lock:
            return len(self._threads) < self._settings.transfers_at_once and not self._stopping.is_set()

    def _claim(self, table: Table) -> bool:
        limit = leases.TOGETHER if table == "transfer" else 1
        with self._database.transaction() as connection:
            work = leases.claim(connection, table, peak=self._is_peak(), limit=limit)
        if work is None:
            return False
        thread = threading.Thread(target=self._carry, args=(work,), name=f"to {work.node}", daemon=True)
        with self._lock:
            self._threads[work.lease] = thread
        thread.start()
        return True

    def _carry(self, work: Claim) -> None:
        try:
            self._carriers[work.table](work)
        except (InsituError, psycopg.OperationalError) as error:
            logger.error("work for %s was left: %s", work.node, type(error).__name__)
        except Exception:  # one peer must not end the others' threads
            logger.exception("work for %s failed", work.node)
        finally:
            with self._lock:
                self._threads.pop(work.lease, None)
            self._nudge()

    def _until_next(self) -> float:
        if not self._free():
            return LONGEST_WAIT / 2  # a thread that ends wakes us
        soonest = LONGEST_WAIT / 2
        with self._database.transaction() as connection:
            for table in self._carriers:
                seconds = leases.seconds_to_next(connection, table)
                if seconds is not None:
                    # What is due but whose node is busy waits for the thread that ends, which wakes us.
                    soonest = min(soonest, max(2.0 if self._threads else 0.5, seconds))
        return soonest
