"""C-STORE into the archive: fragments are written as they come, the outcome becomes a status (PS3.4 annex B.2.3).

Not here: the write path (insitu.archive.store).
"""

from __future__ import annotations

import logging
from collections import Counter

from insitu.archive.incoming import Incoming
from insitu.archive.outcome import Outcome, Stored
from insitu.archive.receipts import Receipt
from insitu.archive.store import Archive
from insitu.errors import InsituError

logger = logging.getLogger(__name__)

SUCCESS = 0x0000
DUPLICATE_SOP_INSTANCE = 0x0111
SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000


class Delivery:
    """What one association stores: its receipt, opened with the first object, and the counts for the log.

    Parameters
    ----------
    archive : Archive
    calling_ae, called_ae, peer : str
        Who brings it.
    """

    def __init__(self, archive: Archive, calling_ae: str, called_ae: str, peer: str) -> None:
        self._archive = archive
        self._arrival = {"calling_ae": calling_ae, "called_ae": called_ae, "peer": peer}
        self.receipt: Receipt | None = None
        self.statuses: Counter[str] = Counter()

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Reception:
        """Start to receive one object. Never raises: where the archive cannot take it, the status will say so."""
        try:
            if self.receipt is None:
                self.receipt = self._archive.open_receipt(channel="dimse", **self._arrival)
            incoming = self._archive.begin(
                self.receipt,
                transfer_syntax_uid=transfer_syntax_uid,
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
            )
        except InsituError as error:
            logger.error("an object was refused: %s", error)
            return Reception(None, sop_class_uid, sop_instance_uid)
        return Reception(incoming, sop_class_uid, sop_instance_uid)

    def renew(self) -> None:
        """Keep the lease of the receipt: the association is still open."""
        if self.receipt is not None:
            self._archive.renew(self.receipt)

    def close(self) -> None:
        """No more objects come."""
        if self.receipt is not None:
            self._archive.close_receipt(self.receipt)


class Reception:
    """One object on its way in."""

    def __init__(self, incoming: Incoming | None, sop_class_uid: str, sop_instance_uid: str) -> None:
        self._incoming = incoming
        self._said = (sop_class_uid, sop_instance_uid)

    def write(self, piece: memoryview) -> None:
        """Take the next bytes of the data set; where the archive can take no more they are read and dropped."""
        if self._incoming is None:
            return
        try:
            self._incoming.write(piece)
        except InsituError as error:
            logger.error("an object was refused: %s", error)
            self._drop()

    def commit(self) -> tuple[int, str | None]:
        """Make the object durable; status and error comment for the sender."""
        if self._incoming is None:
            return OUT_OF_RESOURCES, "Out of resources; send again later"
        incoming, self._incoming = self._incoming, None
        try:
            return status_of(incoming.commit(), self._said)
        except InsituError as error:
            logger.error("an object was refused: %s", error)
            return OUT_OF_RESOURCES, "Out of resources; send again later"

    def abort(self) -> None:
        """Leave no trace of the object."""
        if self._incoming is not None:
            self._drop()

    def _drop(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.abort()


def status_of(stored: Stored, said: tuple[str, str]) -> tuple[int, str | None]:
    """Status and error comment for an outcome. Pure.

    Parameters
    ----------
    stored : Stored
    said : tuple of str
        SOP Class UID and SOP Instance UID of the command.
    """
    if stored.success:
        return SUCCESS, None
    if stored.outcome is Outcome.CONFLICT_REFUSED:
        return DUPLICATE_SOP_INSTANCE, "Another object with this SOP Instance UID is here"
    found = (stored.sop_class_uid, stored.sop_instance_uid)
    if any(here is not None and here != there for here, there in zip(found, said, strict=True)):
        return DOES_NOT_MATCH, stored.reason
    return CANNOT_UNDERSTAND, stored.reason
