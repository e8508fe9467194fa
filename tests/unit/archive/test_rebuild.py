"""The blobs alone give back an equal index, and a scrub finds what is damaged, missing or left over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from insitu.archive import links
from insitu.archive.blobs import FileBlobStore
from insitu.archive.reindex import reindex
from insitu.archive.scrub import scrub
from insitu.archive.store import Archive, Outcome, Receipt, Stored
from insitu.database import Database
from insitu.errors import Invalid
from insitu.settings import Settings

from .index_dump import complete, dump

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]


@pytest.fixture
def full(
    database: Database, archive: Archive, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> list[Dataset]:
    """An archive with some history: the data sets of its first series."""
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('heads'), ('others')")
    first = [make(InstanceNumber=number) for number in (1, 2)]
    first[1].StudyInstanceUID, first[1].SeriesInstanceUID = first[0].StudyInstanceUID, first[0].SeriesInstanceUID
    for made in first:
        store(receipt, encode(made))
    archive.close_receipt(receipt)
    complete(database, settings)
    stow = archive.open_receipt(channel="stow", principal="anna", project="heads")
    store(stow, encode(first[0]))  # a duplicate: a link
    late = make(StudyInstanceUID=first[0].StudyInstanceUID, SeriesInstanceUID=first[0].SeriesInstanceUID)
    store(stow, encode(late))
    store(stow, encode(make(), ExplicitVRBigEndian))
    first[0].PatientID = "4712"
    assert store(stow, encode(first[0])).outcome is Outcome.CONFLICT_KEPT
    assert store(stow, b"no DICOM").outcome is Outcome.QUARANTINED
    archive.close_receipt(stow)
    complete(database, settings)
    result = archive.open_receipt(channel="result", project="heads", execution="abc-1", principal="tissue 1.0")
    store(result, encode(make(StudyInstanceUID=first[0].StudyInstanceUID)))
    archive.close_receipt(result)
    complete(database, settings)
    with database.transaction() as connection:
        rows = connection.execute("SELECT id FROM series ORDER BY id").fetchall()
        links.link(connection, settings, rows[1]["id"], "others", "rules 1")
        links.unlink(connection, settings, rows[1]["id"], "heads", "rules 1")
    return first


@pytest.mark.usefixtures("full")
def test_the_blobs_give_back_an_equal_index(
    database: Database, empty_database: Database, blobs: FileBlobStore, settings: Settings
) -> None:
    before = dump(database)
    assert {row["revision"] for row in before["series_revision"]} == {1, 2}
    assert len(before["series_project"]) == 4
    report = reindex(empty_database, blobs, settings)
    assert (report.receipts, report.objects, report.added, report.without_receipt) == (3, 5, 5, 0)
    assert (report.unreadable, report.surplus, report.changed) == ([], [], [])
    assert dump(empty_database) == before
    again = reindex(empty_database, blobs, settings)
    assert (again.added, again.corrected, again.removed) == (0, 0, 0)
    assert dump(empty_database) == before


@pytest.mark.usefixtures("full")
def test_a_rebuild_in_place_mends_lost_and_foreign_rows_and_keeps_the_others(
    database: Database, blobs: FileBlobStore, settings: Settings
) -> None:
    before = dump(database)
    with database.transaction() as connection:
        rows = connection.execute("SELECT id, blob_key FROM instance ORDER BY id").fetchall()
        connection.execute("DELETE FROM instance WHERE id = %s", (rows[0]["id"],))
        connection.execute("UPDATE instance SET size = 1 WHERE id = %s", (rows[1]["id"],))
    report = reindex(database, blobs, settings)
    assert (report.added, report.corrected, report.removed) == (1, 1, 0)
    assert dump(database) == before
    blobs.delete(rows[2]["blob_key"])
    report = reindex(database, blobs, settings)
    assert (report.removed, len(report.missing)) == (0, 1)
    assert dump(database) == before, "what is missing must not vanish from the index unseen"


def test_an_object_without_a_receipt_belongs_to_no_project(
    empty_database: Database, blobs: FileBlobStore, settings: Settings, receipt: Receipt, make: Make, encode: Encode,
    store: Store,
) -> None:  # fmt: skip
    store(receipt, encode(make()))
    blobs.delete(receipt.key)
    assert reindex(empty_database, blobs, settings).without_receipt == 1
    rebuilt = dump(empty_database)
    assert len(rebuilt["instance"]) == 1
    assert rebuilt["series_project"] == []


@pytest.mark.usefixtures("full")
def test_a_blob_store_that_is_not_there_does_not_empty_the_index(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    before = dump(database)
    with pytest.raises(Invalid, match="is empty"):
        reindex(database, FileBlobStore(tmp_path / "elsewhere"), settings)
    assert dump(database) == before


def test_a_receiver_whose_object_a_rebuild_found_first_does_not_lose_it(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, receipt: Receipt, make: Make,
    encode: Encode,
) -> None:  # fmt: skip
    incoming = archive.begin(receipt)
    incoming.write(encode(make()))
    assert incoming.prepare()  # the blob is durable, the row is not there yet
    assert reindex(database, blobs, settings).added == 1
    with database.transaction() as connection:
        assert incoming.insert(connection).outcome is Outcome.STORED
    incoming.settle()
    assert blobs.exists(incoming.key)
    assert scrub(database, blobs).healthy


def test_scrub_removes_only_what_nothing_refers_to_after_a_day(
    database: Database,
    blobs: FileBlobStore,
    archive: Archive,
    receipt: Receipt,
    make: Make,
    encode: Encode,
    store: Store,
) -> None:
    made = make()
    store(receipt, encode(made))
    made.PatientID = "4712"
    store(receipt, encode(made))
    store(receipt, b"no DICOM")
    referenced = {blob.key for blob in blobs.list()}
    incoming = archive.begin(receipt)
    incoming.write(encode(make()))
    incoming.prepare()  # as if the process had died before its transaction
    assert scrub(database, blobs).unreferenced == [incoming.key]
    for blob in blobs.list():
        os.utime(blobs.path(blob.key), (1, 1))
    assert scrub(database, blobs, remove=False).removed == []
    assert blobs.exists(incoming.key)
    assert scrub(database, blobs).removed == [incoming.key]
    assert {blob.key for blob in blobs.list()} == referenced


def test_remains_of_a_dead_writer_are_swept_and_a_living_one_goes_on(
    database: Database, blobs: FileBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_unnamed", False)  # as on a file system without nameless files
    writer = blobs.create("objects/a/b")
    writer.write(b"content")
    (blobs.root / "incoming" / "dead").write_bytes(b"half")
    assert scrub(database, blobs).abandoned == 1
    writer.commit()
    assert blobs.read("objects/a/b") == b"content"
    assert list((blobs.root / "incoming").iterdir()) == []


def test_no_acknowledged_object_becomes_surplus_because_an_unacknowledged_one_of_its_uid_came_first(
    database: Database,
    empty_database: Database,
    archive: Archive,
    blobs: FileBlobStore,
    settings: Settings,
    receipt: Receipt,
    make: Make,
    encode: Encode,
    store: Store,
) -> None:
    made = make()
    early = archive.begin(receipt)
    early.write(encode(make(SOPInstanceUID=made.SOPInstanceUID, PatientID="4712")))
    assert early.prepare()  # durable, and then killed: never acknowledged
    assert store(receipt, encode(made)).outcome is Outcome.STORED
    with database.transaction() as connection:
        acknowledged = connection.execute("SELECT digest FROM instance").fetchone()
    report = reindex(empty_database, blobs, settings)
    assert (report.added, report.surplus, len(report.conflicts)) == (1, [], 1)
    scrub(empty_database, blobs, now=time.time() + 10 * 86_400)
    with empty_database.transaction() as connection:
        kept = connection.execute("SELECT digest, blob_key FROM conflict").fetchone()
    assert acknowledged is not None
    assert kept is not None
    assert kept["digest"] == acknowledged["digest"]
    assert blobs.exists(kept["blob_key"])
    again = reindex(empty_database, blobs, settings)
    assert (again.added, again.conflicts, again.surplus) == (0, [], [])


def test_a_rebuild_puts_aside_what_it_cannot_place_so_that_no_scrub_removes_it(
    empty_database: Database,
    blobs: FileBlobStore,
    settings: Settings,
    receipt: Receipt,
    make: Make,
    encode: Encode,
    store: Store,
) -> None:
    store(receipt, encode(make()))
    (object_blob,) = blobs.list("objects/")
    blobs.path(object_blob.key).write_bytes(b"rotten beyond recognition")
    report = reindex(empty_database, blobs, settings)
    assert report.unreadable == [object_blob.key]
    scrub(empty_database, blobs, now=time.time() + 10 * 86_400)
    with empty_database.transaction() as connection:
        kept = connection.execute("SELECT blob_key, reason FROM quarantine").fetchone()
    assert kept is not None
    assert "cannot be read" in kept["reason"]
    assert blobs.exists(kept["blob_key"])
