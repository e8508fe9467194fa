"""Reading the index: series, their instances, what is known of them and how they came.

Not here: searches of QIDO-RS (the api) and writing (insitu.archive.store).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from insitu.database import Connection, Row

_SERIES = (
    "SELECT s.*, st.study_instance_uid,"
    " ARRAY(SELECT p.project FROM series_project p WHERE p.series = s.id ORDER BY p.project) AS projects"
    " FROM series s JOIN study st ON st.id = s.study"
)


def find_series(connection: Connection, series_instance_uid: str, projects: frozenset[str] | None) -> Row | None:
    """A series with its study's UID and its projects.

    Parameters
    ----------
    connection : Connection
    series_instance_uid : str
    projects : frozenset of str or None
        Only if it belongs to one of these; None for any, also none.

    Returns
    -------
    dict or None
        None where there is no such series, or none that these projects may know of.
    """
    row = connection.execute(f"{_SERIES} WHERE s.series_instance_uid = %s", (series_instance_uid,)).fetchone()
    if row is None or (projects is not None and projects.isdisjoint(row["projects"])):
        return None
    return row


def series_instances(connection: Connection, series_id: int) -> list[Row]:
    """The instances of a series by Instance Number, then UID."""
    return connection.execute(
        'SELECT * FROM instance WHERE series = %s ORDER BY instance_number NULLS LAST, sop_instance_uid COLLATE "C"',
        (series_id,),
    ).fetchall()


def count_instances(connection: Connection, series_id: int) -> int:
    """Number of instances of a series."""
    row = connection.execute("SELECT count(*) AS n FROM instance WHERE series = %s", (series_id,)).fetchone()
    return int(row["n"]) if row else 0


def find_instance(connection: Connection, sop_instance_uid: str, projects: frozenset[str] | None) -> Row | None:
    """An instance with `series_instance_uid`, `study_instance_uid` and `projects`; see `find_series`."""
    row = connection.execute(
        "SELECT i.*, s.series_instance_uid, st.study_instance_uid,"
        " ARRAY(SELECT p.project FROM series_project p WHERE p.series = s.id ORDER BY p.project) AS projects"
        " FROM instance i JOIN series s ON s.id = i.series JOIN study st ON st.id = s.study"
        " WHERE i.sop_instance_uid = %s",
        (sop_instance_uid,),
    ).fetchone()
    if row is None or (projects is not None and projects.isdisjoint(row["projects"])):
        return None
    return row


def digest_of(instances: Iterable[Row]) -> bytes:
    """SHA-256 over SOP Instance UID and digest of instances, sorted by UID: equal for equal content, whatever the order."""
    digest = hashlib.sha256()
    for uid, content in sorted((row["sop_instance_uid"].encode(), bytes(row["digest"])) for row in instances):
        digest.update(uid + b"\0" + content)
    return digest.digest()


def content_digest(connection: Connection, series_id: int) -> bytes:
    """The digest of a series as it is now; that of its last revision where nothing came since."""
    return digest_of(
        connection.execute("SELECT sop_instance_uid, digest FROM instance WHERE series = %s", (series_id,)).fetchall()
    )


def series_attributes(connection: Connection, series_id: int) -> dict[str, Any]:
    """What is known of a series as DICOM JSON: study and series level, and all of its first instance where that is read.

    The first instance is that of the lowest Instance Number.
    """
    row = connection.execute(
        "SELECT st.attributes AS study, s.attributes AS series, first.sop_class_uid, first.body"
        " FROM series s JOIN study st ON st.id = s.study LEFT JOIN LATERAL"
        "  (SELECT i.sop_class_uid, m.body FROM instance i LEFT JOIN instance_metadata m ON m.instance = i.id"
        '   WHERE i.series = s.id ORDER BY i.instance_number NULLS LAST, i.sop_instance_uid COLLATE "C" LIMIT 1) AS first'
        " ON true WHERE s.id = %s",
        (series_id,),
    ).fetchone()
    if row is None:
        return {}
    merged: dict[str, Any] = {**row["study"], **row["series"]}
    if row["sop_class_uid"]:
        merged["00080016"] = {"vr": "UI", "Value": [row["sop_class_uid"]]}
    merged.update(row["body"] or {})
    return merged


def series_context(connection: Connection, series_id: int) -> dict[str, Any]:
    """How a series came: `source` is `result` or the channel of its first receipt; the rest are sorted lists without doubles."""
    receipts = connection.execute(
        "SELECT r.* FROM series_source ss JOIN receipt r ON r.id = ss.receipt WHERE ss.series = %s"
        " ORDER BY r.arrived_at, r.id",
        (series_id,),
    ).fetchall()
    series = connection.execute("SELECT execution FROM series WHERE id = %s", (series_id,)).fetchone()
    execution = series["execution"] if series else None
    context: dict[str, Any] = {
        "source": "result" if execution else receipts[0]["channel"] if receipts else None,
        "execution": execution,
    }
    for name in ("channel", "calling_ae", "called_ae", "peer", "principal", "project"):
        context[name] = sorted({row[name] for row in receipts if row[name]})
    return context
