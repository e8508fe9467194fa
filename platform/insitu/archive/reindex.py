"""Rebuilding the index from the blobs alone: receipts, objects and the journal give back an equal index.

It works on an empty database and, in place, on one that has lost or doubtful rows; rows that are right keep their keys, so that
what refers to them (datasets, decisions) stays. Not here: comparing digests of an index that is believed (insitu.archive.scrub).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from insitu.database import Connection, Database, Row
from insitu.errors import Invalid, NotFound
from insitu.settings import Settings

from . import conflicts, deletion, derivation, holds, index, journal, leftovers, receipts, rows
from .blobs import BlobStore, place
from .receipts import Receipt, time_of

ROWS_AT_ONCE = 1000
Progress = Callable[[int], None]


@dataclass
class Report:
    """What a rebuild found.

    Attributes
    ----------
    receipts, objects : int
        Blobs read.
    added, corrected, removed : int
        Instance rows that were missing, differed from the blob, or stood for what was deleted.
    missing : list of str
        SOP Instance UIDs whose blob is gone. Their rows stay, so that nothing vanishes unseen; the same object sent again heals them.
    without_receipt : int
        Objects whose receipt is missing; their series belong to no project.
    unreadable : list of str
        Keys of blobs below `objects/` and `receipts/` that cannot be read as what they should be; objects that the index does
        not know are put into quarantine.
    changed : list of str
        Keys of objects whose digest is not the one of their row any more: the row is left, the blob is damaged.
    surplus : list of str
        Keys of objects that are the same as an instance another blob stands for already, or that the index, which was not
        empty, did not know beside it; scrub removes them.
    conflicts : list of str
        Keys of objects that differ from one under the same UID, where the index was lost and cannot tell which of them was
        acknowledged; they are kept as conflicts for a person.
    """

    receipts: int = 0
    objects: int = 0
    added: int = 0
    corrected: int = 0
    removed: int = 0
    without_receipt: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


def reindex(database: Database, blobs: BlobStore, settings: Settings, progress: Progress | None = None) -> Report:
    """Bring the index into agreement with the blobs.

    Parameters
    ----------
    database : Database
    blobs : BlobStore
    settings : Settings
    progress : callable, optional
        Called with the number of objects read so far.
    """
    return _Rebuild(database, blobs, settings, progress).run()


class _Rebuild:
    def __init__(self, database: Database, blobs: BlobStore, settings: Settings, progress: Progress | None) -> None:
        self._database = database
        self._blobs = blobs
        self._settings = settings
        self._progress = progress
        self._started = datetime.now(UTC)
        self._receipts: dict[str, Receipt] = {}
        self._present: set[str] = set()  # keys that stand for an instance
        self._new_series: set[str] = set()
        self._added: set[str] = set()  # keys that stand for an instance the index did not know
        self._deleted: set[str] = set()  # keys that are to stand for nothing any more
        self._born: dict[str, int] = {}  # entry of the journal from which on a series is another one
        self._rotten: set[str] = set()  # keys that were put into quarantine
        self._entries: list[dict[str, Any]] = []
        self._report = Report()

    def run(self) -> Report:
        leftovers.finish(self._database, self._blobs)
        journal.write_due(self._database, self._blobs)
        self._read_receipts()
        self._entries = list(journal.entries(self._blobs, self._report.unreadable))
        for number, entry in enumerate(self._entries):
            self._foresee(entry)
            if entry["event"] == "deletion":
                self._born.update(dict.fromkeys(entry["emptied"], number))
        # By the time in their names, which is the order they came in.
        keys = sorted((blob.key for blob in self._blobs.list("objects/")), key=lambda key: key.rpartition("/")[2])
        if not keys and not self._receipts:
            self._refuse_to_empty()
        for key in keys:
            if key not in self._deleted and key not in self._rotten:
                self._read_object(key)
            if self._progress is not None:
                self._progress(self._report.objects)
        self._remove_deleted_rows()
        self._find_missing()
        for number, entry in enumerate(self._entries):
            if number < self._born.get(entry.get("series_instance_uid", ""), 0) and entry["event"] != "deletion":
                continue  # of an earlier series of this UID, which was deleted
            with self._database.transaction() as connection:
                self._replay(connection, entry, number)
        with self._database.transaction() as connection:
            holds.replay(connection, self._entries)
        self._settle_states()
        return self._report

    def _foresee(self, entry: dict[str, Any]) -> None:
        """What the journal says of objects that are there: gone, put aside, or put in the place of another."""
        event = entry["event"]
        if event == "deletion":
            self._deleted.update(entry["keys"])
        elif event == "resolution":
            self._deleted.add(entry["given_up_key"])
            if entry["resolution"] == "replace":
                conflicts.promote(self._blobs, entry["second_key"])
        elif event == "quarantine" and "was" in entry:
            self._rotten.add(entry["was"])
            if self._blobs.exists(entry["was"]):
                self._blobs.move(entry["was"], entry["key"])

    def _refuse_to_empty(self) -> None:
        """A blob store without anything beside a full index is a disk that is not there, not an empty archive."""
        with self._database.transaction() as connection:
            if connection.execute("SELECT 1 FROM instance LIMIT 1").fetchone():
                raise Invalid(
                    "The blob store is empty, but the index is not",
                    value=place(self._settings),
                    why="every object would count as missing",
                    remedy="See whether the disk with the blobs is mounted, or the bucket the right one",
                )

    def _read_receipts(self) -> None:
        for blob in self._blobs.list(receipts.PREFIX):
            try:
                receipt = receipts.read(self._blobs, blob.key)
            except ValueError:
                self._report.unreadable.append(blob.key)
                continue
            with self._database.transaction() as connection:
                _ensure_project(connection, receipt.link_project)
                rows.insert_receipt(connection, receipt)
            self._receipts[receipt.id] = receipt
            self._report.receipts += 1

    def _read_object(self, key: str) -> None:
        self._report.objects += 1
        try:
            examined = derivation.examined(self._blobs, key)
        except NotFound:
            return  # deleted since it was listed
        parts = key.split("/")
        try:
            receipt_id, object_id = str(uuid.UUID(parts[1])), uuid.UUID(parts[-1].removesuffix(".dcm"))
        except (ValueError, IndexError):
            self._report.unreadable.append(key)  # nothing of ours has such a name
            return
        if examined is None:
            with self._database.transaction() as connection:
                self._put_aside(connection, key, receipt_id, time_of(object_id), "it cannot be read as a DICOM object")
            return
        identity, digest, size, offset = examined
        receipt = self._receipts.get(receipt_id)
        row = rows.InstanceRow(identity, digest, key, size, offset, time_of(object_id))
        with self._database.transaction() as connection:
            if receipt is None:
                self._report.without_receipt += 1
                rows.insert_receipt(connection, _unknown_receipt(receipt_id, row.received_at))
            known = connection.execute("SELECT * FROM instance WHERE blob_key = %s", (key,)).fetchone()
            if known is not None and (bytes(known["digest"]) != digest or _agrees(known, row)):
                if bytes(known["digest"]) != digest:
                    # The digest in the index is that of what arrived: to believe the blob would hide the damage.
                    self._report.changed.append(key)
                self._present.add(key)
                return
            other = connection.execute(
                "SELECT blob_key, digest, transfer_syntax_uid FROM instance WHERE sop_instance_uid = %s",
                (identity.sop_instance_uid,),
            ).fetchone()
            if other is not None and other["blob_key"] != key and self._stands(other["blob_key"]):
                if other["blob_key"] in self._added and not _same(other, row):
                    self._keep_as_conflict(connection, row, receipt_id)
                else:
                    self._report.surplus.append(key)
                return
            before = connection.execute(
                "SELECT 1 FROM series WHERE series_instance_uid = %s", (identity.series_instance_uid,)
            ).fetchone()
            series, study = rows.ensure_series(connection, row, receipt)
            if study != identity.study_instance_uid:
                self._put_aside(
                    connection, key, receipt_id, row.received_at, f"its series is known under another study: {study}"
                )
                return
            if before is None:
                self._new_series.add(identity.series_instance_uid)
            replaced = connection.execute(
                "DELETE FROM instance WHERE blob_key = %s OR sop_instance_uid = %s", (key, identity.sop_instance_uid)
            ).rowcount
            rows.insert_instance(connection, row, series, receipt_id, event=False)
            connection.execute(
                "INSERT INTO series_source (series, receipt) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (series, receipt_id),
            )
            if replaced:
                self._report.corrected += 1
            else:
                self._report.added += 1
                self._added.add(key)
            self._present.add(key)

    def _put_aside(self, connection: Connection, key: str, receipt: str, at: datetime, reason: str) -> None:
        """Keep for a person what no index row can be made of, so that no scrub takes it for a leftover."""
        self._report.unreadable.append(key)
        if connection.execute("SELECT 1 FROM instance WHERE blob_key = %s", (key,)).fetchone():
            return  # known, and rotten: scrub knows what it was
        with self._blobs.open(key) as stream:
            size = stream.seek(0, os.SEEK_END)
        aside = f"quarantine/{key.partition('/')[2].removesuffix('.dcm')}"
        reason = f"found by a rebuild of the index: {reason}"
        if receipt not in self._receipts:
            rows.insert_receipt(connection, _unknown_receipt(receipt, at))
        rows.insert_quarantine(connection, aside, reason, size, receipt, at)
        journal.append(
            self._blobs, "quarantine", key=aside, reason=reason, size=size, receipt=receipt, at=at.isoformat(), was=key
        )
        self._blobs.move(key, aside)

    def _keep_as_conflict(self, connection: Connection, row: rows.InstanceRow, receipt: str) -> None:
        """Of two different objects under one UID one was never acknowledged; without the old index nobody can tell which."""
        identity = row.identity
        key = f"conflicts/{row.blob_key.partition('/')[2]}"
        kept = rows.insert_conflict(
            connection,
            identity.sop_instance_uid,
            row.digest,
            identity.transfer_syntax_uid,
            key,
            receipt,
            row.received_at,
        )
        if not kept:
            self._report.surplus.append(row.blob_key)
            return
        self._blobs.move(row.blob_key, key)
        journal.append(
            self._blobs, "conflict", key=key, sop_instance_uid=identity.sop_instance_uid, digest=row.digest.hex(),
            transfer_syntax_uid=identity.transfer_syntax_uid, receipt=receipt, at=row.received_at.isoformat(),
        )  # fmt: skip
        self._report.conflicts.append(key)

    def _stands(self, key: str) -> bool:
        """Whether another blob under the same UID is the one that counts: it was read already, or is yet to be read."""
        return key in self._present or (key not in self._deleted and self._blobs.exists(key))

    def _remove_deleted_rows(self) -> None:
        """Where the database is older than a deletion."""
        keys = sorted(self._deleted)
        for start in range(0, len(keys), ROWS_AT_ONCE):
            with self._database.transaction() as connection:
                standing = connection.execute(
                    "SELECT blob_key FROM instance WHERE blob_key = ANY(%s)", (keys[start : start + ROWS_AT_ONCE],)
                ).fetchall()
                if standing:
                    deletion.remove_rows(connection, self._blobs, [row["blob_key"] for row in standing])
                    self._report.removed += len(standing)

    def _find_missing(self) -> None:
        with self._database.transaction() as connection:
            older = connection.execute(
                # What came while this works has its blob, and was not in the list of them.
                "SELECT sop_instance_uid, blob_key FROM instance WHERE received_at < %s",
                (self._started,),
            ).fetchall()
        self._report.missing = sorted(
            row["sop_instance_uid"]
            for row in older
            if row["blob_key"] not in self._present and not self._blobs.exists(row["blob_key"])
        )

    def _replay(self, connection: Connection, entry: dict[str, Any], number: int) -> None:
        event = entry["event"]
        if event in ("link", "unlink", "links", "revision"):
            series = index.find_series(connection, entry["series_instance_uid"], None)
            if series is None:
                return
            if event == "revision":
                self._replay_revision(connection, series["id"], entry)
            elif entry["series_instance_uid"] in self._new_series:
                # The links of a series that was in the index all along are the index's own.
                self._replay_links(connection, series["id"], entry)
        elif event == "deletion":
            # Where its row is here already it may be under way, and is finished by whoever has it.
            deletion.insert(connection, entry, None)
        elif event == "resolution":
            conflicts.insert(connection, entry, done=True)
        elif event == "senders":
            connection.cursor().executemany(
                "INSERT INTO instance_sender (instance, calling_ae) SELECT id, %(calling_ae)s FROM instance"
                " WHERE blob_key = %(key)s ON CONFLICT DO NOTHING",
                entry["items"],
            )
        elif event == "superseded":
            connection.cursor().executemany(
                "UPDATE series SET superseded_by = %(by)s WHERE series_instance_uid = %(series_instance_uid)s"
                " AND superseded_by IS NULL",
                [item for item in entry["items"] if number >= self._born.get(item["series_instance_uid"], 0)],
            )
        elif event == "dataset" and entry["series_instance_uid"] in self._new_series:
            self._replay_dataset(connection, entry)
        elif (
            event in ("quarantine", "conflict")
            and entry["key"] not in self._deleted
            and self._blobs.exists(entry["key"])
        ):
            at = datetime.fromisoformat(entry["at"])
            if entry["receipt"] not in self._receipts:
                rows.insert_receipt(connection, _unknown_receipt(entry["receipt"], at))
            if event == "quarantine":
                rows.insert_quarantine(connection, entry["key"], entry["reason"], entry["size"], entry["receipt"], at)
            else:
                rows.insert_conflict(
                    connection, entry["sop_instance_uid"], bytes.fromhex(entry["digest"]),
                    entry["transfer_syntax_uid"], entry["key"], entry["receipt"], at,
                )  # fmt: skip

    @staticmethod
    def _replay_links(connection: Connection, series: int, entry: dict[str, Any]) -> None:
        if entry["event"] == "unlink":
            connection.execute(
                "DELETE FROM series_project WHERE series = %s AND project = %s", (series, entry["project"])
            )
            return
        if entry["event"] == "links":
            connection.execute("DELETE FROM series_project WHERE series = %s", (series,))
        for item in entry["links"] if entry["event"] == "links" else [entry]:
            _ensure_project(connection, item["project"])
            rows.link(connection, series, item["project"], item["by"], datetime.fromisoformat(item["at"]))

    @staticmethod
    def _replay_dataset(connection: Connection, entry: dict[str, Any]) -> None:
        _ensure_project(connection, entry["project"])
        connection.execute(
            "INSERT INTO dataset (project, name) VALUES (%(project)s, %(dataset)s) ON CONFLICT DO NOTHING", entry
        )
        connection.execute(
            "INSERT INTO dataset_series (project, dataset, series, added_at)"
            " SELECT %(project)s, %(dataset)s, id, %(at)s FROM series WHERE series_instance_uid = %(series_instance_uid)s"
            " ON CONFLICT DO NOTHING",
            entry,
        )

    @staticmethod
    def _replay_revision(connection: Connection, series: int, entry: dict[str, Any]) -> None:
        # The last entry for a number counts: an earlier one was of a transaction that was rolled back.
        connection.execute(
            "INSERT INTO series_revision (series, revision, completed_at, instances, bytes, content_digest)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (series, revision) DO UPDATE SET"
            " completed_at = excluded.completed_at, instances = excluded.instances, bytes = excluded.bytes,"
            " content_digest = excluded.content_digest",
            (
                series, entry["revision"], entry["completed_at"], entry["instances"], entry["bytes"],
                bytes.fromhex(entry["content_digest"]),
            ),
        )  # fmt: skip

    def _settle_states(self) -> None:
        """Series whose last revision is what is there are complete; the dispatcher completes the others again."""
        with self._database.transaction() as connection:
            series = connection.execute(
                "SELECT s.id, s.state, s.revision, s.complete_after, r.revision AS last, r.content_digest FROM series s LEFT JOIN LATERAL"
                " (SELECT revision, content_digest FROM series_revision WHERE series = s.id"
                "  ORDER BY revision DESC LIMIT 1) AS r ON true"
            ).fetchall()
            for row in series:
                content = connection.execute(
                    "SELECT sop_instance_uid, digest, received_at FROM instance WHERE series = %s", (row["id"],)
                ).fetchall()
                if row["last"] is not None and bytes(row["content_digest"]) == index.digest_of(content):
                    if row["state"] == "complete" and row["revision"] == row["last"]:
                        continue
                    connection.execute(
                        "UPDATE series SET state = 'complete', revision = %s, complete_after = NULL,"
                        " last_received_at = %s WHERE id = %s",
                        (row["last"], max(item["received_at"] for item in content), row["id"]),
                    )
                elif (
                    row["state"] == "complete" or row["complete_after"] is None or row["revision"] != (row["last"] or 0)
                ):
                    connection.execute(
                        "UPDATE series SET state = 'receiving', revision = %s, complete_after ="
                        " clock_timestamp() + make_interval(secs => %s), last_received_at = %s WHERE id = %s",
                        (
                            row["last"] or 0, self._settings.quiet_time,
                            max((item["received_at"] for item in content), default=None), row["id"],
                        ),
                    )  # fmt: skip


def _agrees(known: Row, row: rows.InstanceRow) -> bool:
    mine = (row.size, row.identity.sop_instance_uid, row.identity.transfer_syntax_uid, row.dataset_offset)
    return mine == tuple(known[name] for name in ("size", "sop_instance_uid", "transfer_syntax_uid", "dataset_offset"))


def _same(known: Row, row: rows.InstanceRow) -> bool:
    return bytes(known["digest"]) == row.digest and known["transfer_syntax_uid"] == row.identity.transfer_syntax_uid


def _ensure_project(connection: Connection, name: str) -> None:
    connection.execute("INSERT INTO project (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))


def _unknown_receipt(receipt_id: str, at: datetime) -> Receipt:
    """What stands in for a receipt that is lost."""
    return Receipt(id=receipt_id, arrived_at=at, channel="import", principal="unknown", link_project="unknown")
