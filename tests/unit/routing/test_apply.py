"""Rules on a real database: saving, routing a stored series, keeping the decision, the dry run."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from psycopg.types.json import Jsonb
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from insitu.archive import completeness, metadata
from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Connection, Database
from insitu.errors import Invalid, NotFound
from insitu.routing import apply, store
from insitu.routing.evaluate import Decision
from insitu.routing.model import RuleSet
from insitu.routing.replay import replay
from insitu.settings import Settings

HEAD_CT = {
    "name": "head-ct",
    "when": {"Modality": "CT", "SliceThickness": {"range": {"max": 5}}},
    "then": {"project": "trial", "dataset": "heads", "algorithms": [{"name": "tissue", "parameters": {"k": 1}}]},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, quiet_time=0)


@pytest.fixture
def archive(database: Database, settings: Settings) -> Iterator[Archive]:
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('inbox'), ('trial')")
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES ('sha256:a', 'tissue', '1.0.0', %s, '/nowhere', 'test')",
            (Jsonb({}),),
        )
    archive = Archive(database, FileBlobStore(settings.blobs), settings)
    yield archive
    archive.close()


def image(series: str, **values: Any) -> bytes:
    made = Dataset()
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID = f"{series}.1"
    made.SeriesInstanceUID = series
    made.Modality = "CT"
    made.PatientID = "4711"
    made.SliceThickness = "3"
    for keyword, value in values.items():
        setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


def send(archive: Archive, file: bytes, **arrival: Any) -> None:
    receipt = archive.open_receipt(**{"channel": "dimse", "calling_ae": "CT1", "called_ae": "INSITU", **arrival})
    incoming = archive.begin(receipt)
    incoming.write(file)
    incoming.commit()
    archive.close_receipt(receipt)


def route(database: Database, settings: Settings) -> list[Decision]:
    """What the dispatcher does with series that have become complete."""
    with database.transaction() as connection:
        completeness.absorb(connection, settings)
        due = completeness.complete_due(connection, settings)
        for series in due:
            metadata.project_series(connection, FileBlobStore(settings.blobs), series.series_id)
        return [apply.apply(connection, settings, series) for series in due]


def save(database: Database, *rules: dict[str, Any]) -> int:
    with database.transaction() as connection:
        return store.save(connection, RuleSet.model_validate({"rules": rules}), "admin")


def column(connection: Connection, query: str) -> list[Any]:
    return [next(iter(row.values())) for row in connection.execute(query)]


def test_a_series_that_matches_moves_into_its_project_and_dataset(
    database: Database, archive: Archive, settings: Settings
) -> None:
    version = save(database, HEAD_CT)
    send(archive, image("1.2.3"))
    (decision,) = route(database, settings)
    assert [(run.project, run.algorithm, run.parameters) for run in decision.runs] == [("trial", "tissue", {"k": 1})]
    with database.transaction() as connection:
        assert column(connection, "SELECT project FROM series_project") == ["trial"]
        assert column(connection, "SELECT project || '/' || dataset FROM dataset_series") == ["trial/heads"]
        (kept,) = apply.explain(connection, column(connection, "SELECT id FROM series")[0])
    assert (kept["revision"], kept["rule_set"]) == (1, version)
    assert "rule 'head-ct' matched" in kept["decision"]["trace"][0]["explanation"]


def test_a_series_without_a_matching_rule_stays_in_the_default_project_and_says_why(
    database: Database, archive: Archive, settings: Settings
) -> None:
    save(database, HEAD_CT)
    send(archive, image("1.2.3", SliceThickness=""))
    (decision,) = route(database, settings)
    assert decision.trace[0].explanation == "rule 'head-ct' did not match because SliceThickness is absent"
    with database.transaction() as connection:
        assert column(connection, "SELECT project FROM series_project") == ["inbox"]


def test_a_project_the_sender_named_is_kept(database: Database, archive: Archive, settings: Settings) -> None:
    save(database, {**HEAD_CT, "then": {"project": "trial"}})
    send(archive, image("1.2.3"), project="inbox", channel="stow")
    route(database, settings)
    with database.transaction() as connection:
        assert column(connection, "SELECT project FROM series_project ORDER BY 1") == ["inbox", "trial"]


def test_late_objects_do_not_run_the_algorithm_again_unless_asked(
    database: Database, archive: Archive, settings: Settings
) -> None:
    save(database, HEAD_CT)
    send(archive, image("1.2.3"))
    assert len(route(database, settings)[0].runs) == 1
    send(archive, image("1.2.3"))
    (late,) = route(database, settings)
    assert late.runs == ()
    save(database, {**HEAD_CT, "then": {**HEAD_CT["then"], "again": True}})
    send(archive, image("1.2.3"))
    assert len(route(database, settings)[0].runs) == 1


def test_rules_that_cannot_work_here_are_refused_when_saved(database: Database, archive: Archive) -> None:
    with pytest.raises(Invalid, match="project that does not exist"):
        save(database, {"name": "r", "then": {"project": "nobody"}})
    with pytest.raises(Invalid, match="algorithm that is not installed"):
        save(database, {"name": "r", "then": {"algorithms": [{"name": "tissue", "version": "2"}]}})
    with pytest.raises(Invalid, match="circle"):
        save(database, {"name": "r", "source": "result", "then": {"algorithms": [{"name": "tissue"}]}})
    with database.transaction() as connection:
        assert store.current(connection) == (None, RuleSet())


def test_every_saved_rule_set_stays_readable_as_a_version(database: Database, archive: Archive) -> None:
    assert save(database, HEAD_CT) == 1
    assert save(database) == 2
    with database.transaction() as connection:
        assert store.current(connection) == (2, RuleSet())
        assert store.get(connection, 1)[1].rules[0].name == "head-ct"
        assert [(item["version"], item["rules"]) for item in store.history(connection)] == [(2, 0), (1, 1)]
        with pytest.raises(NotFound):
            store.get(connection, 3)


def test_the_dry_run_counts_and_changes_nothing(database: Database, archive: Archive, settings: Settings) -> None:
    send(archive, image("1.2.3"))
    send(archive, image("1.2.4", Modality="MR"))
    route(database, settings)
    with database.transaction() as connection:
        outcome = replay(connection, settings, RuleSet.model_validate({"rules": [HEAD_CT]}))
        assert column(connection, "SELECT DISTINCT project FROM series_project") == ["inbox"]
        assert column(connection, "SELECT count(*) FROM dataset") == [0]
    assert (outcome.series, outcome.unmatched, outcome.runs) == (2, 1, 1)
    assert (outcome.rules[0].matched, outcome.rules[0].series) == (1, ["1.2.3"])
