"""Conflicts: another object under a known SOP Instance UID was kept aside; a person looks at both and decides which one counts.

`keep` gives up the second, `replace` the first. The object that is given up goes for good; its digest, the reason and who decided
stay. Nothing here logs a value of the objects. Not here: how conflicts arise (insitu.archive.incoming).
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, BinaryIO, Literal

import psycopg
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from insitu.audit import trail
from insitu.database import Connection, Database, Row
from insitu.errors import Conflict, Invalid, NotFound, Unavailable

from . import deletion, derivation, journal, links, patient, receipts, rows
from .blobs import BlobStore
from .header import syntax_of
from .receipts import ordered_uuid, time_of
from .store import Archive
from .tolerant import FAILURES

Resolution = Literal["keep", "replace"]
READ_STEP = 1 << 20
_ROW = (
    "SELECT c.id::text, c.at, c.sop_instance_uid, c.digest, c.transfer_syntax_uid, c.blob_key, c.receipt::text, r.channel,"
    " r.calling_ae, r.called_ae, r.peer, r.principal, r.project, i.blob_key AS first_key, i.digest AS first_digest,"
    " i.transfer_syntax_uid AS first_transfer_syntax_uid, i.received_at AS first_at, i.series, s.series_instance_uid,"
    " s.execution, t.study_instance_uid FROM conflict c JOIN receipt r ON r.id = c.receipt"
    " LEFT JOIN instance i ON i.sop_instance_uid = c.sop_instance_uid LEFT JOIN series s ON s.id = i.series"
    " LEFT JOIN study t ON t.id = s.study"
)


def listed(connection: Connection, *, limit: int = 100, offset: int = 0) -> list[Row]:
    """Conflicts, the newest first, with who sent the second object and where the first one stands."""
    return connection.execute(f"{_ROW} ORDER BY c.at DESC, c.id LIMIT %s OFFSET %s", (limit, offset)).fetchall()


def get(connection: Connection, conflict: str) -> Row:
    """One conflict.

    Raises
    ------
    NotFound
        There is none of this id.
    """
    try:
        row = connection.execute(f"{_ROW} WHERE c.id = %s", (uuid.UUID(conflict),)).fetchone()
    except ValueError:
        row = None
    if row is None:
        raise NotFound("There is no such conflict", value=conflict, remedy="insitu conflict list")
    return row


def shown(row: Row) -> dict[str, Any]:
    """A conflict as JSON, without what is of use only here."""
    out = {key: value for key, value in row.items() if key not in ("series", "first_key", "execution")}
    for name in ("digest", "first_digest"):
        out[name] = bytes(row[name]).hex() if row[name] is not None else None
    for name in ("at", "first_at"):
        out[name] = row[name].isoformat() if row[name] is not None else None
    return out


def resolved(connection: Connection, *, limit: int = 100) -> list[Row]:
    """What was decided, the newest first."""
    return connection.execute(
        "SELECT id::text, sop_instance_uid, at, actor, resolution, reason, encode(digest, 'hex') AS digest, done"
        " FROM conflict_resolution ORDER BY at DESC, id LIMIT %s",
        (limit,),
    ).fetchall()


def differences(blobs: BlobStore, row: Row) -> list[dict[str, str]]:
    """Which attributes of the data set differ, by tag, without their values.

    Returns
    -------
    list of dict
        `tag`, `keyword` (empty for private ones) and `change`: `changed`, `only in the first` or `only in the second`.

    Raises
    ------
    NotFound
        One of the objects is missing.
    Invalid
        One of the objects cannot be read.
    """
    if row["first_key"] is None:
        return []
    try:
        with blobs.open(row["first_key"]) as one, blobs.open(row["blob_key"]) as other:
            first, second = _content(one), _content(other)
    except FAILURES as error:
        raise Invalid("An object cannot be read", value=row["sop_instance_uid"], why=type(error).__name__) from error
    found = []
    for tag in sorted(first.keys() | second.keys()):
        if first.get(tag) != second.get(tag):
            change = (
                "only in the second" if tag not in first else "only in the first" if tag not in second else "changed"
            )
            found.append({"tag": f"{tag:08X}", "keyword": keyword_for_tag(tag), "change": change})
    return found


def resolve(archive: Archive, conflict: str, resolution: Resolution, *, actor: str, reason: str) -> None:
    """Decide a conflict.

    Parameters
    ----------
    archive : Archive
    conflict : str
        Id, as `listed` gives it.
    resolution : {"keep", "replace"}
        Keep the first and give up the second, or the other way round.
    actor, reason : str
        For the audit trail and the journal.

    Raises
    ------
    NotFound
        There is no such conflict.
    Invalid
        There is no reason.
    Conflict
        `replace`, and the study is held, a run needs the first object, or the second contradicts its series.
    Unavailable
        Disk or database do not answer. Either nothing happened, or the decision stands and is carried out later by itself.
    """
    reason = deletion.checked_reason(reason)
    identifier = ordered_uuid()
    try:
        with archive.database.transaction() as connection:
            connection.execute("SELECT 1 FROM conflict WHERE id::text = %s FOR UPDATE", (conflict,))
            row = get(connection, conflict)
            if resolution == "replace":
                if row["first_key"] is not None:
                    makers = [row["execution"]] if row["execution"] else []
                    deletion.refuse(connection, row["study_instance_uid"], [row["series_instance_uid"]], makers)
                _check(connection, archive.blobs, row)
            given_up = row["blob_key"] if resolution == "keep" else row["first_key"]
            digest = row["digest"] if resolution == "keep" else row["first_digest"]
            entry = {
                "id": str(identifier), "at": time_of(identifier).isoformat(), "actor": actor, "reason": reason,
                "sop_instance_uid": row["sop_instance_uid"], "resolution": resolution,
                "digest": bytes(digest or b"").hex(), "given_up_key": given_up or "", "second_key": row["blob_key"],
                "receipt": row["receipt"],
            }  # fmt: skip
            insert(connection, entry, done=False)
            trail.record(
                connection, actor, f"conflict-{resolution}", "instance", row["sop_instance_uid"],
                detail={"study": row["study_instance_uid"], "reason": reason, "digest": entry["digest"]},
            )  # fmt: skip
        journal.append(archive.blobs, "resolution", identifier=identifier, **entry)
        _settle(archive.database, archive.blobs, identifier)
    except psycopg.OperationalError as error:
        raise Unavailable("The database does not answer", why=type(error).__name__, remedy="Try again") from error
    archive.wake()


def finish(database: Database, blobs: BlobStore, *, older_than: float = deletion.SETTLED_AFTER) -> int:
    """Carry out what was decided by processes that were killed; how many."""
    with database.transaction() as connection:
        left = connection.execute(
            "SELECT id FROM conflict_resolution WHERE NOT done AND at < clock_timestamp() - make_interval(secs => %s)"
            " ORDER BY at",
            (older_than,),
        ).fetchall()
    for row in left:
        if blobs.exists(journal.key(row["id"])):
            _settle(database, blobs, row["id"])
        else:
            with database.transaction() as connection:
                connection.execute("DELETE FROM conflict_resolution WHERE id = %s", (row["id"],))
    return len(left)


def insert(connection: Connection, entry: dict[str, Any], *, done: bool) -> None:
    """Write the row of a decision from its entry in the journal; nothing happens where it is there."""
    connection.execute(
        "INSERT INTO conflict_resolution (id, sop_instance_uid, at, actor, resolution, reason, digest, second_key,"
        " given_up_key, done) VALUES (%(id)s, %(sop_instance_uid)s, %(at)s, %(actor)s, %(resolution)s, %(reason)s,"
        " decode(%(digest)s, 'hex'), %(second_key)s, %(given_up_key)s, %(done)s) ON CONFLICT DO NOTHING",
        {**entry, "done": done},
    )


def promoted(key: str) -> str:
    """Key of a second object once it is the one that counts: its receipt and its time of arrival stay in it."""
    return f"objects/{key.partition('/')[2]}"


def promote(blobs: BlobStore, key: str) -> None:
    """Move the blob of a second object to where it counts; nothing happens where it is there already."""
    if blobs.exists(key):
        blobs.move(key, promoted(key))


def _check(connection: Connection, blobs: BlobStore, row: Row) -> None:
    found = derivation.examined(blobs, row["blob_key"])
    if found is None:
        raise Conflict("The second object cannot be archived", value=row["sop_instance_uid"])
    other = connection.execute(
        "SELECT t.study_instance_uid FROM series s JOIN study t ON t.id = s.study WHERE s.series_instance_uid = %s",
        (found[0].series_instance_uid,),
    ).fetchone()
    if other is not None and other["study_instance_uid"] != found[0].study_instance_uid:
        raise Conflict(
            "The second object contradicts its series",
            value=found[0].series_instance_uid,
            why=f"the series is known under another study: {other['study_instance_uid']}",
        )
    others = connection.execute(
        "SELECT t.patient_id FROM study t JOIN series s ON s.study = t.id JOIN instance i ON i.series = s.id"
        " WHERE t.study_instance_uid = %s AND i.blob_key IS DISTINCT FROM %s LIMIT 1",
        (found[0].study_instance_uid, row["first_key"]),
    ).fetchone()
    if others is not None and patient.contradict(others["patient_id"], patient.read(found[0])):
        raise Conflict(
            "The second object contradicts its study",
            value=found[0].study_instance_uid,
            why="the study is known under another Patient ID",
            remedy="Keep the first, or delete the study and send it again",
        )


def _settle(database: Database, blobs: BlobStore, identifier: uuid.UUID) -> None:
    """Carry out a decision that stands. May be repeated from any point."""
    with database.transaction() as connection:
        row = connection.execute("SELECT * FROM conflict_resolution WHERE id = %s FOR UPDATE", (identifier,)).fetchone()
        if row is None or row["done"]:
            return
        if row["resolution"] == "replace":
            promote(blobs, row["second_key"])
            _exchange(connection, blobs, row)
        connection.execute("DELETE FROM conflict WHERE blob_key = %s", (row["second_key"],))
    if row["given_up_key"]:
        blobs.delete(row["given_up_key"])
    with database.transaction() as connection:
        connection.execute("UPDATE conflict_resolution SET done = true WHERE id = %s", (identifier,))


def _exchange(connection: Connection, blobs: BlobStore, row: Row) -> None:
    """Let the second object stand where the first one stood."""
    key = promoted(row["second_key"])
    if connection.execute("SELECT 1 FROM instance WHERE blob_key = %s", (key,)).fetchone():
        return
    found = derivation.examined(blobs, key)
    if found is None:  # it was checked before the decision: the disk has changed it since
        raise Unavailable("The second object cannot be read", value=key, remedy="insitu scrub")
    identity, digest, size, offset = found
    receipt = connection.execute("SELECT receipt FROM conflict WHERE blob_key = %s", (row["second_key"],)).fetchone()
    if receipt is None:
        return
    brought = receipts.read(blobs, f"{receipts.PREFIX}{receipt['receipt']}.json")
    new = rows.InstanceRow(identity, digest, key, size, offset, time_of(uuid.UUID(key.split("/")[-1][:36])))
    series, _ = rows.ensure_series(connection, new, brought)
    first = connection.execute("SELECT series FROM instance WHERE blob_key = %s", (row["given_up_key"],)).fetchone()
    if first is not None and first["series"] == series:
        connection.execute("DELETE FROM instance WHERE blob_key = %s", (row["given_up_key"],))
    elif first is not None:
        deletion.remove_rows(connection, blobs, [row["given_up_key"]], results=False)
    rows.insert_instance(connection, new, series, brought.id)
    derivation.derive_series(connection, blobs, series)
    links.record(connection, blobs, series)
    study = connection.execute("SELECT study FROM series WHERE id = %s", (series,)).fetchone()
    if study is not None:
        derivation.derive_study(connection, blobs, study["study"])


def _content(stream: BinaryIO) -> dict[int, Any]:
    """What can be compared of each element: its value, of pixel data a digest of the rest of the file."""
    dataset = dcmread(stream, stop_before_pixels=True, force=True)
    deflated = syntax_of(str(dataset.file_meta.get("TransferSyntaxUID", ""))).deflated
    if deflated:  # pydicom has inflated it elsewhere
        stream.seek(0)
        dataset = dcmread(stream, force=True)
    found: dict[int, Any] = {int(tag): _value(dataset, int(tag)) for tag in dataset.keys()}  # noqa: SIM118
    if not deflated:
        digest = hashlib.sha256()
        rest = 0
        while chunk := stream.read(READ_STEP):
            digest.update(chunk)
            rest += len(chunk)
        if rest:
            found[0x7FE00010] = digest.digest()
    return found


def _value(dataset: Dataset, tag: int) -> Any:
    try:
        return dataset[tag].value
    except FAILURES:
        return dataset.get_item(tag)
