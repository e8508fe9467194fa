"""Carries out retrievals: asks the node what a study has, fetches what is missing here, and looks whether all has come.

Not here: the threads and leases (exchange), the queue's rows (insitu.nodes.retrievals), the protocols (insitu_services.peers).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg

from insitu.archive import links
from insitu.archive.receipts import Receipt
from insitu.archive.store import Archive
from insitu.audit import trail
from insitu.database import Database, Row
from insitu.errors import InsituError
from insitu.nodes import registry, retrievals
from insitu.nodes.leases import Claim
from insitu.nodes.registry import Node
from insitu.settings import Settings
from insitu_services.peers import fetching, finding
from insitu_services.peers.finding import Content

logger = logging.getLogger("insitu.dispatcher")

LOOK_EVERY = 1.0  # seconds between two looks whether a retrieval was cancelled
RENEW_EVERY = 10.0  # seconds; of the receipt


class Incomplete(Exception):
    """Not everything has come; the reason, as a sentence."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Fetcher:
    """Carries claimed retrievals. One for all threads.

    Parameters
    ----------
    settings : Settings
    database : Database
    archive : Archive
    stopping : threading.Event
        Set when the process ends: no further object is fetched.
    """

    def __init__(self, settings: Settings, database: Database, archive: Archive, stopping: threading.Event) -> None:
        self._settings = settings
        self._database = database
        self._archive = archive
        self._stopping = stopping

    def carry(self, work: Claim) -> None:
        """Fetch what is claimed, then give it back.

        Raises
        ------
        Unavailable
            The database does not answer; the lease ends by itself.
        """
        for row in work.rows:
            failure: str | None = None
            final = False
            try:
                with self._database.transaction() as connection:
                    node = registry.find(connection, work.node)
                self._one(node, work, row)
            except Incomplete as error:
                failure, final = str(error), error.final
            except InsituError as error:
                failure = str(error)
            except psycopg.OperationalError:
                raise
            except Exception:  # a study that nobody thought of must not be tried without end
                logger.exception("a retrieval from %s failed", work.node)
                failure = "A mistake of the platform; see the dispatcher's log."
            if failure:
                logger.warning("a retrieval from %s waits or fails: %s", work.node, failure)
            with self._database.transaction() as connection:
                if self._stopping.is_set() and failure:
                    retrievals.let_go(connection, work, row["id"])
                    continue
                retrievals.settle(
                    connection, work, row["id"], failure=failure, final=final,
                    attempts=self._settings.transfer_attempts, first_wait=self._settings.transfer_retry,
                )  # fmt: skip
                ended = retrievals.get(connection, row["id"], None)
                if ended["state"] in ("done", "failed"):
                    trail.record(
                        connection, row["requested_by"], "retrieve-ended", "study", row["study_instance_uid"],
                        row["project"], outcome="success" if ended["state"] == "done" else "failure",
                        detail={"node": work.node, "retrieval": row["id"], "objects": ended["present"]},
                    )  # fmt: skip

    def _one(self, node: Node, work: Claim, row: Row) -> None:
        study, series = row["study_instance_uid"], row["series_instance_uid"]
        wanted = finding.contents(node, self._settings, study, series, by_web=work.way == "wado")
        if wanted is not None and not wanted:
            raise Incomplete(f"The node has no such {'series' if series else 'study'}.", final=True)
        before = self._present(row, wanted)
        missing = None if wanted is None else {uid: each for uid, each in wanted.items() if uid not in before}
        refused: fetching.Refused = {}
        going = self._going(work, row, wanted)
        if not going():
            raise Incomplete("It was cancelled.")
        try:
            if missing is None or missing:
                refused = self._fetch(node, work, row, wanted, missing if before else None, going)
        finally:
            here = self._present(row, wanted)
            self._note(work, row, wanted, here)
            self._link(row, here)
        if wanted is None:
            if not here:
                raise Incomplete("The node sent nothing.", final=True)
        elif len(here) < len(wanted):
            left = set(wanted) - here
            if left <= set(refused):
                raise Incomplete(
                    f"{len(left)} objects could not be archived; look into the quarantine. The others are here.",
                    final=True,
                )
            raise Incomplete(f"{len(left)} of {len(wanted)} objects have not come.")
        if refused and wanted is None:
            raise Incomplete(f"{len(refused)} objects could not be archived; look into the quarantine.", final=True)

    def _fetch(
        self,
        node: Node,
        work: Claim,
        row: Row,
        wanted: dict[str, Content] | None,
        missing: dict[str, Content] | None,
        going: fetching.Going,
    ) -> fetching.Refused:
        study, series = row["study_instance_uid"], row["series_instance_uid"]
        if work.way == "move":
            fetching.by_move(node, self._settings, study, series, missing, going)
            return {}
        with self._receipt(node, row) as receipt:
            if work.way == "wado":
                return fetching.by_web(
                    node, self._settings, self._archive, receipt, study, series, missing, going
                )  # fmt: skip
            classes = list(dict.fromkeys(each.sop_class for each in (wanted or {}).values() if each.sop_class))
            return fetching.by_get(node, self._settings, self._archive, receipt, study, series, missing, classes, going)

    @contextmanager
    def _receipt(self, node: Node, row: Row) -> Iterator[Receipt]:
        """A receipt for what comes, kept open by a thread: one object can take longer than a lease."""
        receipt = self._archive.open_receipt(
            channel="retrieve",
            calling_ae=node.ae_title,
            called_ae=self._settings.ae_title,
            peer=node.host or urlsplit(node.url or "").hostname,
            principal=row["requested_by"],
            project=row["project"],
        )
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(RENEW_EVERY):
                try:
                    self._archive.renew(receipt)
                except InsituError as error:
                    logger.warning("a lease could not be renewed: %s", error)

        keeper = threading.Thread(target=keep, name="receipt", daemon=True)
        keeper.start()
        try:
            yield receipt
        finally:
            ended.set()
            keeper.join(5)
            self._archive.close_receipt(receipt)

    def _going(self, work: Claim, row: Row, wanted: dict[str, Content] | None) -> fetching.Going:
        looked = 0.0
        answer = True

        def going() -> bool:
            nonlocal looked, answer
            if self._stopping.is_set():
                return False
            if answer and time.monotonic() - looked >= LOOK_EVERY:
                looked = time.monotonic()
                answer = self._note(work, row, wanted, self._present(row, wanted))
            return answer

        return going

    def _present(self, row: Row, wanted: dict[str, Content] | None) -> set[str]:
        with self._database.transaction() as connection:
            if wanted is not None:
                return retrievals.present(connection, wanted)
            return retrievals.held(connection, row["study_instance_uid"], row["series_instance_uid"])

    def _note(self, work: Claim, row: Row, wanted: dict[str, Content] | None, here: set[str]) -> bool:
        with self._database.transaction() as connection:
            expected = None if wanted is None else len(wanted)
            return retrievals.note(connection, work, row["id"], expected=expected, present=len(here))

    def _link(self, row: Row, here: set[str]) -> None:
        """Put the series of what is here into the project: what was here already, and what came by our receiver."""
        with self._database.transaction() as connection:
            series = connection.execute(
                "SELECT DISTINCT series FROM instance WHERE sop_instance_uid = ANY(%s)", (list(here),)
            ).fetchall()
            for each in series:
                links.link(connection, self._settings, each["series"], row["project"], row["requested_by"])
