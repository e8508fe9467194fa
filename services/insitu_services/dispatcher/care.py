"""What the dispatcher does for the archive besides runs: finish what killed processes began, count, scrub slowly, retention by rule.

In two threads of its own, so that no series waits for it: a scrub may take days. Not here: what each of it does (insitu.archive).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from insitu.archive import journal, leftovers, retention, scrub, statistics
from insitu.archive.store import Archive
from insitu.errors import InsituError

logger = logging.getLogger(__name__)

LOOK_EVERY = 60.0  # seconds
RETENTION_AFTER = 600.0  # seconds from the start to the first time
RETENTION_EVERY = 86_400.0  # seconds
RETENTION_LOCK, SCRUB_LOCK = 0x1A5D1A, 0x1A5D1B  # numbers of advisory locks
RETENTION_PACE = 1.0  # seconds between two series, so that nobody notices


@contextmanager
def alone(dsn: str, number: int) -> Iterator[bool]:
    """Whether this process may do for the length of the block what only one of several does at a time.

    Parameters
    ----------
    dsn : str
        libpq connection string; the right ends with the connection, and so with the process.
    number : int
        Of the advisory lock.
    """
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone()
        yield bool(row and row[0])


class Care:
    """The archive's caretaker.

    Parameters
    ----------
    archive : Archive
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._stop = threading.Event()
        self._retention_at = time.monotonic() + RETENTION_AFTER
        self._threads = [
            threading.Thread(target=self._loop, args=(step,), name=name, daemon=True)
            for name, step in (("care", self.look), ("scrub", self.scrub))
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, also in the middle of a scrub, which goes on where it was at the next start."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=30)

    def look(self) -> None:
        """Everything that is quick, and the retention once a day."""
        archive = self._archive
        finished = leftovers.finish(archive.database, archive.blobs)
        if finished:
            logger.warning(
                "%d deletions or decisions on conflicts had been left in the middle and are done now", finished
            )
        journal.write_due(archive.database, archive.blobs)
        with archive.database.transaction() as connection:
            statistics.refresh(connection)
        if archive.settings.retention_automatic and time.monotonic() >= self._retention_at:
            self._retention_at = time.monotonic() + RETENTION_EVERY
            self.retain()

    def retain(self) -> None:
        """Delete what is due by the rules of the retention, at a quiet pace; one dispatcher at a time."""
        with alone(self._archive.database.dsn, RETENTION_LOCK) as mine:
            if mine:
                self._retain()

    def _retain(self) -> None:
        archive = self._archive
        gone, stayed = retention.apply(archive, archive.settings.retention, self._stop, seconds_each=RETENTION_PACE)
        for verdict, why in stayed:
            logger.warning("series %s stays: %s", verdict.facts.series, why)
        if gone.instances or gone.unlinked:
            logger.info("retention: %d series, %d instances, %d bytes", gone.series, gone.instances, gone.bytes)

    def scrub(self) -> None:
        """A round of the scrub, where one is due or was interrupted; one dispatcher at a time."""
        with alone(self._archive.database.dsn, SCRUB_LOCK) as mine:
            if mine:
                self._scrub()

    def _scrub(self) -> None:
        settings = self._archive.settings
        if not settings.scrub_days or not scrub.due(self._archive.database, settings.scrub_days):
            return
        throttle = scrub.Throttle(settings.scrub_rate, self._stop)
        report = scrub.scrub(self._archive.database, self._archive.blobs, throttle=throttle)
        if report.finished and report.healthy:
            logger.info("scrub: %d objects are what arrived", report.objects)
        elif not report.healthy:
            logger.error(
                "scrub: %d objects are missing, %d have rotted, %d cannot be read: insitu archive damage; of receipts and"
                " journal %d are damaged: insitu scrub",
                len(report.missing), len(report.changed), len(report.unreadable), len(report.records),
            )  # fmt: skip

    def _loop(self, step: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                step()
            except InsituError as error:
                logger.warning("%s waits: %s", step.__name__, error)
            except psycopg.OperationalError:
                logger.warning("%s waits: the database does not answer", step.__name__)
            except Exception:  # the caretaker must outlive one bad object
                logger.exception("%s failed", step.__name__)
            self._stop.wait(LOOK_EVERY)
