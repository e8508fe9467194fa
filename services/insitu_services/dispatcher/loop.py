"""The dispatcher's loop: dirty series become complete, complete ones are routed, runs are admitted, handed to the engine and settled.

Every step is one transaction, so that a kill at any moment leaves either all of it or nothing. Not here: what a step decides
(insitu.archive.completeness, insitu.routing, insitu.runs).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import psycopg

from insitu import life
from insitu.archive import completeness, metadata
from insitu.archive.blobs import BlobStore
from insitu.audit import seal
from insitu.database import Database
from insitu.errors import InsituError, NotFound, Unavailable
from insitu.events.wake import Listener
from insitu.routing import apply as routing
from insitu.routing import sending
from insitu.routing.evaluate import Decision
from insitu.runs import admission, requests
from insitu.runs.engine import Engine
from insitu.runs.launch.specification import Launcher, job_names
from insitu.runs.reconcile import Verdict, reconcile
from insitu.settings import Settings
from insitu_services.anchor import anchor

logger = logging.getLogger(__name__)
T = TypeVar("T")

SIGN = "dispatcher.alive"  # in the home: touched by each turn, so that who starts processes can tell one that hangs
LOOK_BY_ITSELF = 1.0  # seconds after which the loop looks without having been woken
RECONCILE_EVERY = 5.0  # seconds
SEAL_EVERY = 1.0  # seconds
POST_AGAIN = 2.0  # seconds after which a run that Airflow did not take is posted again


class Dispatcher:
    """One dispatcher. Several may run on the same database: work is shared by row locks.

    Parameters
    ----------
    settings : Settings
    database : Database
    blobs : BlobStore
    engine : Engine
    launcher : Launcher
        To end jobs that the engine lost.
    """

    def __init__(
        self, settings: Settings, database: Database, blobs: BlobStore, engine: Engine, launcher: Launcher
    ) -> None:
        self.settings = settings
        self.database = database
        self.blobs = blobs
        self.engine = engine
        self.launcher = launcher
        self._unposted: dict[str, None] = {}  # admitted, in their order, and not yet with the engine
        self._admitted = threading.Event()
        self._unprojected: deque[int] = deque()
        self._next: dict[str, float] = {}
        read, self._stop_writer = os.pipe()
        self._stop_reader = read
        self._anchor = anchor(settings, blobs)
        self._signed = False
        self.stopping = False

    def stop(self) -> None:
        """End the loop after the step at hand; may be called from a signal handler."""
        self.stopping = True
        os.write(self._stop_writer, b"x")

    def run(self) -> None:
        """Work until `stop()`."""
        self.adopt()
        # In a thread of its own: an engine that is slow or silent holds up no series.
        threading.Thread(target=self._talk, name="engine", daemon=True).start()
        listener: Listener | None = None
        sign = self.settings.home / SIGN
        while not self.stopping:
            with suppress(OSError):  # a full disk is no reason to stop
                sign.touch()
            wait = self.turn()
            try:
                if listener is None:
                    listener = Listener(self.database.dsn)
                listener.wait(wait, also=self._stop_reader)
            except psycopg.OperationalError:
                logger.warning("the database does not answer")
                if listener is not None:
                    listener.close()
                listener = None
                time.sleep(min(1.0, max(0.1, wait)))
        self._admitted.set()
        if self._signed:  # else the database is away, and would be waited for
            self._guarded("end of life", self._end)

    def _end(self) -> None:
        with self.database.transaction() as connection:
            life.end(connection, "dispatcher")

    def _talk(self) -> None:
        while not self.stopping:
            self.hand_over()
            self._admitted.wait(POST_AGAIN)
            self._admitted.clear()

    def hand_over(self) -> None:
        """Tell the engine what was admitted, and settle what it lost."""
        self._guarded("post", self._post)
        self._every("reconcile", RECONCILE_EVERY, self._reconcile)

    def turn(self) -> float:
        """Do everything that is due in the archive once; seconds until something is due again."""
        self._every("sign of life", life.EVERY, self._sign)
        more = self._guarded("absorb", self._absorb)
        self._guarded("complete", self._complete)
        self._guarded("admit", self._admit)
        self._every("seal", SEAL_EVERY, self._seal)
        self._guarded("project", self._project)
        if more or self._unprojected:
            return 0.0
        return self._guarded("deadline", self._until_deadline) or 0.05

    def _guarded(self, what: str, step: Callable[[], T]) -> T | None:
        """Run a step; an error is logged and the loop goes on, the step's transaction having been rolled back."""
        try:
            return step()
        except Unavailable as error:
            logger.warning("%s waits: %s", what, error)
        except InsituError as error:
            logger.error("%s failed: %s", what, error)
        except psycopg.OperationalError:
            logger.warning("%s waits: the database does not answer", what)
        except Exception:  # the loop must outlive one bad series
            logger.exception("%s failed", what)
        return None

    def _every(self, what: str, seconds: float, step: Callable[[], object]) -> None:
        now = time.monotonic()
        if now >= self._next.get(what, 0.0):
            self._guarded(what, step)
            self._next[what] = time.monotonic() + seconds

    def _sign(self) -> None:
        self._signed = False
        with self.database.transaction() as connection:
            life.sign(connection, "dispatcher", silent_at=self.database.silent_at)
        self._signed = True

    def _absorb(self) -> int:
        with self.database.transaction() as connection:
            return completeness.absorb(connection, self.settings)

    def _complete(self) -> None:
        """Complete what is due, route it, ask for its runs and queue what is sent, in one transaction."""
        with self.database.transaction() as connection:
            due = completeness.complete_due(connection, self.settings)
            for series in due:
                try:
                    with connection.transaction():  # one bad series must not hold up the others
                        metadata.project_first(connection, self.blobs, series.series_id)
                        decision = routing.apply(connection, self.settings, series)
                        requests.for_decision(connection, series, decision)
                        sending.for_decision(connection, series, decision)
                except psycopg.OperationalError:
                    raise  # the database is away: nothing of this turn happened
                except Exception as error:
                    logger.exception("series %s could not be routed", series.series_instance_uid)
                    why = (
                        str(error)
                        if isinstance(error, InsituError)
                        else "a mistake of the platform; see the dispatcher's log"
                    )
                    routing.keep(connection, series, Decision(failed=why))
        self._unprojected.extend(series.series_id for series in due)

    def _project(self) -> None:
        """Make the full metadata of one series that became complete; after its run has been handed over, which is urgent.

        What a kill loses here is made again when somebody asks for it.
        """
        if self._unprojected:
            series = self._unprojected.popleft()
            with self.database.transaction() as connection:
                metadata.project_series(connection, self.blobs, series)

    def _admit(self) -> None:
        with self.database.transaction() as connection:
            admitted = admission.admit(connection, self.settings)
        if admitted:
            self._unposted.update(dict.fromkeys(admitted))
            self._admitted.set()

    def _post(self) -> None:
        """Hand admitted executions to the engine; one that it did not take is posted again after a while."""
        for execution in list(self._unposted):
            if self._guarded(f"run {execution}", partial(self._start, execution)):
                del self._unposted[execution]

    def _start(self, execution: str) -> bool:
        self.engine.start(execution)
        return True

    def adopt(self) -> None:
        """After a restart: executions that were admitted and may not have reached the engine. Posting twice is harmless."""

        def look() -> None:
            with self.database.transaction() as connection:
                rows = connection.execute("SELECT id FROM execution WHERE state = 'submitted'").fetchall()
            self._unposted.update(dict.fromkeys(row["id"] for row in rows))

        self._guarded("adopt", look)

    def _reconcile(self) -> None:
        for execution, verdict in reconcile(self.database, self.engine):
            logger.warning("execution %s was silent: %s", execution, verdict.value)
            if verdict is Verdict.LOST:
                for name in job_names(execution):
                    with suppress(NotFound):  # it may never have begun
                        self.launcher.cancel(name)  # nobody waits for it any more

    def _seal(self) -> None:
        with self.database.transaction() as connection:
            seal.seal(connection, self._anchor)

    def _until_deadline(self) -> float:
        with self.database.transaction() as connection:
            seconds = completeness.next_deadline(connection, self.settings)
        return LOOK_BY_ITSELF if seconds is None else min(LOOK_BY_ITSELF, max(0.02, seconds))
