"""C-STORE to a node: which presentation contexts to propose, and one object after the other, piece by piece from its blob.

An object goes out as it is stored where the peer takes that, else uncompressed. Not here: the queue (insitu.nodes.transfers).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pynetdicom import build_context
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from insitu.archive.blobs import BlobStore
from insitu.database import Row
from insitu_services import outgoing
from insitu_services.receiver import command, pdu
from insitu_services.receiver.sop_classes import PLAIN_SYNTAXES

from .connection import MOST_CONTEXTS

SLOWEST = 10_000_000  # bytes a second at which a peer may put an object away before it answers

Kind = tuple[str, str]  # SOP class and stored transfer syntax


@dataclass(frozen=True)
class Answer:
    """What became of one object.

    Attributes
    ----------
    status : int or None
        The peer's; None where it gave none.
    comment : str
        Its Error Comment.
    sentence : str or None
        Why there is no status.
    refused : bool
        There is no status, and there would be none at another attempt.
    """

    status: int | None
    comment: str = ""
    sentence: str | None = None
    refused: bool = False


def batches(kinds: Iterable[Kind]) -> Iterator[tuple[list[Kind], list[Any]]]:
    """Kinds of objects with the contexts to propose for them, at most 128 to an association. Pure.

    For each kind its stored syntax is proposed alone, so that the peer cannot prefer another; for each SOP class that can be
    decoded the uncompressed ones together.
    """
    taken: list[Kind] = []
    proposed: dict[tuple[str, tuple[str, ...]], None] = {}
    for kind in dict.fromkeys(kinds):
        sop_class, stored = kind
        wanted: dict[tuple[str, tuple[str, ...]], None] = {(sop_class, (stored,)): None}
        plain = tuple(syntax for syntax in PLAIN_SYNTAXES if outgoing.can_be_sent_in(stored, syntax))
        if plain:
            wanted[(sop_class, plain)] = None
        if len(proposed | wanted) > MOST_CONTEXTS:
            yield taken, [build_context(uid, list(syntaxes)) for uid, syntaxes in proposed]
            taken, proposed = [], {}
        taken.append(kind)
        proposed |= wanted
    if taken:
        yield taken, [build_context(uid, list(syntaxes)) for uid, syntaxes in proposed]


def suited(stored: str, accepted: Mapping[str, int]) -> tuple[int, str] | None:
    """The context in which an object goes: as stored where that is accepted, else one that it can be decoded for. Pure.

    Parameters
    ----------
    stored : str
        Its transfer syntax.
    accepted : mapping of str to int
        Contexts of its SOP class by transfer syntax.
    """
    for syntax in (stored, *PLAIN_SYNTAXES):
        if syntax in accepted and outgoing.can_be_sent_in(stored, syntax):
            return accepted[syntax], syntax
    return None


class Sender:
    """Sends objects on an association that `connect` opened, one after the other.

    Parameters
    ----------
    association : pynetdicom Association
    blobs : BlobStore
    origin : tuple of str and int, optional
        AE title and message ID of the C-MOVE that asked for them.
    priority : int
    """

    def __init__(
        self, association: Any, blobs: BlobStore, *, origin: tuple[str, int] | None = None, priority: int = 0
    ) -> None:
        self._association = association
        self._blobs = blobs
        self._numbers = {command.PRIORITY: priority}
        self._texts: dict[int, str] = {}
        if origin is not None:
            self._texts[command.MOVE_ORIGINATOR], self._numbers[command.MOVE_ORIGINATOR_MESSAGE_ID] = origin
        self._message_id = 0

    def send(self, item: Row) -> Answer:
        """Send one object.

        Parameters
        ----------
        item : dict
            The instance: `sop_class_uid`, `sop_instance_uid`, `transfer_syntax_uid`, `blob_key`, `dataset_offset`.

        Raises
        ------
        ConnectionError
            The association ended before the peer answered.
        NotFound, Invalid
            The blob is missing, or the object cannot be decoded.
        """
        sop_class, stored = item["sop_class_uid"], item["transfer_syntax_uid"]
        accepted = {
            str(context.transfer_syntax[0]): int(context.context_id)
            for context in self._association.accepted_contexts
            if str(context.abstract_syntax) == sop_class
        }
        if not accepted:
            return Answer(None, sentence=f"the peer does not accept the SOP class {sop_class}", refused=True)
        chosen = suited(stored, accepted)
        if chosen is None:
            words = f"the peer takes this SOP class, but neither in the transfer syntax {stored} nor in one it can be decoded to"
            return Answer(None, sentence=words, refused=True)
        context, syntax = chosen
        self._message_id = self._message_id % 0xFFFF + 1
        request = command.ask(
            command.C_STORE_RQ, self._message_id, sop_class, item["sop_instance_uid"],
            numbers=self._numbers, texts=self._texts,
        )  # fmt: skip
        with outgoing.opened(self._blobs, item, syntax) as stream:
            return self._exchange(context, request, outgoing.chunks(stream))

    def _exchange(self, context: int, request: bytes, data_set: Iterator[bytes]) -> Answer:
        association, sent = self._association, 0
        patience = association.dimse_timeout
        maximum = association.dimse.maximum_pdu_size
        association._reactor_checkpoint.clear()  # pynetdicom's own loop must not take the answer
        try:
            while not association._is_paused:
                if not association.is_alive():
                    raise ConnectionError("the association has ended")
                time.sleep(0.0001)
            for control, piece in chain(pdu.split([request], maximum, 0x01), pdu.split(data_set, maximum, 0x00)):
                fragment = P_DATA()
                fragment.presentation_data_value_list.append((context, bytes([control]) + piece))
                association.dul.send_pdu(fragment)  # waits while the peer is slow
                sent += len(piece)
            association.dimse_timeout = patience + sent / SLOWEST
            _, answer = association.dimse.get_msg(block=True)
        finally:
            association.dimse_timeout = patience
            association._reactor_checkpoint.set()
        if not isinstance(answer, C_STORE) or answer.Status is None:
            if association.is_established:
                association.abort()
            raise ConnectionError("the peer gave no answer, or ended the association in mid-object")
        return Answer(int(answer.Status), str(answer.ErrorComment or ""))
