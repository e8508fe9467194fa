"""The association of a C-MOVE to its destination, as a function that sends one object.

Not here: what is sent (retrieve), how a node is reached and an object sent (insitu_services.peers).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext

from insitu.archive.selection import Kind
from insitu.database import Row
from insitu.errors import InsituError
from insitu.nodes.registry import Node
from insitu_services.peers.connection import MOST_CONTEXTS, connect
from insitu_services.peers.storing import Sender

from . import command
from .dialogue import Dialogue, Request
from .sop_classes import PLAIN_SYNTAXES
from .suboperations import Outcome, outcome_of

logger = logging.getLogger("insitu.receiver")


class Unreachable(Exception):
    """The destination could not be reached or did not accept an association."""


def contexts(kinds: list[Kind]) -> list[PresentationContext]:
    """The presentation contexts to propose: every class uncompressed, and every kind as it is stored. Pure."""
    plain = [build_context(uid, list(PLAIN_SYNTAXES)) for uid in dict.fromkeys(kind.sop_class_uid for kind in kinds)]
    stored = [build_context(kind.sop_class_uid, kind.transfer_syntax_uid) for kind in kinds]
    return [*plain[:MOST_CONTEXTS], *stored][:MOST_CONTEXTS]


@contextmanager
def connected(
    dialogue: Dialogue, request: Request, node: Node, kinds: list[Kind]
) -> Iterator[Callable[[Row], Outcome]]:
    """An open association to a node, as a function that sends one object.

    Raises
    ------
    Unreachable
        There is none.
    """
    with ExitStack() as stack:
        try:
            association = stack.enter_context(connect(node, dialogue.settings, contexts(kinds)))
        except InsituError as error:
            raise Unreachable(str(error)) from error
        sender = Sender(
            association,
            dialogue.archive.blobs,
            origin=(dialogue.caller.ae_title, request.command.number(command.MESSAGE_ID) or 0),
            priority=request.command.number(command.PRIORITY) or 0,
        )
        yield partial(_send, sender)


def _send(sender: Sender, row: Row) -> Outcome:
    try:
        answer = sender.send(row)
    except (InsituError, ConnectionError) as error:
        logger.error("an object could not be sent to a destination: %s", error)
        return Outcome.FAILED
    if answer.sentence:
        logger.warning("an object was not sent to a destination: %s", answer.sentence)
    return outcome_of(answer.status)
