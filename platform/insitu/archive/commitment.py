"""Storage commitment: which of a node's objects are safe here, and the results it has yet to be told (PS3.4 annex J).

A result is a row from the moment its request is answered until the node has confirmed it, so that no restart loses it.
Not here: the messages (insitu_services.receiver.commitment).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from insitu.database import Connection

from .blobs import BlobStore

NO_SUCH_OBJECT = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119

BATCH = 1000
HOLD = timedelta(minutes=2)  # in which only the association that asked may tell the result
LEASE = timedelta(minutes=5)  # of one attempt
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(hours=1)
GIVE_UP = timedelta(days=3)


@dataclass(frozen=True)
class Reference:
    """An object that a node asks about."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Result:
    """Which objects are committed, and which are not, with the reason (PS3.3 C.14)."""

    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...]

    def json(self) -> dict[str, Any]:
        """As it stands in the table."""
        return {
            "committed": [[each.sop_class_uid, each.sop_instance_uid] for each in self.committed],
            "failed": [[each.sop_class_uid, each.sop_instance_uid, reason] for each, reason in self.failed],
        }

    @staticmethod
    def of(document: dict[str, Any]) -> Result:
        """Back from the table."""
        return Result(
            tuple(Reference(*each) for each in document["committed"]),
            tuple((Reference(sop_class, uid), reason) for sop_class, uid, reason in document["failed"]),
        )


@dataclass(frozen=True)
class Report:
    """A result on its way to a node."""

    id: UUID
    node: str
    transaction_uid: str
    result: Result
    attempts: int


def examine(
    connection: Connection,
    blobs: BlobStore,
    references: Sequence[Reference],
    *,
    calling_ae: str,
    projects: frozenset[str] | None,
) -> Result:
    """Decide about every object. One that the node may not know of does not exist for it.

    Parameters
    ----------
    connection : Connection
    blobs : BlobStore
    references : sequence of Reference
    calling_ae : str
        AE title of the node: what it sent itself it may ask about.
    projects : frozenset of str, or None
        Projects whose objects it may see.
    """
    committed: list[Reference] = []
    failed: list[tuple[Reference, int]] = []
    for start in range(0, len(references), BATCH):
        batch = references[start : start + BATCH]
        rows = connection.execute(
            """
            SELECT i.sop_instance_uid, i.sop_class_uid, i.blob_key FROM instance i JOIN receipt r ON r.id = i.receipt
            WHERE i.sop_instance_uid = ANY(%(uids)s) AND (
                %(all)s OR r.calling_ae = %(calling)s
                OR EXISTS (SELECT 1 FROM instance_sender x WHERE x.instance = i.id AND x.calling_ae = %(calling)s)
                OR EXISTS (SELECT 1 FROM series_project sp WHERE sp.series = i.series AND sp.project = ANY(%(projects)s))
            )""",
            {
                "uids": [each.sop_instance_uid for each in batch],
                "all": projects is None,
                "projects": sorted(projects or ()),
                "calling": calling_ae,
            },
        ).fetchall()
        known = {row["sop_instance_uid"]: row for row in rows}
        for each in batch:
            row = known.get(each.sop_instance_uid)
            if row is None or not blobs.exists(row["blob_key"]):
                failed.append((each, NO_SUCH_OBJECT))
            elif row["sop_class_uid"] != each.sop_class_uid:
                failed.append((each, CLASS_INSTANCE_CONFLICT))
            else:
                committed.append(each)
    return Result(tuple(committed), tuple(failed))


def keep(connection: Connection, node: str, transaction_uid: str, result: Result) -> Report:
    """Note a result; for a while only the association that asked for it may tell it."""
    row = connection.execute(
        "INSERT INTO commitment_report (node, transaction_uid, result, next_attempt)"
        " VALUES (%s, %s, %s, now() + %s) RETURNING id",
        (node, transaction_uid, Jsonb(result.json()), HOLD),
    ).fetchone()
    assert row is not None  # noqa: S101
    return Report(row["id"], node, transaction_uid, result, 0)


def claim(connection: Connection, report: Report) -> bool:
    """Take a held result for the association that asked for it; False where its time is over."""
    return bool(
        connection.execute(
            "UPDATE commitment_report SET next_attempt = now() + %s WHERE id = %s AND next_attempt > now() RETURNING id",
            (LEASE, report.id),
        ).fetchone()
    )


def release(connection: Connection, report: Report) -> None:
    """Let a held result be told by a new association at once."""
    connection.execute("UPDATE commitment_report SET next_attempt = now() WHERE id = %s", (report.id,))


def due(connection: Connection) -> Report | None:
    """Take the next result whose time has come; nobody else takes it while the attempt lasts."""
    row = connection.execute(
        """
        UPDATE commitment_report SET attempts = attempts + 1, next_attempt = now() + %s WHERE id = (
            SELECT id FROM commitment_report WHERE next_attempt <= now() ORDER BY next_attempt
            LIMIT 1 FOR UPDATE SKIP LOCKED
        ) RETURNING id, node, transaction_uid, result, attempts""",
        (LEASE,),
    ).fetchone()
    if row is None:
        return None
    return Report(row["id"], row["node"], row["transaction_uid"], Result.of(row["result"]), row["attempts"])


def told(connection: Connection, report: Report) -> None:
    """The node has confirmed the result."""
    connection.execute("DELETE FROM commitment_report WHERE id = %s", (report.id,))


def postpone(connection: Connection, report: Report) -> bool:
    """Try again later; False where it has been tried for so long that the result was dropped."""
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(report.attempts, 16))
    connection.execute("UPDATE commitment_report SET next_attempt = now() + %s WHERE id = %s", (pause, report.id))
    dropped = connection.execute(
        "DELETE FROM commitment_report WHERE id = %s AND created_at < now() - %s RETURNING id", (report.id, GIVE_UP)
    ).fetchone()
    return dropped is None
