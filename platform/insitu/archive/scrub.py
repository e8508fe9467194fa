"""Scrub: whether every object is still what arrived. It goes on where it was left, and reads no faster than it is told.

A rotten object is put into quarantine, and a missing one is noted; both stay in the index, are served to nobody, and are whole again
as soon as the same object is sent again, because its digest is known. Not here: rebuilding the index (insitu.archive.reindex).
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from insitu.audit import trail
from insitu.database import Connection, Database, Row
from insitu.errors import Invalid, NotFound

from . import journal, leftovers, links, receipts, rows
from .blobs import BlobStore

logger = logging.getLogger(__name__)

READ_STEP = 1 << 20
ROWS_AT_ONCE = 200
RECORD_SIZE = 512  # bytes a receipt or an entry of the journal counts as


class State(StrEnum):
    """What an object can be found to be."""

    SOUND = "sound"
    MISSING = "missing"
    ROTTEN = "rotten"
    UNREADABLE = "unreadable"  # the disk does not give it out; nothing can be said


@dataclass
class Report:
    """What a scrub found.

    Attributes
    ----------
    objects, bytes : int
        What was read and compared in this round, also before it was interrupted.
    resumed : bool
        Whether this went on with a round that had been interrupted.
    finished : bool
        Whether the round came to its end.
    missing : list of str
        SOP Instance UIDs (or keys, of conflicts and quarantine) whose blob is gone.
    changed : list of str
        SOP Instance UIDs whose data set is not the one that arrived; the blob is in quarantine.
    unreadable : list of str
        SOP Instance UIDs whose blob the disk does not give out just now.
    records : list of str
        Keys of receipts and of entries of the journal that are missing or not what was written. They are left where they are.
    unreferenced : list of str
        Keys nothing refers to, still within their day.
    removed : list of str
        Keys that were removed.
    abandoned : int
        Remains of dead writers that were removed.
    """

    objects: int = 0
    bytes: int = 0
    resumed: bool = False
    finished: bool = False
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)
    unreferenced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    abandoned: int = 0

    @property
    def healthy(self) -> bool:
        """Whether every object, receipt and entry of the journal is there and unchanged."""
        return not (self.missing or self.changed or self.unreadable or self.records)


class Throttle:
    """Lets bytes pass at a rate, and everybody go when it is time to stop.

    Parameters
    ----------
    rate : float or None
        Bytes per second; None for no limit.
    stop : threading.Event, optional
        Set to end waiting.
    """

    def __init__(self, rate: float | None, stop: threading.Event | None = None) -> None:
        self._rate = rate
        self._stop = stop or threading.Event()
        self._free_at = time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether it is time to stop."""
        return self._stop.is_set()

    def passed(self, size: int) -> None:
        """Wait until `size` more bytes may have been read."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size / self._rate
        if self._free_at > now:
            self._stop.wait(self._free_at - now)


def scrub(
    database: Database,
    blobs: BlobStore,
    *,
    remove: bool = True,
    restart: bool = False,
    throttle: Throttle | None = None,
    now: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Compare every object with the index, going on with a round that was interrupted; then clear leftovers.

    Parameters
    ----------
    database : Database
    blobs : BlobStore
    remove : bool
        Whether rotten objects are put aside and leftovers removed; otherwise they are only listed.
    restart : bool
        Begin from the start even where a round was interrupted.
    throttle : Throttle, optional
        Limits the rate, and ends the scrub early.
    now : float, optional
        Seconds since the epoch that ages are counted from.
    progress : callable, optional
        Called with the number of objects read so far.
    """
    throttle = throttle or Throttle(None)
    report = Report()
    _refuse_empty(database, blobs)
    current = _begin(database, restart)
    report.resumed = current["position"] > 0
    report.objects, report.bytes = current["objects"], current["bytes"]
    position = current["position"]
    while not throttle.stopping:
        batch = _batch(database, position)
        if not batch:
            report.finished = True
            break
        sound = []
        for row in batch:
            state, size = compare(blobs, row, throttle)
            if throttle.stopping:
                break  # also in the middle of an object: it is read again
            report.objects += state is not State.MISSING
            report.bytes += size
            position = row["id"]
            if state is State.SOUND:
                sound.append(row["id"])
            else:
                _note(database, blobs, row, report, act=remove)
            if progress is not None:
                progress(report.objects)
        _save(database, current["id"], position, report, sound, finished=False)
    if report.finished:
        _close(database, blobs, current["id"], position, report, remove, now, throttle)
    return report


def due(database: Database, days: float) -> bool:
    """Whether a round is to begin or to go on, where one is wanted every so many days.

    An archive that has never been scrubbed is due after the first such time, not at its first start.
    """
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT finished_at, finished_at <= clock_timestamp() - make_interval(secs => %s) AS again FROM scrub_round"
            " ORDER BY id DESC LIMIT 1",
            (days * 86400,),
        ).fetchone()
        if row is None:
            connection.execute("INSERT INTO scrub_round (finished_at) VALUES (clock_timestamp())")
            return False
    return row["finished_at"] is None or bool(row["again"])


def damaged(connection: Connection) -> list[Row]:
    """Instances whose blob is lost or has rotted: sop_instance_uid, series, kind, found_at."""
    return connection.execute(
        "SELECT i.sop_instance_uid, s.series_instance_uid, d.kind, d.found_at FROM damage d"
        " JOIN instance i ON i.id = d.instance JOIN series s ON s.id = i.series ORDER BY d.found_at, i.sop_instance_uid"
    ).fetchall()


def compare(blobs: BlobStore, row: Row, throttle: Throttle) -> tuple[State, int]:
    """Whether a blob is what its row says; bytes that were read."""
    digest = hashlib.sha256()
    size = 0
    try:
        with blobs.open(row["blob_key"]) as stream:
            size = len(stream.read(row["dataset_offset"]))
            while chunk := stream.read(READ_STEP):
                size += len(chunk)
                digest.update(chunk)
                throttle.passed(len(chunk))
                if throttle.stopping:
                    break
    except NotFound:
        return State.MISSING, 0
    except OSError as error:
        logger.error("%s cannot be read: %s", row["blob_key"], error.strerror)
        return State.UNREADABLE, size
    sound = size == row["size"] and digest.digest() == bytes(row["digest"])
    return (State.SOUND if sound else State.ROTTEN), size


def damaged_records(database: Database, blobs: BlobStore, throttle: Throttle) -> list[str]:
    """Keys of receipts and of entries of the journal that are missing, or not what was written.

    Of the journal only those entries can be missed that a row is named after.
    """
    found: list[str] = []
    for statement, prefix, readable in (
        # A receipt that a rebuild found lost has a row that says so.
        (
            "SELECT id FROM receipt WHERE id > %s AND (channel, principal) IS DISTINCT FROM ('import', 'unknown')",
            receipts.PREFIX, receipts.read,
        ),
        ("SELECT id FROM deletion WHERE id > %s AND keys IS NULL", journal.PREFIX, journal.read),
        ("SELECT id FROM conflict_resolution WHERE id > %s AND done", journal.PREFIX, journal.read),
    ):  # fmt: skip
        last = uuid.UUID(int=0)
        while not throttle.stopping:
            with database.transaction() as connection:
                batch = connection.execute(f"{statement} ORDER BY id LIMIT %s", (last, ROWS_AT_ONCE)).fetchall()
            if not batch:
                break
            keys = [f"{prefix}{row['id']}.json" for row in batch]
            found += [key for key in keys if not _whole(blobs, key, readable, throttle)]
            last = batch[-1]["id"]
    for blob in blobs.list(journal.PREFIX):
        if throttle.stopping:
            break
        if blob.key not in found and not _whole(blobs, blob.key, journal.read, throttle):
            found.append(blob.key)
    return found


def _whole(blobs: BlobStore, key: str, readable: Callable[[BlobStore, str], object], throttle: Throttle) -> bool:
    throttle.passed(RECORD_SIZE)
    try:
        readable(blobs, key)
    except (NotFound, ValueError, OSError):
        return False
    return True


def aside_key(key: str) -> str:
    """Where the rotten blob of `key` is put."""
    return f"quarantine/{key.partition('/')[2].removesuffix('.dcm')}"


def _refuse_empty(database: Database, blobs: BlobStore) -> None:
    """A blob store without anything beside a full index is a disk that is not there; every object would count as missing."""
    with database.transaction() as connection:
        full = connection.execute("SELECT 1 FROM instance LIMIT 1").fetchone()
    if full and next(iter(blobs.list(receipts.PREFIX)), None) is None:
        raise Invalid(
            "The blob store is empty, but the index is not",
            remedy="See whether the disk with the blobs is mounted, or the bucket the right one",
        )


def _begin(database: Database, restart: bool) -> Row:
    with database.transaction() as connection:
        row = connection.execute("SELECT * FROM scrub_round ORDER BY id DESC LIMIT 1 FOR UPDATE").fetchone()
        if row is None or row["finished_at"] is not None or restart:
            row = connection.execute("INSERT INTO scrub_round DEFAULT VALUES RETURNING *").fetchone()
        assert row is not None  # noqa: S101  it was inserted
        return row


def _batch(database: Database, position: int) -> list[Row]:
    with database.transaction() as connection:
        return connection.execute(
            "SELECT id, sop_instance_uid, blob_key, digest, size, dataset_offset, receipt::text FROM instance"
            " WHERE id > %s ORDER BY id LIMIT %s",
            (position, ROWS_AT_ONCE),
        ).fetchall()


def _note(database: Database, blobs: BlobStore, row: Row, report: Report, *, act: bool) -> None:
    """Look again at an object that was not sound, and put it aside or note that it is missing."""
    with database.transaction() as connection:
        current = connection.execute(
            "SELECT id, series, sop_instance_uid, blob_key, digest, size, dataset_offset, receipt::text FROM instance"
            " WHERE id = %s FOR UPDATE",
            (row["id"],),
        ).fetchone()
        if current is None:
            return  # deleted meanwhile
        state, size = compare(blobs, current, Throttle(None))
        uid = current["sop_instance_uid"]
        if state is State.UNREADABLE:
            report.unreadable.append(uid)
        if state is State.MISSING:
            report.missing.append(uid)
        if state is State.ROTTEN:
            report.changed.append(uid)
        if not act or state in (State.SOUND, State.UNREADABLE):
            return
        new = connection.execute(
            "INSERT INTO damage (instance, kind) VALUES (%s, %s) ON CONFLICT DO NOTHING", (current["id"], state.value)
        ).rowcount
        if new:
            trail.record(
                connection, "scrub", "damage", "instance", uid, outcome="failure", detail={"kind": state.value}
            )
            # A rebuild from nothing does not see this object: others must not decide who holds the series.
            links.record(connection, blobs, current["series"])
        if state is State.MISSING:
            return
        key = aside_key(current["blob_key"])
        reason = (
            f"the object {uid} is not what arrived any more: its data set has rotted on the disk (SHA-256 of what arrived:"
            f" {bytes(current['digest']).hex()}). Send it again, or restore it from a backup"
        )
        at = datetime.now(UTC)
        rows.insert_quarantine(connection, key, reason, size, current["receipt"], at)
        # From here on a rebuilt index does not take this blob for an object.
        journal.append(
            blobs, "quarantine", key=key, reason=reason, size=size, receipt=current["receipt"], at=at.isoformat(),
            was=current["blob_key"],
        )  # fmt: skip
    try:
        blobs.move(current["blob_key"], key)
    except NotFound:
        logger.warning("%s was put aside by somebody else", current["blob_key"])


def _save(
    database: Database, identifier: int, position: int, report: Report, sound: list[int], *, finished: bool
) -> None:
    with database.transaction() as connection:
        connection.execute("DELETE FROM damage WHERE instance = ANY(%s)", (sound,))
        connection.execute(
            "UPDATE scrub_round SET position = greatest(position, %s), objects = %s, bytes = %s,"
            " finished_at = CASE WHEN %s THEN clock_timestamp() END WHERE id = %s",
            (position, report.objects, report.bytes, finished, identifier),
        )


def _close(
    database: Database,
    blobs: BlobStore,
    identifier: int,
    position: int,
    report: Report,
    remove: bool,
    now: float | None,
    throttle: Throttle,
) -> None:
    report.records = damaged_records(database, blobs, throttle)
    left = leftovers.clear(database, blobs, remove=remove, now=now, stopping=lambda: throttle.stopping)
    if throttle.stopping:
        report.finished = False
        return
    with database.transaction() as connection:
        known = damaged(connection)
    # Also what was found before the round was interrupted.
    report.missing = sorted({*report.missing, *(row["sop_instance_uid"] for row in known if row["kind"] == "missing")})
    report.changed = sorted({*report.changed, *(row["sop_instance_uid"] for row in known if row["kind"] == "rotten")})
    report.missing = [uid for uid in report.missing if uid not in report.changed] + left.missing
    report.unreferenced, report.removed, report.abandoned = left.unreferenced, left.removed, left.abandoned
    _save(database, identifier, position, report, [], finished=True)
