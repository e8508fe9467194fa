"""Holds: studies that nobody may delete, nor any rule of the retention, until the hold is released.

Not here: deleting (insitu.archive.deletion), which asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from insitu.audit import trail
from insitu.database import Connection, Row
from insitu.errors import NotFound

from . import journal
from .blobs import BlobStore
from .deletion import checked_reason


def place(connection: Connection, blobs: BlobStore, study: str, reason: str, by: str) -> None:
    """Hold a study; a hold that stands gets the new reason.

    Raises
    ------
    Invalid
        There is no reason.
    NotFound
        There is no such study.
    """
    reason = checked_reason(reason)
    # Locked, so that it cannot be deleted meanwhile.
    if not connection.execute("SELECT 1 FROM study WHERE study_instance_uid = %s FOR SHARE", (study,)).fetchone():
        raise NotFound("There is no such study", value=study)
    entry: dict[str, Any] = {
        "study_instance_uid": study,
        "reason": reason,
        "by": by,
        "at": datetime.now(UTC).isoformat(),
    }
    _write(connection, entry)
    trail.record(connection, by, "hold", "study", study, detail={"reason": reason})
    journal.append(blobs, "hold", **entry)


def release(connection: Connection, blobs: BlobStore, study: str, reason: str, by: str) -> None:
    """Release a hold.

    Raises
    ------
    Invalid
        There is no reason.
    NotFound
        The study is not held.
    """
    reason = checked_reason(reason)
    if not connection.execute("DELETE FROM hold WHERE study_instance_uid = %s", (study,)).rowcount:
        raise NotFound("This study is not held", value=study, remedy="insitu archive holds")
    trail.record(connection, by, "hold-release", "study", study, detail={"reason": reason})
    journal.append(blobs, "release", study_instance_uid=study, reason=reason, by=by, at=datetime.now(UTC).isoformat())


def listed(connection: Connection) -> list[Row]:
    """Every hold, the oldest first."""
    return connection.execute("SELECT * FROM hold ORDER BY placed_at, study_instance_uid").fetchall()


def replay(connection: Connection, entries: Iterable[dict[str, Any]]) -> None:
    """Make the holds be what the entries of a journal end with."""
    last = {entry["study_instance_uid"]: entry for entry in entries if entry["event"] in ("hold", "release")}
    for study, entry in last.items():
        if entry["event"] == "hold":
            _write(connection, entry)
        else:
            connection.execute("DELETE FROM hold WHERE study_instance_uid = %s", (study,))


def _write(connection: Connection, entry: dict[str, Any]) -> None:
    connection.execute(
        "INSERT INTO hold (study_instance_uid, reason, placed_by, placed_at)"
        " VALUES (%(study_instance_uid)s, %(reason)s, %(by)s, %(at)s) ON CONFLICT (study_instance_uid)"
        " DO UPDATE SET reason = excluded.reason, placed_by = excluded.placed_by, placed_at = excluded.placed_at",
        entry,
    )
