"""The whole index as values, to compare two of them row by row."""

from __future__ import annotations

from insitu.archive import completeness
from insitu.database import Database
from insitu.settings import Settings

# Everything but the keys of rows, which differ, and what a later step makes.
DUMP = {
    "receipt": "SELECT * FROM receipt ORDER BY id",
    "study": "SELECT study_instance_uid, patient_id, attributes, created_at FROM study ORDER BY 1",
    "series": "SELECT s.series_instance_uid, t.study_instance_uid, s.modality, s.attributes, s.created_at, s.state, s.revision,"
    " s.last_received_at, s.execution, s.superseded_by FROM series s JOIN study t ON t.id = s.study ORDER BY 1",
    "instance": "SELECT i.sop_instance_uid, s.series_instance_uid, i.sop_class_uid, i.transfer_syntax_uid, i.digest, i.blob_key,"
    " i.size, i.dataset_offset, i.receipt, i.received_at, i.instance_number, i.image_rows, i.image_columns,"
    " i.number_of_frames FROM instance i JOIN series s ON s.id = i.series ORDER BY 1",
    "series_project": "SELECT s.series_instance_uid, p.project, p.added_at, p.added_by"
    " FROM series_project p JOIN series s ON s.id = p.series ORDER BY 1, 2",
    "series_revision": "SELECT s.series_instance_uid, r.revision, r.completed_at, r.instances, r.bytes, r.content_digest"
    " FROM series_revision r JOIN series s ON s.id = r.series ORDER BY 1, 2",
    "series_source": "SELECT s.series_instance_uid, x.receipt FROM series_source x JOIN series s ON s.id = x.series ORDER BY 1, 2",
    "conflict": "SELECT sop_instance_uid, digest, transfer_syntax_uid, blob_key, receipt, at FROM conflict ORDER BY 1, 4",
    "quarantine": "SELECT reason, blob_key, size, receipt, at FROM quarantine ORDER BY 2",
    "conflict_resolution": "SELECT * FROM conflict_resolution ORDER BY id",
    "dataset_series": "SELECT d.project, d.dataset, s.series_instance_uid, d.added_at FROM dataset_series d"
    " JOIN series s ON s.id = d.series ORDER BY 1, 2, 3",
    "deletion": "SELECT * FROM deletion ORDER BY id",
    "hold": "SELECT * FROM hold ORDER BY 1",
}


def dump(database: Database) -> dict[str, list[dict[str, object]]]:
    """Every row of the index, by table."""
    with database.transaction() as connection:
        return {name: connection.execute(statement).fetchall() for name, statement in DUMP.items()}


def complete(database: Database, settings: Settings) -> None:
    """Do what the dispatcher does with series that are due."""
    with database.transaction() as connection:
        while completeness.absorb(connection, settings):
            pass
        completeness.complete_due(connection, settings)
