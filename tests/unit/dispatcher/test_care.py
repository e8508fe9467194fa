"""The dispatcher cares for the archive by itself: it scrubs, counts, finishes what was left and deletes by rule, if it is told to."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from insitu.archive import completeness, deletion, journal, scrub
from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.settings import RetentionRule, Settings
from insitu_services.dispatcher import care as caring
from insitu_services.dispatcher.care import Care

PATIENCE = 60  # seconds a loaded machine may take


@pytest.fixture
def archive(database: Database, tmp_path: Path) -> Iterator[Archive]:
    """An archive with one complete series, whose rules take what is old."""
    rule = RetentionRule(name="old", project="*", days=1, age="study-date", keep=())
    settings = Settings(home=tmp_path, quiet_time=0, scrub_days=1e-9, retention=(rule,))
    archive = Archive(database, FileBlobStore(settings.blobs), settings)
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.StudyDate, made.Modality, made.PatientID = "20200101", "CT", "4711"
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, made, enforce_file_format=True)
    receipt = archive.open_receipt(channel="import")
    with archive.begin(receipt) as incoming:
        incoming.write(stream.getvalue())
        assert incoming.commit().success
    archive.close_receipt(receipt)
    with database.transaction() as connection:
        completeness.absorb(connection, settings)
        completeness.complete_due(connection, settings)
    yield archive
    archive.close()


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def instances(archive: Archive) -> int:
    """How many there are."""
    with archive.database.transaction() as connection:
        row = connection.execute("SELECT count(*) AS n FROM instance").fetchone()
    return int(row["n"]) if row else 0


def test_rot_is_found_and_counted_without_a_person_and_rules_do_nothing_unless_told(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caring, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(caring, "RETENTION_AFTER", 0.0)
    (blob,) = archive.blobs.list("objects/")
    path = archive.blobs.path(blob.key)  # type: ignore[attr-defined]
    path.write_bytes(path.read_bytes()[:-1])

    def damaged() -> object:
        with archive.database.transaction() as connection:
            return scrub.damaged(connection)

    def counted() -> object:
        with archive.database.transaction() as connection:
            return connection.execute("SELECT 1 FROM archive_statistic WHERE series = 1").fetchone()

    care = Care(archive)
    care.start()
    try:
        until(damaged)
        until(counted)
    finally:
        care.stop()
    assert instances(archive) == 1, "a rule was carried out that nobody asked for"


def test_what_was_left_in_the_middle_and_what_a_rule_takes_stays(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caring, "RETENTION_AFTER", 0.0)
    archive.settings = archive.settings.model_copy(update={"retention_automatic": True})
    Care(archive).look()
    assert instances(archive) == 0
    with archive.database.transaction() as connection:
        (row,) = deletion.listed(connection)
        connection.execute("UPDATE deletion SET keys = '{}', at = at - interval '1 hour'")
    assert (row["actor"], row["rule"]) == ("retention", "old")
    with archive.database.transaction() as connection:
        connection.execute(
            'INSERT INTO journal_due (event, content) VALUES (\'senders\', \'{"key": "x", "calling_ae": "Y"}\')'
        )
    Care(archive).look()
    assert [entry for entry in journal.entries(archive.blobs) if entry["event"] == "senders"]
    with archive.database.transaction() as connection:
        assert connection.execute("SELECT 1 FROM journal_due").fetchone() is None
        assert deletion.listed(connection)[0]["done"]


def test_two_dispatchers_scrub_and_delete_one_at_a_time(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(Care, "_scrub", lambda self: done.append("scrub"))
    monkeypatch.setattr(Care, "_retain", lambda self: done.append("retain"))
    first, second = Care(archive), Care(archive)
    dsn = archive.database.dsn
    with caring.alone(dsn, caring.SCRUB_LOCK) as mine, caring.alone(dsn, caring.RETENTION_LOCK):
        assert mine
        second.scrub()
        second.retain()
    assert done == []
    first.scrub()
    first.retain()
    assert done == ["scrub", "retain"], "the right was not given back"
