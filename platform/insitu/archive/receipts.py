"""Receipts: who brought objects, when and how. One per association or request, durable before its first success.

Not here: the objects themselves (insitu.archive.store). The key of every object names its receipt, so that the index can be
rebuilt from the blobs alone.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from . import checksum
from .blobs import BlobStore

PREFIX = "receipts/"
LEASE = 30  # seconds an open association counts as open after its process was last heard of

_lock = threading.Lock()
_last_tick = 0

Channel = Literal["dimse", "stow", "import", "result", "retrieve"]


class Receipt(BaseModel):
    """What is known of one association or request that brings objects.

    Attributes
    ----------
    project : str or None
        Project the sender named; None where the channel names none.
    link_project : str
        Project a new series of this receipt belongs to: `project`, or the default project at the time.
    execution : str or None
        Execution whose results these are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    id: str
    arrived_at: datetime
    channel: Channel
    calling_ae: str | None = None
    called_ae: str | None = None
    peer: str | None = None
    principal: str | None = None
    project: str | None = None
    link_project: str
    execution: str | None = None

    @property
    def key(self) -> str:
        """Key of the durable copy."""
        return f"{PREFIX}{self.id}.json"

    def write(self, blobs: BlobStore) -> None:
        """Make the durable copy."""
        blobs.put(self.key, checksum.sealed(self.model_dump_json().encode()))


def read(blobs: BlobStore, key: str) -> Receipt:
    """The receipt whose durable copy has this key.

    Raises
    ------
    NotFound
    ValueError
        It is not what was written.
    """
    return Receipt.model_validate_json(checksum.opened(blobs.read(key)))


def ordered_uuid() -> uuid.UUID:
    """A new UUID of version 7 (RFC 9562): its first 60 bits of value are the time, and in one process no two are equal there."""
    global _last_tick
    with _lock:
        tick = max(time.time_ns() * 4096 // 1_000_000, _last_tick + 1)  # in 4096ths of a millisecond
        _last_tick = tick
    milliseconds, fraction = divmod(tick, 4096)
    value = milliseconds << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | int.from_bytes(os.urandom(8), "big") >> 2
    return uuid.UUID(int=value)


def time_of(ordered: uuid.UUID) -> datetime:
    """When an `ordered_uuid` was made, to the millisecond."""
    milliseconds = ordered.int >> 80
    seconds, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)
