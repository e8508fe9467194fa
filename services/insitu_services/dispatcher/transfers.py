"""Carries out transfers: takes claimed objects to their node by C-STORE or STOW-RS and notes what became of each.

Not here: the threads and leases (exchange), the queue's rows (insitu.nodes.transfers), the protocols (insitu_services.peers).
"""

from __future__ import annotations

import logging
import threading

import psycopg

from insitu.archive.blobs import BlobStore
from insitu.audit import trail
from insitu.database import Connection, Database, Row
from insitu.errors import InsituError
from insitu.nodes import registry, transfers
from insitu.nodes.leases import Claim
from insitu.nodes.registry import Node
from insitu.nodes.verdicts import in_words
from insitu.settings import Settings
from insitu_services.peers import storing, stowing, web
from insitu_services.peers.connection import connect
from insitu_services.peers.storing import Answer, Sender

logger = logging.getLogger("insitu.dispatcher")


class Halted(Exception):
    """The node cannot take more just now; the reason, as a sentence."""


class Carrier:
    """Carries claimed transfers. One for all threads.

    Parameters
    ----------
    settings : Settings
    database : Database
    blobs : BlobStore
    stopping : threading.Event
        Set when the process ends: no further object is begun.
    """

    def __init__(self, settings: Settings, database: Database, blobs: BlobStore, stopping: threading.Event) -> None:
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._stopping = stopping

    def carry(self, work: Claim) -> None:
        """Send what is due of a claim, then give it back.

        Raises
        ------
        Unavailable
            The database does not answer; the lease ends by itself.
        """
        with self._database.transaction() as connection:
            node = registry.find(connection, work.node)
            items = transfers.waiting(connection, work)
        failure: str | None = None
        try:
            if work.way == "dimse":
                self._by_dimse(node, work, items)
            else:
                self._by_stow(node, work, items)
        except Halted as halt:
            failure = str(halt)
        except InsituError as error:
            failure = str(error)
        except psycopg.OperationalError:
            raise  # nothing can be noted now; the lease ends by itself
        except Exception:  # one object that nobody thought of must not be tried without end
            logger.exception("a transfer to %s failed", node.name)
            failure = "A mistake of the platform; see the dispatcher's log."
        if failure:
            logger.warning("a transfer to %s waits: %s", node.name, failure)
        with self._database.transaction() as connection:
            transfers.settle(
                connection, work, failure=failure,
                attempts=self._settings.transfer_attempts, first_wait=self._settings.transfer_retry,
            )  # fmt: skip
            self._audit(connection, work)

    def _by_dimse(self, node: Node, work: Claim, items: list[Row]) -> None:
        lost: set[str] = set()
        kinds = [(item["sop_class_uid"], item["transfer_syntax_uid"]) for item in items]
        for kinds_now, contexts in storing.batches(kinds):
            mine = [item for item in items if (item["sop_class_uid"], item["transfer_syntax_uid"]) in set(kinds_now)]
            if self._stopping.is_set():
                return
            try:
                with connect(node, self._settings, contexts) as association:
                    sender = Sender(association, self._blobs)
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
                answers = stowing.store(node, session, self._blobs, mine)
                if len(mine) > 1 and all(answer.status is None for answer in answers):
                    # the whole request was refused, perhaps for one object's sake
                    answers = [stowing.store(node, session, self._blobs, [item])[0] for item in mine]
                for item, answer in zip(mine, answers, strict=True):
                    self._note(work, item, answer, lost)
                if any(answer.status is not None and answer.status >> 8 == 0xA7 for answer in answers):
                    raise Halted("The service is out of resources.")

    def _note(self, work: Claim, item: Row, answer: Answer, lost: set[str]) -> None:
        with self._database.transaction() as connection:
            mine = transfers.record(
                connection, work, item, answer.status, sentence=answer.sentence, comment=answer.comment,
                refused=answer.refused, attempts=self._settings.transfer_attempts,
                first_wait=self._settings.transfer_retry,
            )  # fmt: skip
        if not mine:
            lost.add(item["transfer"])

    @staticmethod
    def _audit(connection: Connection, work: Claim) -> None:
        for each in work.rows:
            row = transfers.get(connection, each["id"], None)
            if row["state"] not in ("done", "failed"):
                continue
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
