"""The statements of the write path: rows of receipts, studies, series and instances.

Every function takes a connection within a transaction. Nothing here counts, notifies or locks more than it inserts, because
every object passes through. Not here: reading (insitu.archive.index).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from psycopg.types.json import Jsonb

from insitu.database import Connection, Row

from . import journal, levels
from .blobs import BlobStore
from .examine import Identity
from .receipts import LEASE, Receipt

SERIES_REMEMBERED = 4096
# The journal tells a rebuild who else sent an object, by the blob that stands for it.
_SENDERS_DUE = (
    "INSERT INTO journal_due (event, content)"
    " SELECT 'senders', jsonb_build_object('key', i.blob_key, 'calling_ae', x.calling_ae)"
)


class SeriesCache:
    """Series this process has stored into lately: the key of the row and the study, by Series Instance UID."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, series_instance_uid: str) -> tuple[int, str] | None:
        """Row key and Study Instance UID of a series that was seen committed."""
        with self._lock:
            return self._known.get(series_instance_uid)

    def put(self, series_instance_uid: str, series: int, study_instance_uid: str) -> None:
        """Remember a committed series."""
        with self._lock:
            self._known[series_instance_uid] = (series, study_instance_uid)
            self._known.move_to_end(series_instance_uid)
            if len(self._known) > SERIES_REMEMBERED:
                self._known.popitem(last=False)

    def forget(self, series_instance_uid: str) -> bool:
        """Forget a series; whether it was known."""
        with self._lock:
            return self._known.pop(series_instance_uid, None) is not None


@dataclass(frozen=True)
class InstanceRow:
    """What the index keeps of one object."""

    identity: Identity
    digest: bytes
    blob_key: str
    size: int
    dataset_offset: int
    received_at: datetime


def insert_receipt(connection: Connection, receipt: Receipt) -> None:
    """Write the row of a receipt; nothing happens where it is there."""
    connection.execute(
        "INSERT INTO receipt (id, arrived_at, channel, calling_ae, called_ae, peer, principal, project, execution)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            receipt.id, receipt.arrived_at, receipt.channel, receipt.calling_ae, receipt.called_ae, receipt.peer,
            receipt.principal, receipt.project, receipt.execution,
        ),
    )  # fmt: skip


def open_association(connection: Connection, receipt: str) -> None:
    """Start the lease of an association or request."""
    connection.execute(
        "INSERT INTO association (receipt, leased_until) VALUES (%s, clock_timestamp() + make_interval(secs => %s))",
        (receipt, LEASE),
    )


def renew_association(connection: Connection, receipt: str) -> None:
    """Extend the lease of an association that is open."""
    connection.execute(
        "UPDATE association SET leased_until = clock_timestamp() + make_interval(secs => %s)"
        " WHERE receipt = %s AND closed_at IS NULL",
        (LEASE, receipt),
    )


def close_association(connection: Connection, receipt: str) -> None:
    """End an association."""
    connection.execute(
        "UPDATE association SET closed_at = clock_timestamp() WHERE receipt = %s AND closed_at IS NULL", (receipt,)
    )


def ensure_series(connection: Connection, row: InstanceRow, receipt: Receipt | None) -> tuple[int, str]:
    """The series of an object, made where it is new: row key and the Study Instance UID it is known under.

    A new series belongs to the receipt's project; to none without a receipt.
    """
    identity = row.identity
    found = _series(connection, identity.series_instance_uid)
    if found is not None:
        return found
    values, syntax = identity.values, identity.syntax
    study = None
    while study is None:  # again where it is deleted between the two statements
        study = connection.execute(
            "INSERT INTO study (study_instance_uid, patient_id, attributes, created_at) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (study_instance_uid) DO NOTHING RETURNING id",
            (identity.study_instance_uid, *_study_values(identity), row.received_at),
        ).fetchone()
        if study is None:
            study = connection.execute(
                "SELECT id FROM study WHERE study_instance_uid = %s", (identity.study_instance_uid,)
            ).fetchone()
    series_attributes = levels.attributes(values, syntax, levels.SERIES_LEVEL)
    created = connection.execute(
        "INSERT INTO series (series_instance_uid, study, modality, attributes, created_at, execution)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (series_instance_uid) DO NOTHING RETURNING id",
        (
            identity.series_instance_uid, study["id"], levels.storable(levels.text(values, levels.MODALITY)),
            Jsonb(series_attributes), row.received_at, receipt.execution if receipt else None,
        ),
    ).fetchone()  # fmt: skip
    if created is None:
        # Somebody else made it just now, perhaps under another study: the caller compares.
        found = _series(connection, identity.series_instance_uid)
        assert found is not None  # noqa: S101
        return found
    if receipt is not None:
        link(connection, created["id"], receipt.link_project, added_by(receipt), row.received_at)
    return created["id"], identity.study_instance_uid


def added_by(receipt: Receipt) -> str:
    """Who put a series into its first project."""
    return receipt.principal or receipt.calling_ae or receipt.channel


def link(connection: Connection, series: int, project: str, by: str, at: datetime) -> bool:
    """Put a series into a project; whether it was not there yet. Not journalled: insitu.archive.links is."""
    return (
        connection.execute(
            "INSERT INTO series_project (series, project, added_by, added_at) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            (series, project, by, at),
        ).rowcount
        > 0
    )


def link_shared(connection: Connection, blobs: BlobStore, series: int, receipt: Receipt) -> None:
    """Whoever has an object of a series already may see it in his project too (a link, no copy)."""
    assert receipt.project is not None  # noqa: S101
    if link(connection, series, receipt.project, added_by(receipt), receipt.arrived_at):
        uid = connection.execute("SELECT series_instance_uid FROM series WHERE id = %s", (series,)).fetchone()
        assert uid is not None  # noqa: S101
        journal.append(
            blobs, "link", series_instance_uid=uid["series_instance_uid"], project=receipt.project,
            by=added_by(receipt), at=receipt.arrived_at.isoformat(),
        )  # fmt: skip


def insert_instance(connection: Connection, row: InstanceRow, series: int, receipt: str, *, event: bool = True) -> bool:
    """Write the row of an object and mark its series dirty; False where its SOP Instance UID is known."""
    identity = row.identity
    values = identity.values
    insert = (
        "INSERT INTO instance (sop_instance_uid, series, sop_class_uid, transfer_syntax_uid, digest, blob_key, size,"
        " dataset_offset, receipt, received_at, instance_number, image_rows, image_columns, number_of_frames)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (sop_instance_uid) DO NOTHING RETURNING series, receipt"
    )
    if event:  # one statement, one round trip
        insert = f"WITH i AS ({insert}) INSERT INTO series_event (series, receipt) SELECT series, receipt FROM i"
    result = connection.execute(
        insert,
        (
            identity.sop_instance_uid, series, identity.sop_class_uid, identity.transfer_syntax_uid, row.digest,
            row.blob_key, row.size, row.dataset_offset, receipt, row.received_at,
            levels.integer(values, levels.INSTANCE_NUMBER),
            levels.unsigned_short(values, levels.ROWS, identity.syntax),
            levels.unsigned_short(values, levels.COLUMNS, identity.syntax),
            levels.integer(values, levels.NUMBER_OF_FRAMES),
        ),
    )  # fmt: skip
    return result.rowcount > 0


def mark_dirty(connection: Connection, series: int, receipt: str) -> None:
    """Append "series dirty" to the outbox."""
    connection.execute("INSERT INTO series_event (series, receipt) VALUES (%s, %s)", (series, receipt))


def known_instance(connection: Connection, sop_instance_uid: str) -> Row | None:
    """The row that an insert ran into; None where it was deleted just now."""
    return connection.execute(
        "SELECT i.id, i.digest, i.transfer_syntax_uid, i.series, i.blob_key, s.study FROM instance i"
        " JOIN series s ON s.id = i.series WHERE i.sop_instance_uid = %s",
        (sop_instance_uid,),
    ).fetchone()


def note_sender(connection: Connection, instance: int, receipt: Receipt) -> None:
    """Note who sent the very same object again, where it is not who sent it first: he may ask for storage commitment too."""
    connection.execute(
        "WITH noted AS (INSERT INTO instance_sender (instance, calling_ae) SELECT i.id, %(calling)s FROM instance i"
        " JOIN receipt r ON r.id = i.receipt"
        " WHERE i.id = %(instance)s AND %(calling)s::text IS NOT NULL AND r.calling_ae IS DISTINCT FROM %(calling)s"
        f" ON CONFLICT DO NOTHING RETURNING instance, calling_ae) {_SENDERS_DUE} FROM noted x JOIN instance i ON i.id = x.instance",
        {"instance": instance, "calling": receipt.calling_ae},
    )


def replace_blob(connection: Connection, known: Row, row: InstanceRow, receipt: str) -> bool:
    """Let another blob stand for a known instance; False where the instance changed meanwhile. Its metadata is made again."""
    changed = connection.execute(
        "UPDATE instance SET blob_key = %s, size = %s, dataset_offset = %s, receipt = %s, received_at = %s"
        " WHERE id = %s AND blob_key = %s",
        (row.blob_key, row.size, row.dataset_offset, receipt, row.received_at, known["id"], known["blob_key"]),
    ).rowcount
    connection.execute("DELETE FROM damage WHERE instance = %s", (known["id"],))
    connection.execute(
        f"{_SENDERS_DUE} FROM instance_sender x JOIN instance i ON i.id = x.instance WHERE i.id = %s", (known["id"],)
    )
    return changed > 0


def insert_quarantine(connection: Connection, key: str, reason: str, size: int, receipt: str, at: datetime) -> None:
    """Write the row of an object that could not be archived."""
    connection.execute(
        "INSERT INTO quarantine (reason, blob_key, size, receipt, at) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (blob_key) DO NOTHING",
        (reason, key, size, receipt, at),
    )


def insert_conflict(
    connection: Connection, sop_instance_uid: str, digest: bytes, transfer_syntax_uid: str, key: str, receipt: str,
    at: datetime,
) -> bool:  # fmt: skip
    """Write the row of a second object under a known UID; False where the same one is kept already."""
    return (
        connection.execute(
            "INSERT INTO conflict (sop_instance_uid, digest, transfer_syntax_uid, blob_key, receipt, at)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (sop_instance_uid, digest, transfer_syntax_uid, key, receipt, at),
        ).rowcount
        > 0
    )


def _series(connection: Connection, series_instance_uid: str) -> tuple[int, str] | None:
    row = connection.execute(
        "SELECT s.id, st.study_instance_uid FROM series s JOIN study st ON st.id = s.study"
        " WHERE s.series_instance_uid = %s",
        (series_instance_uid,),
    ).fetchone()
    return (row["id"], row["study_instance_uid"]) if row else None


def _study_values(identity: Identity) -> tuple[str, Jsonb]:
    attributes = levels.attributes(identity.values, identity.syntax, levels.STUDY_LEVEL)
    return levels.patient_id(attributes), Jsonb(attributes)
