"""When a series is complete: its associations are closed (or their leases ended) and a quiet time has passed; or by hand.

A late object reopens the series; completing it again is a new revision. Results of an execution are complete at once. Everything
is row locks and leases in PostgreSQL, so that several dispatchers share the work. Not here: what follows (routing, runs).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from insitu.database import Connection, Row
from insitu.errors import NotFound
from insitu.settings import Settings

from . import derivation, index, journal, links
from .blobs import blob_store

EVENTS_AT_ONCE = 5000
SERIES_AT_ONCE = 100

# Receipts that keep a series open: associations that are open, or were until less than the quiet time ago.
_OPEN_SOURCES = (
    "FROM series_source ss JOIN association a ON a.receipt = ss.receipt WHERE ss.series = s.id"
    " AND coalesce(a.closed_at, a.leased_until) + make_interval(secs => %(quiet)s) > clock_timestamp()"
)


@dataclass(frozen=True)
class CompleteSeries:
    """A revision of a series that has just become complete."""

    series_id: int
    series_instance_uid: str
    revision: int
    content_digest: bytes


def absorb(connection: Connection, settings: Settings) -> int:
    """Take "series dirty" events from the outbox and move the deadlines of their series.

    Returns
    -------
    int
        Number of events; call again until it is 0. Events that another dispatcher has taken are left to it.
    """
    taken = connection.execute(
        "WITH taken AS (DELETE FROM series_event WHERE id IN"
        " (SELECT id FROM series_event ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING series, receipt)"
        " SELECT series, receipt, count(*) AS events FROM taken GROUP BY series, receipt",
        (EVENTS_AT_ONCE,),
    ).fetchall()
    if not taken:
        return 0
    touched = sorted({row["series"] for row in taken})
    # Locked in one order, so that two dispatchers cannot wait for each other; NO KEY lets receivers go on inserting.
    there = connection.execute(
        "SELECT id FROM series WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", (touched,)
    ).fetchall()
    alive = {row["id"] for row in there}
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO series_source (series, receipt) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            sorted({(row["series"], row["receipt"]) for row in taken if row["series"] in alive}),
        )
    connection.execute(
        # '-infinity' is "at once, whatever is open": results, and series completed by hand.
        "UPDATE series SET state = 'receiving', last_received_at = clock_timestamp(), complete_after = CASE"
        " WHEN execution IS NOT NULL OR complete_after = '-infinity' THEN '-infinity'::timestamptz"
        " ELSE clock_timestamp() + make_interval(secs => %s) END WHERE id = ANY(%s)",
        (settings.quiet_time, sorted(alive)),
    )
    return sum(row["events"] for row in taken)


def complete_due(connection: Connection, settings: Settings) -> list[CompleteSeries]:
    """Complete the series whose time has come, as new revisions.

    A series that has not changed since its last revision gets none and is not returned.
    """
    due = connection.execute(
        "SELECT s.id, s.series_instance_uid, s.study, s.revision, s.created_at FROM series s"
        " WHERE s.state = 'receiving' AND s.complete_after <= clock_timestamp()"
        " AND NOT EXISTS (SELECT 1 FROM series_event e WHERE e.series = s.id)"
        f" AND (s.complete_after = '-infinity' OR NOT EXISTS (SELECT 1 {_OPEN_SOURCES}))"
        " ORDER BY s.complete_after LIMIT %(limit)s FOR NO KEY UPDATE OF s SKIP LOCKED",
        {"quiet": settings.quiet_time, "limit": SERIES_AT_ONCE},
    ).fetchall()
    completed = (_complete(connection, settings, series) for series in due)
    return [series for series in completed if series is not None]


def next_deadline(connection: Connection, settings: Settings) -> float | None:
    """Seconds until a series may become complete (0 if one is due); None where none is open.

    A series with an open association counts by the end of its lease.
    """
    row = connection.execute(
        "SELECT extract(epoch FROM min(at) - clock_timestamp())::float8 AS seconds FROM ("
        " SELECT CASE WHEN s.complete_after = '-infinity' THEN clock_timestamp() ELSE greatest(s.complete_after,"
        f" (SELECT max(coalesce(a.closed_at, a.leased_until)) + make_interval(secs => %(quiet)s) {_OPEN_SOURCES})) END AS at"
        " FROM series s WHERE s.state = 'receiving' AND s.complete_after IS NOT NULL) AS deadlines",
        {"quiet": settings.quiet_time},
    ).fetchone()
    return None if row is None or row["seconds"] is None else max(0.0, row["seconds"])


def complete(connection: Connection, series_instance_uid: str) -> None:
    """Complete a series by hand: the dispatcher does it next, whatever associations are open. Wake it afterwards.

    Raises
    ------
    NotFound
        There is no such series.
    """
    row = connection.execute(
        "UPDATE series SET complete_after = '-infinity' WHERE series_instance_uid = %s AND state = 'receiving' RETURNING id",
        (series_instance_uid,),
    ).fetchone()
    known = (
        row
        or connection.execute("SELECT id FROM series WHERE series_instance_uid = %s", (series_instance_uid,)).fetchone()
    )
    if known is None:
        raise NotFound("There is no such series", value=series_instance_uid)


def _complete(connection: Connection, settings: Settings, series: Row) -> CompleteSeries | None:
    content = connection.execute(
        "SELECT sop_instance_uid, digest, size, received_at, receipt FROM instance WHERE series = %s", (series["id"],)
    ).fetchall()
    last = max((row["received_at"] for row in content), default=None)
    digest = index.digest_of(content)
    known = connection.execute(
        "SELECT content_digest FROM series_revision WHERE series = %s AND revision = %s",
        (series["id"], series["revision"]),
    ).fetchone()
    changed = bool(content) and (known is None or bytes(known["content_digest"]) != digest)
    revision = series["revision"] + changed
    connection.execute(
        "UPDATE series SET state = 'complete', revision = %s, complete_after = NULL, last_received_at = %s WHERE id = %s",
        (revision, last, series["id"]),
    )
    connection.execute(  # of objects that were deleted or replaced since
        "DELETE FROM series_source WHERE series = %s AND receipt <> ALL(%s)",
        (series["id"], list({row["receipt"] for row in content})),
    )
    _settle_first(connection, settings, series, content)
    if not changed:
        return None
    completed_at = datetime.now(UTC)
    size = sum(row["size"] for row in content)
    connection.execute(
        "INSERT INTO series_revision (series, revision, completed_at, instances, bytes, content_digest)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        (series["id"], revision, completed_at, len(content), size, digest),
    )
    journal.append(
        blob_store(settings), "revision", series_instance_uid=series["series_instance_uid"], revision=revision,
        completed_at=completed_at.isoformat(), instances=len(content), bytes=size, content_digest=digest.hex(),
    )  # fmt: skip
    return CompleteSeries(series["id"], series["series_instance_uid"], revision, digest)


def _settle_first(connection: Connection, settings: Settings, series: Row, content: list[Row]) -> None:
    """Let series and study be described by their first object, also where another one, on its way in at the same time, made them.

    So a rebuild, which knows only who arrived first, finds the same.
    """
    early = [row for row in content if row["received_at"] <= series["created_at"]]
    if len(early) > 1 or (early and early[0]["received_at"] < series["created_at"]):
        blobs = blob_store(settings)
        derivation.derive_series(connection, blobs, series["id"])
        if len({row["receipt"] for row in early}) > 1:
            links.record(connection, blobs, series["id"])
    first = min((row["received_at"] for row in content), default=None)
    study = connection.execute(
        "SELECT t.created_at, (SELECT count(*) FROM instance i JOIN series s ON s.id = i.series WHERE s.study = t.id"
        " AND i.received_at <= t.created_at) AS early FROM study t WHERE t.id = %s AND t.created_at >= %s",
        (series["study"], first),
    ).fetchone()
    if study is not None and (study["early"] > 1 or study["created_at"] > first):
        derivation.derive_study(connection, blob_store(settings), series["study"])
