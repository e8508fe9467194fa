"""C-GET and C-MOVE: what was asked for is sent object by object, on the same association or on one to another node.

Not here: the count of sub-operations (suboperations), reading an object (outgoing), the association to another node (destination).
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from insitu.archive import selection
from insitu.archive.search import Level, wild
from insitu.archive.selection import Kind, Selection
from insitu.audit import trail
from insitu.database import Row
from insitu.errors import InsituError
from insitu.nodes import registry
from insitu.nodes.registry import Node
from insitu_services.peers.storing import suited

from .. import outgoing
from . import command, destination, identifier
from .dialogue import (
    DOES_NOT_MATCH_SOP_CLASS,
    MOVE_DESTINATION_UNKNOWN,
    Dialogue,
    Refusal,
    Request,
)  # fmt: skip
from .identifier import Identifier
from .query import model_of
from .sop_classes import UNIQUE_KEY, Operation, Root
from .suboperations import Outcome, Suboperations, outcome_of

logger = logging.getLogger("insitu.receiver")

BATCH = 100  # rows that are read at once
Send = Callable[[Row], Outcome]


def get(dialogue: Dialogue, request: Request) -> None:
    """Answer a C-GET: the objects come as C-STORE requests on this association (PS3.4 C.4.3).

    Raises
    ------
    Refusal
        The identifier does not fit the SOP class.
    """
    chosen = _chosen(dialogue, request, Operation.GET)
    numbers, _ = _select(dialogue, chosen, dialogue.caller.node)
    _send_all(dialogue, request, numbers, lambda row: _give(dialogue, request, row))


def move(dialogue: Dialogue, request: Request) -> None:
    """Answer a C-MOVE: the objects go to a node by an association of ours (PS3.4 C.4.2).

    Raises
    ------
    Refusal
        The destination is unknown, or the identifier does not fit the SOP class.
    """
    chosen = _chosen(dialogue, request, Operation.MOVE)
    ae_title = request.command.text(command.MOVE_DESTINATION)
    with dialogue.caller.database.transaction() as connection:
        node = registry.by_ae_title(connection, ae_title) if ae_title else None
    if node is None or not node.host or not node.port:
        raise Refusal(MOVE_DESTINATION_UNKNOWN, "No node has this AE title and an address: insitu node list")
    numbers, kinds = _select(dialogue, chosen, node)
    if not numbers:
        Suboperations(0).conclude(dialogue, request, cancelled=False)
        return
    try:
        with destination.connected(dialogue, request, node, kinds) as send:
            _send_all(dialogue, request, numbers, send)
    except destination.Unreachable as error:
        logger.warning("a C-MOVE failed: %s", error)
        counts = Suboperations(len(numbers))
        for row in _rows(dialogue, numbers):
            counts.note(row["sop_instance_uid"], Outcome.FAILED)
        counts.conclude(dialogue, request, cancelled=False, comment="The destination does not accept an association")


def _chosen(dialogue: Dialogue, request: Request, operation: Operation) -> Selection:
    model = model_of(request, operation)
    asked = identifier.read(request.data_set, request.transfer_syntax, model.root)
    return select(asked, model.root, relational=model.uid in dialogue.agreement.relational)


def select(asked: Identifier, root: Root, *, relational: bool) -> Selection:
    """What a retrieval's identifier names; keys that are not unique ones do not count. Pure.

    Raises
    ------
    Refusal
        A unique key is missing, or has wild cards.
    """
    identifier.check_hierarchy(asked, root, relational=relational)
    unique = UNIQUE_KEY[asked.level]
    values = asked.values(asked.level)
    if not values or any(wild(value) for value in values) or (asked.level is Level.PATIENT and len(values) > 1):
        raise Refusal(DOES_NOT_MATCH_SOP_CLASS, "The unique key of the level is needed", (int(unique, 16),))
    patient = asked.values(Level.PATIENT) if root is Root.PATIENT else []
    at = {level: tuple(asked.values(level)) for level in (Level.STUDY, Level.SERIES, Level.INSTANCE)}
    below = {Level.PATIENT: 0, Level.STUDY: 1, Level.SERIES: 2, Level.INSTANCE: 3}[asked.level]
    return Selection(
        patient=patient[0] if patient else None,
        studies=at[Level.STUDY] if below >= 1 else (),
        series=at[Level.SERIES] if below >= 2 else (),
        instances=at[Level.INSTANCE] if below >= 3 else (),
    )


def _select(dialogue: Dialogue, chosen: Selection, to: Node) -> tuple[array[int], list[Kind]]:
    """Numbers and kinds of the visible objects; the audit trail has them before the first one leaves."""
    caller = dialogue.caller
    with caller.database.transaction() as connection:
        numbers = selection.numbers(connection, chosen, caller.projects)
        kinds = selection.kinds(connection, chosen, caller.projects)
        studies = selection.per_study(connection, chosen, caller.projects)
        for study, count in studies.items():
            detail = {"instances": count, "to": to.name, "series": list(chosen.series)}
            trail.record(connection, caller.principal.name, "export", "study", study, detail=detail)
        if not studies:
            trail.record(connection, caller.principal.name, "export", "study", ",".join(chosen.studies[:1]),
                         outcome="refused", detail={"instances": 0, "to": to.name})  # fmt: skip
    return numbers, kinds


def _rows(dialogue: Dialogue, numbers: array[int]) -> Iterator[Row]:
    """The rows, in their order; of one that has gone meanwhile only an empty UID."""
    caller = dialogue.caller
    for start in range(0, len(numbers), BATCH):
        batch = list(numbers[start : start + BATCH])
        with caller.database.transaction() as connection:
            found = selection.rows_of(connection, batch, caller.projects)
        yield from (found.get(number, {"sop_instance_uid": ""}) for number in batch)


def _send_all(dialogue: Dialogue, request: Request, numbers: array[int], send: Send) -> None:
    counts = Suboperations(len(numbers))
    for row in _rows(dialogue, numbers):
        if dialogue.cancelled(request):
            counts.conclude(dialogue, request, cancelled=True)
            return
        outcome = send(row) if row["sop_instance_uid"] else Outcome.FAILED
        counts.note(row["sop_instance_uid"], outcome)
        if counts.remaining:
            counts.tell(dialogue, request)
    counts.conclude(dialogue, request, cancelled=False)


def _give(dialogue: Dialogue, request: Request, row: Row) -> Outcome:
    """Send one object on the association itself."""
    context = context_for(dialogue, row["sop_class_uid"], row["transfer_syntax_uid"])
    if context is None:
        logger.warning("the peer takes no object of SOP class %s in a syntax there is", row["sop_class_uid"])
        return Outcome.FAILED
    syntax = dialogue.agreement.contexts[context][1]
    priority = request.command.number(command.PRIORITY) or 0
    with ExitStack() as stack:
        try:
            file = stack.enter_context(outgoing.opened(dialogue.archive.blobs, row, syntax))
        except InsituError as error:
            logger.error("an object could not be sent: %s", error)
            return Outcome.FAILED
        response = dialogue.ask(
            context, command.C_STORE_RQ, row["sop_class_uid"], row["sop_instance_uid"], outgoing.chunks(file),
            {command.PRIORITY: priority},
        )  # fmt: skip
    return outcome_of(response.number(command.STATUS))


def context_for(dialogue: Dialogue, sop_class: str, stored: str) -> int | None:
    """The accepted context to send an object in: as stored where there is one, else one it can be decoded for."""
    agreement = dialogue.agreement
    if sop_class not in agreement.receives:
        return None
    accepted = {syntax: number for number, (abstract, syntax) in agreement.contexts.items() if abstract == sop_class}
    chosen = suited(stored, accepted)
    return None if chosen is None else chosen[0]
