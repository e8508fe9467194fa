"""The whole index as values, to compare two of them row by row; what a rebuild does not bring back, and why."""

from __future__ import annotations

from insitu.archive import completeness, journal
from insitu.archive.blobs import blob_store
from insitu.database import Database
from insitu.settings import Settings

# Every table that a rebuild makes equal, without the numbers of rows, which differ: what refers to a row is compared by its UID.
DUMP = {
    "project": "SELECT name FROM project p WHERE EXISTS (SELECT 1 FROM series_project s WHERE s.project = p.name) ORDER BY 1",
    "receipt": "SELECT * FROM receipt ORDER BY id",
    "study": "SELECT study_instance_uid, patient_id, attributes, created_at FROM study ORDER BY 1",
    "study_project": "SELECT t.study_instance_uid, p.project, p.study_date FROM study_project p JOIN study t ON t.id = p.study"
    " WHERE EXISTS (SELECT 1 FROM series s JOIN series_project x ON x.series = s.id WHERE s.study = t.id"
    " AND x.project = p.project) ORDER BY 1, 2",
    "series": "SELECT s.series_instance_uid, t.study_instance_uid, s.modality, s.attributes, s.created_at, s.state, s.revision,"
    " s.last_received_at, s.execution, s.superseded_by FROM series s JOIN study t ON t.id = s.study ORDER BY 1",
    "instance": "SELECT i.sop_instance_uid, s.series_instance_uid, i.sop_class_uid, i.transfer_syntax_uid, i.digest, i.blob_key,"
    " i.size, i.dataset_offset, i.receipt, i.received_at, i.instance_number, i.image_rows, i.image_columns,"
    " i.number_of_frames FROM instance i JOIN series s ON s.id = i.series ORDER BY 1",
    "instance_sender": "SELECT i.sop_instance_uid, x.calling_ae FROM instance_sender x JOIN instance i ON i.id = x.instance"
    " ORDER BY 1, 2",
    "series_project": "SELECT s.series_instance_uid, p.project, p.added_at, p.added_by"
    " FROM series_project p JOIN series s ON s.id = p.series ORDER BY 1, 2",
    "series_revision": "SELECT s.series_instance_uid, r.revision, r.completed_at, r.instances, r.bytes, r.content_digest"
    " FROM series_revision r JOIN series s ON s.id = r.series ORDER BY 1, 2",
    "series_source": "SELECT s.series_instance_uid, x.receipt FROM series_source x JOIN series s ON s.id = x.series ORDER BY 1, 2",
    "conflict": "SELECT sop_instance_uid, digest, transfer_syntax_uid, blob_key, receipt, at FROM conflict ORDER BY 1, 4",
    "quarantine": "SELECT reason, blob_key, size, receipt, at FROM quarantine ORDER BY 2",
    "conflict_resolution": "SELECT * FROM conflict_resolution ORDER BY id",
    "dataset": "SELECT * FROM dataset ORDER BY 1, 2",
    "dataset_series": "SELECT d.project, d.dataset, s.series_instance_uid, d.added_at FROM dataset_series d"
    " JOIN series s ON s.id = d.series ORDER BY 1, 2, 3",
    "deletion": "SELECT * FROM deletion ORDER BY id",
    "hold": "SELECT * FROM hold ORDER BY 1",
}
# Numbers of rows, for which UIDs stand above; of conflicts and quarantine the key of the blob.
NUMBERS = {"id", "series", "study", "instance"}
# Columns of those tables that may differ, and why.
OTHERWISE = {
    "project": {
        "title",
        "weight",
        "runs_at_once",
        "created_at",
    },  # a rebuild knows the names of projects that hold something, and nothing else of them
    "study": {"study_date", "patient_name", "patient_ideographic", "patient_phonetic"},  # made from the attributes
    "series": {"complete_after"},  # a deadline from now on
}
IN_BACKUPS_ONLY = "in the database and its backup only"
MADE_AGAIN = "made again from the objects by the dispatcher"
PASSING = "of what was under way"
# Tables that a rebuild leaves as they are, and why.
NOT_REBUILT = {
    **dict.fromkeys(
        (
            "account", "membership", "session", "api_token", "audit_event", "audit_seal", "audit_pending", "node", "rule_set",
            "routing_decision", "algorithm", "run", "execution", "execution_event", "execution_result", "execution_log",
            "transfer", "transfer_object", "retrieval",
        ),
        IN_BACKUPS_ONLY,
    ),
    **dict.fromkeys(("instance_metadata", "archive_statistic", "statistic_state", "damage", "scrub_round"), MADE_AGAIN),
    **dict.fromkeys(("association", "series_event", "journal_due", "commitment_report", "execution_token", "sign_of_life"), PASSING),
}  # fmt: skip


def dump(database: Database) -> dict[str, list[dict[str, object]]]:
    """Every row of the index, by table."""
    with database.transaction() as connection:
        return {name: connection.execute(statement).fetchall() for name, statement in DUMP.items()}


def complete(database: Database, settings: Settings) -> None:
    """Do what the dispatcher does with series that are due, and with what the journal is still to be told."""
    with database.transaction() as connection:
        while completeness.absorb(connection, settings):
            pass
        completeness.complete_due(connection, settings)
    journal.write_due(database, blob_store(settings))


def columns(database: Database) -> dict[str, tuple[set[str], set[str]]]:
    """Of every table the columns it has, and those that are compared."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT table_name, array_agg(column_name::text) AS names FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name <> 'alembic_version' GROUP BY table_name"
        ).fetchall()
        compared = {
            name: {column.name for column in connection.execute(statement).description or ()}
            for name, statement in DUMP.items()
        }
    return {row["table_name"]: (set(row["names"]), compared.get(row["table_name"], set())) for row in rows}
