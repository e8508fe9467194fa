"""Which datasets a series is in: adding, with an entry in the journal so that a rebuilt index knows it.

Not here: which rule adds it (insitu.routing).
"""

from __future__ import annotations

from datetime import UTC, datetime

from insitu.database import Connection
from insitu.settings import Settings

from . import journal
from .blobs import blob_store


def add(connection: Connection, settings: Settings, series_id: int, project: str, dataset: str) -> bool:
    """Put a series into a dataset, which is made where it is new; whether it was not in it yet."""
    at = datetime.now(UTC)
    connection.execute("INSERT INTO dataset (project, name) VALUES (%s, %s) ON CONFLICT DO NOTHING", (project, dataset))
    added = connection.execute(
        "INSERT INTO dataset_series (project, dataset, series, added_at) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (project, dataset, series_id, at),
    ).rowcount
    if not added:
        return False
    uid = connection.execute("SELECT series_instance_uid FROM series WHERE id = %s", (series_id,)).fetchone()
    assert uid is not None  # noqa: S101  the link refers to it
    journal.append(
        blob_store(settings), "dataset", series_instance_uid=uid["series_instance_uid"], project=project,
        dataset=dataset, at=at.isoformat(),
    )  # fmt: skip
    return True
