"""Storage commitment as SCP: the request, and its result by N-EVENT-REPORT (PS3.4 annex J).

The result goes out on the association that asked, as soon as that is quiet; where it ends before, on one of ours to the node,
again and again until the node confirms it. Not here: what is safe, and the results that wait (insitu.archive.commitment).
"""

from __future__ import annotations

import logging
import threading

import psycopg
from pydicom import Dataset
from pydicom.dataset import Dataset as Item
from pydicom.sequence import Sequence
from pynetdicom import build_context, build_role

from insitu.archive import commitment
from insitu.archive.commitment import Reference, Result
from insitu.archive.tolerant import FAILURES
from insitu.audit import trail
from insitu.database import Database
from insitu.errors import InsituError, NotFound
from insitu.nodes import registry
from insitu.settings import Settings
from insitu_services.peers.connection import connect

from . import command, identifier
from .dialogue import (
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_OBJECT,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    Dialogue,
    Refusal,
    Request,
)  # fmt: skip
from .sop_classes import PLAIN_SYNTAXES, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE

logger = logging.getLogger("insitu.receiver")

REQUEST_STORAGE_COMMITMENT = 1  # action type
ALL_COMMITTED, SOME_FAILED = 1, 2  # event types
QUIET_SECONDS = 0.5  # after which the result goes out on the association itself
LOOK_EVERY = 5.0  # seconds, for results that wait

_wake = threading.Event()


def action(dialogue: Dialogue, request: Request) -> None:
    """Answer an N-ACTION; its result is kept before the answer leaves.

    Raises
    ------
    Refusal
        It is no request for storage commitment, or names nothing.
    """
    if request.abstract_syntax != STORAGE_COMMITMENT:
        raise Refusal(SOP_CLASS_NOT_SUPPORTED, "The context is for another SOP class")
    if request.command.uid(command.REQUESTED_SOP_INSTANCE) != STORAGE_COMMITMENT_INSTANCE:
        raise Refusal(NO_SUCH_OBJECT, "Only the well-known instance is there")
    if request.command.number(command.ACTION_TYPE) != REQUEST_STORAGE_COMMITMENT:
        raise Refusal(NO_SUCH_ACTION, "Only action type 1 is there")
    transaction, references = read(request.data_set, request.transfer_syntax)
    caller = dialogue.caller
    with caller.database.transaction() as connection:
        result = commitment.examine(
            connection, dialogue.archive.blobs, references, calling_ae=caller.ae_title, projects=caller.projects
        )
        kept = commitment.keep(connection, caller.node.name, transaction, result)
        trail.record(
            connection, caller.principal.name, "commit", "transaction", transaction,
            detail={"committed": len(result.committed), "failed": len(result.failed)},
        )  # fmt: skip
    dialogue.report_later(Report(kept, request.context, caller.database))
    dialogue.respond(request, SUCCESS, numbers={command.ACTION_TYPE: REQUEST_STORAGE_COMMITMENT})


def read(encoded: bytes, transfer_syntax: str) -> tuple[str, list[Reference]]:
    """Transaction UID and objects of a request. Pure.

    Raises
    ------
    Refusal
        One of them is missing.
    """
    dataset = identifier.data_set(encoded, transfer_syntax)
    try:
        transaction = str(dataset.get("TransactionUID") or "").strip()
        references = [
            Reference(str(item.ReferencedSOPClassUID).strip(), str(item.ReferencedSOPInstanceUID).strip())
            for item in dataset.get("ReferencedSOPSequence") or []
        ]
    except FAILURES as error:
        raise Refusal(INVALID_ARGUMENT, "A reference has no class or instance", (0x00081199,)) from error
    if not transaction or not references:
        raise Refusal(
            INVALID_ARGUMENT,
            "Transaction UID and references are needed",
            (0x00081195 if not transaction else 0x00081199,),
        )
    return transaction, references


def information(transaction: str, result: Result) -> tuple[int, Dataset]:
    """Event type and event information of a result (PS3.4 table J.3-3). Pure."""

    def item(reference: Reference, reason: int | None = None) -> Item:
        made = Item()
        made.ReferencedSOPClassUID = reference.sop_class_uid
        made.ReferencedSOPInstanceUID = reference.sop_instance_uid
        if reason is not None:
            made.FailureReason = reason
        return made

    dataset = Dataset()
    dataset.TransactionUID = transaction
    if result.committed:
        dataset.ReferencedSOPSequence = Sequence([item(each) for each in result.committed])
    if result.failed:
        dataset.FailedSOPSequence = Sequence([item(each, reason) for each, reason in result.failed])
    return (SOME_FAILED if result.failed else ALL_COMMITTED), dataset


class Report:
    """A result that an open association may tell.

    Parameters
    ----------
    kept : insitu.archive.commitment.Report
    context : int
        The presentation context of the request.
    database : Database
    """

    def __init__(self, kept: commitment.Report, context: int, database: Database) -> None:
        self._kept = kept
        self._context = context
        self._database = database

    def deliver(self, dialogue: Dialogue) -> None:
        """Tell it on the association that asked for it."""
        with self._database.transaction() as connection:
            if not commitment.claim(connection, self._kept):
                return
        event, dataset = information(self._kept.transaction_uid, self._kept.result)
        explicit = dialogue.agreement.contexts[self._context][1] == PLAIN_SYNTAXES[0]
        try:
            response = dialogue.ask(
                self._context, command.N_EVENT_REPORT_RQ, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE,
                [encoded(dataset, explicit=explicit)], {command.EVENT_TYPE: event},
            )  # fmt: skip
        except BaseException:
            self.hand_over()  # the association has ended; the node hears of it by another
            raise
        if response.number(command.STATUS) == SUCCESS:
            with self._database.transaction() as connection:
                commitment.told(connection, self._kept)
        else:
            self.hand_over()

    def hand_over(self) -> None:
        """Let a new association tell it. Never raises."""
        try:
            with self._database.transaction() as connection:
                commitment.release(connection, self._kept)
        except (InsituError, psycopg.Error) as error:
            logger.warning("a storage commitment is told later: %s", error)
        _wake.set()


def encoded(dataset: Dataset, *, explicit: bool) -> bytes:
    """A small data set in little endian."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, not explicit
    write_dataset(buffer, dataset)
    written: bytes = buffer.getvalue()
    return written


def keep_telling(settings: Settings, database: Database) -> None:
    """Tell results by associations of ours, for ever; the body of a thread."""
    while True:
        _wake.wait(LOOK_EVERY)
        _wake.clear()
        try:
            while tell_next(settings, database):
                pass
        except (InsituError, psycopg.Error) as error:
            logger.warning("storage commitments are told later: %s", error)
        except Exception:  # the thread must outlive one bad result
            logger.exception("a storage commitment could not be told")


def tell_next(settings: Settings, database: Database) -> bool:
    """Tell one result whose time has come; False where there is none."""
    with database.transaction() as connection:
        report = commitment.due(connection)
        if report is None:
            return False
        try:
            node = registry.find(connection, report.node)
        except NotFound:
            logger.warning("a storage commitment is not told: node %s is no more", report.node)
            commitment.told(connection, report)
            return True
    event, dataset = information(report.transaction_uid, report.result)
    why = "the node has no address"
    if node.host and node.port:
        try:
            context = build_context(STORAGE_COMMITMENT, list(PLAIN_SYNTAXES))
            with connect(node, settings, [context], roles=[build_role(STORAGE_COMMITMENT, scp_role=True)]) as peer:
                status, _ = peer.send_n_event_report(dataset, event, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
            answered = status.get("Status")
            why = "" if answered == SUCCESS else f"status {answered!r}"
        except (InsituError, ValueError, RuntimeError) as error:
            why = str(error)
    with database.transaction() as connection:
        if not why:
            commitment.told(connection, report)
        elif commitment.postpone(connection, report):
            logger.warning("node %s could not be told a storage commitment: %s", node.name, why)
        else:
            logger.error("node %s was not told a storage commitment, which is given up: %s", node.name, why)
    return True
