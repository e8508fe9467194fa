"""Whether an object's patient is that of its study: another Patient ID under a known Study Instance UID is a contradiction.

An absent or empty Patient ID contradicts none; names, birth dates and the rest are corrected too often to tell patients apart.
Not here: what becomes of the object (insitu.archive.incoming).
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from insitu.database import Connection

from . import levels
from .examine import Identity

REMEMBERED = 4096


class PatientCache:
    """Raw Patient IDs that were found to be those of a series, so that the next object of the series costs no query."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, bytes], None] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, pair: tuple[int, bytes]) -> bool:
        with self._lock:
            return pair in self._known

    def put(self, series: int, raw: bytes) -> None:
        """Remember a Patient ID of a committed object."""
        with self._lock:
            self._known[series, raw] = None
            self._known.move_to_end((series, raw))
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


def said(identity: Identity) -> bytes:
    """The Patient ID of an object as its bytes; empty where it is absent."""
    return identity.values.get(levels.PATIENT_ID, (b"", b""))[1]


def read(identity: Identity) -> str:
    """The Patient ID of an object as the index keeps it; empty where it is absent."""
    return levels.patient_id(levels.attributes(identity.values, identity.syntax, (levels.PATIENT_ID,)))


def of_series(connection: Connection, series: int) -> str:
    """The Patient ID of the study that a series belongs to."""
    row = connection.execute(
        "SELECT st.patient_id FROM series s JOIN study st ON st.id = s.study WHERE s.id = %s", (series,)
    ).fetchone()
    return str(row["patient_id"]) if row else ""


def contradict(known: str, other: str) -> bool:
    """Whether two Patient IDs name different patients. Pure."""
    known, other = known.strip(), other.strip()
    return bool(known and other and known != other)
