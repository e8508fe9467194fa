"""How much the archive holds: studies, series, instances and bytes, by project, modality and month of arrival.

Counted as a whole now and then by the dispatcher, so that asking costs nothing. Objects of a series count from its first completion.
Not here: how fast objects come in (the metrics of the processes).
"""

from __future__ import annotations

import shutil
import time
from typing import Any

from insitu.database import Connection, Row
from insitu.settings import Settings

LOCK = 0x696E7374  # of one who counts
SHARE = 100  # counting may take a hundredth of the time
SHORTEST = 60.0  # seconds between two countings

# One pass over the series and their last revisions; the instances are not touched.
_COUNT = """
WITH counted AS MATERIALIZED (
    SELECT s.id, s.study, s.modality, to_char(s.created_at AT TIME ZONE 'UTC', 'YYYY-MM') AS month, s.created_at,
        coalesce(r.instances, 0) AS instances, coalesce(r.bytes, 0) AS bytes
    FROM series s LEFT JOIN series_revision r ON r.series = s.id AND r.revision = s.revision
)
INSERT INTO archive_statistic (project, by, value, studies, series, instances, bytes, oldest, newest)
SELECT NULL, CASE WHEN GROUPING(modality) = 0 THEN 'modality' WHEN GROUPING(month) = 0 THEN 'month' ELSE 'all' END,
    CASE WHEN GROUPING(modality) = 0 THEN modality WHEN GROUPING(month) = 0 THEN month ELSE '' END,
    count(DISTINCT study), count(*), coalesce(sum(instances), 0), coalesce(sum(bytes), 0), min(created_at), max(created_at)
FROM counted GROUP BY GROUPING SETS ((), (modality), (month))
UNION ALL
SELECT p.project, CASE WHEN GROUPING(modality) = 0 THEN 'modality' WHEN GROUPING(month) = 0 THEN 'month' ELSE 'all' END,
    CASE WHEN GROUPING(modality) = 0 THEN modality WHEN GROUPING(month) = 0 THEN month ELSE '' END,
    count(DISTINCT study), count(*), sum(instances), sum(bytes), min(created_at), max(created_at)
FROM counted JOIN series_project p ON p.series = counted.id
GROUP BY GROUPING SETS ((p.project), (p.project, modality), (p.project, month))
"""


def refresh(connection: Connection, *, force: bool = False) -> bool:
    """Count again, unless that was done lately or is being done; whether it was done.

    Counting reads every series once, about 5 s for a million of them on two cores; it is done at most once a minute and takes at
    most a hundredth of the time.

    Parameters
    ----------
    connection : Connection
    force : bool
        Count also where that was done lately.
    """
    locked = connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS mine", (LOCK,)).fetchone()
    if locked is None or not locked["mine"]:
        return False
    recent = connection.execute(
        "SELECT 1 FROM statistic_state WHERE taken_at + make_interval(secs => greatest(%s, %s * seconds))"
        " > clock_timestamp()",
        (SHORTEST, SHARE),
    ).fetchone()
    if recent and not force:
        return False
    started = time.monotonic()
    connection.execute("SET LOCAL work_mem = '64MB'")
    connection.execute("DELETE FROM archive_statistic")
    connection.execute(_COUNT)
    connection.execute("DELETE FROM statistic_state")
    connection.execute(
        "INSERT INTO statistic_state (taken_at, seconds) VALUES (clock_timestamp(), %s)", (time.monotonic() - started,)
    )
    return True


def read(connection: Connection, projects: frozenset[str] | None) -> dict[str, Any]:
    """What was counted last.

    Parameters
    ----------
    connection : Connection
    projects : frozenset of str or None
        The caller's; None for everything, also series that no project holds.

    Returns
    -------
    dict
        `taken_at`; `projects`, each with its `total`, `modalities` and `months`, where a series that two projects hold counts in both;
        and `archive`, the same for the whole, each series once (None for who may not see everything).
    """
    state = connection.execute("SELECT taken_at, seconds FROM statistic_state").fetchone()
    if state is None and refresh(connection):
        state = connection.execute("SELECT taken_at, seconds FROM statistic_state").fetchone()
    rows = connection.execute(
        "SELECT * FROM archive_statistic WHERE %s OR project = ANY(%s) ORDER BY project, by, value",
        (projects is None, sorted(projects or ())),
    ).fetchall()
    found: dict[str | None, dict[str, Any]] = {}
    for row in rows:
        part = found.setdefault(row["project"], {"total": None, "modalities": {}, "months": {}})
        if row["by"] == "all":
            part["total"] = _counts(row)
        else:
            part["modalities" if row["by"] == "modality" else "months"][row["value"]] = _counts(row)
    return {
        "taken_at": state["taken_at"].isoformat() if state else None,
        "archive": found.pop(None, None),
        "projects": found,
    }


def condition(connection: Connection, settings: Settings) -> dict[str, Any]:
    """What whoever manages the archive looks after: what waits for a person, damage, and room on the disk in bytes.

    An object store does not say how much room it has: `disk_bytes` and `disk_free_bytes` are None there.
    """
    row = connection.execute(
        "SELECT (SELECT count(*) FROM quarantine) AS quarantine, (SELECT count(*) FROM conflict) AS conflicts,"
        " (SELECT count(*) FROM damage) AS damaged, (SELECT count(*) FROM hold) AS holds,"
        " (SELECT count(*) FROM deletion WHERE keys IS NOT NULL) AS deletions_open,"
        " (SELECT max(finished_at) FROM scrub_round WHERE objects > 0) AS scrubbed_at,"
        " pg_database_size(current_database()) AS index_bytes"
    ).fetchone()
    assert row is not None  # noqa: S101  a row of counts
    disk = None if settings.object_store else shutil.disk_usage(settings.blobs)
    scrubbed = row["scrubbed_at"]
    return {
        **row,
        "scrubbed_at": scrubbed.isoformat() if scrubbed else None,
        "disk_bytes": disk.total if disk else None,
        "disk_free_bytes": disk.free if disk else None,
        "object_store": settings.object_store,
    }


def _counts(row: Row) -> dict[str, Any]:
    return {
        "studies": row["studies"],
        "series": row["series"],
        "instances": row["instances"],
        "bytes": row["bytes"],
        "oldest": row["oldest"].isoformat() if row["oldest"] else None,
        "newest": row["newest"].isoformat() if row["newest"] else None,
    }
