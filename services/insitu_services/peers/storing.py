"""C-STORE to a node: which presentation contexts to propose, and one object after the other, piece by piece from its blob.

An object goes out as it is stored where the peer takes that, else uncompressed. Not here: the queue (insitu.nodes.transfers).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pynetdicom import build_context
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from insitu.archive.blobs import BlobStore
from insitu.database import Row
from insitu_services import outgoing
from insitu_services.receiver.sop_classes import PLAIN_SYNTAXES

from .connection import MOST_CONTEXTS

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


class Sender:
    """Sends objects on an association that `connect` opened, one after the other.

    Parameters
    ----------
    association : pynetdicom Association
    blobs : BlobStore
    """

    def __init__(self, association: Any, blobs: BlobStore) -> None:
        self._association = association
        self._blobs = blobs
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
        syntax = next(
            (each for each in (stored, *PLAIN_SYNTAXES) if each in accepted and outgoing.can_be_sent_in(stored, each)),
            None,
        )
        if syntax is None:
            words = f"the peer takes this SOP class, but neither in the transfer syntax {stored} nor in one it can be decoded to"
            return Answer(None, sentence=words, refused=True)
        self._message_id = self._message_id % 0xFFFF + 1
        request = C_STORE()
        request.MessageID, request.Priority = self._message_id, 0x0000
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, item["sop_instance_uid"]
        with outgoing.opened(self._blobs, item, syntax) as stream:
            return self._exchange(accepted[syntax], request, outgoing.chunks(stream))

    def _exchange(self, context: int, request: C_STORE, data_set: Iterator[bytes]) -> Answer:
        association = self._association
        message = C_STORE_RQ()
        message.primitive_to_message(request)
        message.command_set.CommandDataSetType = 0x0001  # a data set follows, which pynetdicom does not know of
        maximum = association.dimse.maximum_pdu_size
        association._reactor_checkpoint.clear()  # its own loop must not take the answer
        try:
            while not association._is_paused:
                if not association.is_alive():
                    raise ConnectionError("the association has ended")
                time.sleep(0.0001)
            for fragment in message.encode_msg(context, maximum):
                association.dul.send_pdu(fragment)
            for control, piece in _pieces(data_set, maximum - 6):
                fragment = P_DATA()
                fragment.presentation_data_value_list.append((context, bytes([control]) + piece))
                association.dul.send_pdu(fragment)  # waits while the peer is slow
            _, answer = association.dimse.get_msg(block=True)
        finally:
            association._reactor_checkpoint.set()
        if not isinstance(answer, C_STORE) or answer.Status is None:
            if association.is_established:
                association.abort()
            raise ConnectionError("the peer gave no answer, or ended the association in mid-object")
        return Answer(int(answer.Status), str(answer.ErrorComment or ""))


def _pieces(data_set: Iterator[bytes], size: int) -> Iterator[tuple[int, bytes]]:
    """Fragments of a data set with their message control header (PS3.8 annex E.2)."""
    held = b""
    for chunk in data_set:
        held += chunk
        while len(held) > size:
            yield 0x00, held[:size]
            held = held[size:]
    yield 0x02, held
