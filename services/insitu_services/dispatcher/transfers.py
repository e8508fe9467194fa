"""Carries out transfers: takes claimed objects to their node by C-STORE or STOW-RS and notes what became of each.

Not here: what both kinds of work share (carrier), the threads (exchange), the queue's rows (insitu.nodes.transfers), the
protocols (insitu_services.peers).
"""

from __future__ import annotations

from insitu.audit import trail
from insitu.database import Connection, Row
from insitu.errors import InsituError
from insitu.nodes import transfers
from insitu.nodes.leases import Claim
from insitu.nodes.queue import Failure
from insitu.nodes.registry import Node
from insitu.nodes.verdicts import in_words
from insitu_services.peers import storing, stowing, web
from insitu_services.peers.connection import connect
from insitu_services.peers.storing import Answer, Sender

from .carrier import Carrier, Halted


class TransferCarrier(Carrier):
    """Sends what claimed transfers hold; see Carrier."""

    queue = transfers.QUEUE

    def _work(self, node: Node, work: Claim) -> None:
        with self._database.transaction() as connection:
            items = transfers.waiting(connection, work)
        if work.way == "dimse":
            self._by_dimse(node, work, items)
        else:
            self._by_stow(node, work, items)

    def _settle(self, connection: Connection, work: Claim, failure: Failure | None) -> list[str]:
        return transfers.settle(connection, work, failure, self._patience)

    def _by_dimse(self, node: Node, work: Claim, items: list[Row]) -> None:
        lost: set[str] = set()
        kinds = [(item["sop_class_uid"], item["transfer_syntax_uid"]) for item in items]
        for kinds_now, contexts in storing.batches(kinds):
            mine = [item for item in items if (item["sop_class_uid"], item["transfer_syntax_uid"]) in set(kinds_now)]
            if self._stopping.is_set():
                return
            try:
                with connect(node, self._settings, contexts) as association:
                    sender = Sender(association, self._archive.blobs)
                    for item in mine:
                        if self._stopping.is_set():
                            return
                        if item["transfer"] not in lost:
                            self._one(sender, work, item, lost)
            except InsituError as error:
                # A peer that accepts nothing of what was asked answered for good: none of these SOP classes is taken.
                if "accepts nothing" not in error.what:
                    raise
                for item in mine:
                    words = f"the peer does not accept the SOP class {item['sop_class_uid']}"
                    self._note(work, item, Answer(None, sentence=words, refused=True), lost)

    def _one(self, sender: Sender, work: Claim, item: Row, lost: set[str]) -> None:
        try:
            answer = sender.send(item)
        except ConnectionError as error:
            self._note(work, item, Answer(None, sentence=str(error)), lost)
            raise Halted(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
        except InsituError as error:
            answer = Answer(None, sentence=str(error), refused=True)
        self._note(work, item, answer, lost)
        if answer.status is not None and answer.status >> 8 == 0xA7:
            raise Halted(f"The peer is out of resources ({in_words(answer.status)}).")

    def _by_stow(self, node: Node, work: Claim, items: list[Row]) -> None:
        lost: set[str] = set()
        with web.client(node, self._settings) as session:
            for group in stowing.requests(items):
                if self._stopping.is_set():
                    return
                mine = [item for item in group if item["transfer"] not in lost]
                if not mine:
                    continue
                answers = stowing.deliver(node, session, self._archive.blobs, mine)
                for item, answer in zip(mine, answers, strict=True):
                    self._note(work, item, answer, lost)
                if any(answer.status is not None and answer.status >> 8 == 0xA7 for answer in answers):
                    raise Halted("The service is out of resources.")

    def _note(self, work: Claim, item: Row, answer: Answer, lost: set[str]) -> None:
        with self._database.transaction() as connection:
            mine = transfers.record(
                connection, work, item, answer.status, sentence=answer.sentence, comment=answer.comment,
                refused=answer.refused, patience=self._patience,
            )  # fmt: skip
        if not mine:
            lost.add(item["transfer"])

    def _audit(self, connection: Connection, row: Row) -> None:
        kind = "series" if row["series_instance_uid"] else "study"
        trail.record(
            connection, row["requested_by"], "export-sent", kind,
            row["series_instance_uid"] or row["study_instance_uid"],
            outcome="success" if row["state"] == "done" else "failure",
            detail={
                "node": row["node"], "transfer": row["id"], "study": row["study_instance_uid"],
                "sent": row["sent"] + row["warning"], "failed": row["failed"],
            },
        )  # fmt: skip
