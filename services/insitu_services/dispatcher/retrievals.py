"""Carries out retrievals: asks the node what a study has, fetches what is missing here, and looks whether all has come.

Not here: what both kinds of work share (carrier), the threads (exchange), the queue's rows (insitu.nodes.retrievals), the
protocols (insitu_services.peers).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from insitu.archive import links
from insitu.archive.receipts import Receipt
from insitu.audit import trail
from insitu.database import Connection, Row
from insitu.errors import InsituError
from insitu.nodes import retrievals
from insitu.nodes.leases import Claim
from insitu.nodes.queue import Failure
from insitu.nodes.registry import Node
from insitu_services.peers import fetching, finding
from insitu_services.peers.finding import Content

from .carrier import Carrier, Halted

logger = logging.getLogger("insitu.dispatcher")

LOOK_EVERY = 1.0  # seconds between two looks whether a retrieval was cancelled
RENEW_EVERY = 10.0  # seconds; of the receipt


class RetrievalCarrier(Carrier):
    """Fetches what claimed retrievals ask for; see Carrier."""

    queue = retrievals.QUEUE

    def _work(self, node: Node, work: Claim) -> None:
        for row in work.rows:
            self._one(node, work, row)

    def _settle(self, connection: Connection, work: Claim, failure: Failure | None) -> list[str]:
        return retrievals.settle(connection, work, failure, self._patience)

    def _audit(self, connection: Connection, row: Row) -> None:
        trail.record(
            connection, row["requested_by"], "retrieve-ended", "study", row["study_instance_uid"], row["project"],
            outcome="success" if row["state"] == "done" else "failure",
            detail={"node": row["node"], "retrieval": row["id"], "objects": row["present"]},
        )  # fmt: skip

    def _one(self, node: Node, work: Claim, row: Row) -> None:
        study, series = row["study_instance_uid"], row["series_instance_uid"]
        wanted = finding.contents(node, self._settings, study, series, by_web=work.way == "wado")
        if wanted is not None and not wanted:
            raise Halted(f"The node has no such {'series' if series else 'study'}.", final=True)
        before = self._present(row, wanted)
        missing = None if wanted is None else {uid: each for uid, each in wanted.items() if uid not in before}
        refused: fetching.Refused = {}
        going = self._going(work, row, wanted)
        if not going():
            raise Halted("It was cancelled.")
        try:
            if missing is None or missing:
                refused = self._fetch(node, work, row, wanted, missing if before else None, going)
        finally:
            here = self._present(row, wanted)
            self._note(work, row, wanted, here)
            self._link(row, here)
        if wanted is None:
            if not here:
                raise Halted("The node sent nothing.", final=True)
        elif len(here) < len(wanted):
            left = set(wanted) - here
            if left <= set(refused):
                raise Halted(
                    f"{len(left)} objects could not be archived; look into the quarantine. The others are here.",
                    final=True,
                )
            raise Halted(f"{len(left)} of {len(wanted)} objects have not come.")
        if refused and wanted is None:
            raise Halted(f"{len(refused)} objects could not be archived; look into the quarantine.", final=True)

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
