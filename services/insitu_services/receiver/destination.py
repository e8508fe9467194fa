"""The association of a C-MOVE to its destination, and the objects sent on it.

Negotiation and release are pynetdicom's; the data goes out in pieces from the blob, never faster than the peer takes it.
Not here: what is sent (retrieve), how a node is reached (insitu_services.peers.connection).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

from pynetdicom import build_context
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext

from insitu.archive.blobs import BlobStore
from insitu.archive.selection import Kind
from insitu.database import Row
from insitu.errors import InsituError
from insitu.nodes.registry import Node
from insitu_services.peers.connection import connect

from .. import outgoing
from . import command, pdu
from .dialogue import Dialogue, Request
from .sop_classes import PLAIN_SYNTAXES
from .suboperations import Outcome, outcome_of

logger = logging.getLogger("insitu.receiver")

MOST_CONTEXTS = 128


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
        sender = Sender(association, dialogue.archive.blobs)
        origin = (dialogue.caller.ae_title, request.command.number(command.MESSAGE_ID) or 0)
        priority = request.command.number(command.PRIORITY) or 0
        yield lambda row: sender.send(row, origin, priority)


class Sender:
    """Sends objects on an association that we opened.

    Parameters
    ----------
    association : pynetdicom Association
    blobs : BlobStore
    """

    def __init__(self, association: Any, blobs: BlobStore) -> None:
        self._association = association
        self._blobs = blobs
        self._message_id = 0

    def send(self, row: Row, origin: tuple[str, int], priority: int) -> Outcome:
        """Send one object.

        Parameters
        ----------
        row : dict
            See insitu.archive.selection.
        origin : tuple of str and int
            AE title and message ID of the C-MOVE.
        priority : int
        """
        if not self._association.is_established:
            return Outcome.FAILED
        found = self._context(row["sop_class_uid"], row["transfer_syntax_uid"])
        if found is None:
            logger.warning("a destination takes no object of SOP class %s in a syntax there is", row["sop_class_uid"])
            return Outcome.FAILED
        context, syntax = found
        with ExitStack() as stack:
            try:
                file = stack.enter_context(outgoing.opened(self._blobs, row, syntax))
            except InsituError as error:
                logger.error("an object could not be sent: %s", error)
                return Outcome.FAILED
            return outcome_of(self._exchange(context, self._request(row, origin, priority), outgoing.chunks(file)))

    def _context(self, sop_class: str, stored: str) -> tuple[int, str] | None:
        accepted = {
            str(each.transfer_syntax[0]): int(each.context_id)
            for each in self._association.accepted_contexts
            if str(each.abstract_syntax) == sop_class
        }
        for syntax in (stored, *PLAIN_SYNTAXES):
            if syntax in accepted and outgoing.can_be_sent_in(stored, syntax):
                return accepted[syntax], syntax
        return None

    def _request(self, row: Row, origin: tuple[str, int], priority: int) -> bytes:
        self._message_id = self._message_id % 0xFFFF + 1
        return command.ask(
            command.C_STORE_RQ, self._message_id, row["sop_class_uid"], row["sop_instance_uid"],
            numbers={command.PRIORITY: priority, command.MOVE_ORIGINATOR_MESSAGE_ID: origin[1]},
            texts={command.MOVE_ORIGINATOR: origin[0]},
        )  # fmt: skip

    def _exchange(self, context: int, request: bytes, data_set: Iterator[bytes]) -> int | None:
        """Send a request with its data set, wait for the response; None where the association ended before."""
        association = self._association
        maximum = association.dimse.maximum_pdu_size
        # pynetdicom's own loop must not take the response
        association._reactor_checkpoint.clear()
        try:
            while not association._is_paused and association.is_alive():
                time.sleep(0.0001)
            for control, piece in chain(pdu.split([request], maximum, 0x01), pdu.split(data_set, maximum, 0x00)):
                fragment = P_DATA()
                fragment.presentation_data_value_list = [[context, bytes([control]) + piece]]
                association.dul.send_pdu(fragment)  # waits while the peer is slow
            _, response = association.dimse.get_msg(block=True)
        except ConnectionError as error:
            logger.warning("a destination ended the association: %s", error)
            return None
        finally:
            association._reactor_checkpoint.set()
        if not isinstance(response, C_STORE) or response.Status is None:
            return None
        return int(response.Status)
