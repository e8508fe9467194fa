"""Which projects a series belongs to: adding and taking away, with an entry in the journal so that a rebuilt index knows it.

Not here: the project a series is born into (insitu.archive.store) and who may do this (insitu.projects).
"""

from __future__ import annotations

from datetime import UTC, datetime

from insitu.database import Connection
from insitu.settings import Settings

from . import journal, rows
from .blobs import BlobStore, blob_store


def link(connection: Connection, settings: Settings, series_id: int, project: str, by: str) -> bool:
    """Put a series into a project too; whether it was not there yet."""
    at = datetime.now(UTC)
    added = rows.link(connection, series_id, project, by, at)
    if added:
        journal.append(
            blob_store(settings), "link", series_instance_uid=_uid(connection, series_id), project=project, by=by,
            at=at.isoformat(),
        )  # fmt: skip
    return added


def unlink(connection: Connection, settings: Settings, series_id: int, project: str, by: str) -> bool:
    """Take a series out of a project; whether it was there."""
    removed = (
        connection.execute(
            "DELETE FROM series_project WHERE series = %s AND project = %s", (series_id, project)
        ).rowcount
        > 0
    )
    if removed:
        journal.append(
            blob_store(settings), "unlink", series_instance_uid=_uid(connection, series_id), project=project,
            by=by, at=datetime.now(UTC).isoformat(),
        )  # fmt: skip
    return removed


def record(connection: Connection, blobs: BlobStore, series_id: int) -> None:
    """Write into the journal which projects a series is in now.

    To be called where its first object goes or is replaced: a rebuild would put it into the project which the next one came for.
    """
    held = connection.execute(
        "SELECT project, added_by AS by, added_at AS at FROM series_project WHERE series = %s ORDER BY project",
        (series_id,),
    ).fetchall()
    journal.append(
        blobs, "links", series_instance_uid=_uid(connection, series_id),
        links=[{**row, "at": row["at"].isoformat()} for row in held],
    )  # fmt: skip


def _uid(connection: Connection, series_id: int) -> str:
    row = connection.execute("SELECT series_instance_uid FROM series WHERE id = %s", (series_id,)).fetchone()
    assert row is not None  # noqa: S101  a link refers to it
    return str(row["series_instance_uid"])
