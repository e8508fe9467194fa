"""The blobs alone give back an equal index, and a scrub finds what is damaged, missing or left over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from insitu.archive import conflicts, datasets, deletion, holds, links, quarantine
from insitu.archive.blobs import FileBlobStore
from insitu.archive.reindex import reindex
from insitu.archive.scrub import scrub
from insitu.archive.store import Archive, Outcome, Receipt, Stored
from insitu.database import Database
from insitu.errors import Invalid
from insitu.runs import executions
from insitu.settings import Settings

from .index_dump import DUMP, NOT_REBUILT, NUMBERS, OTHERWISE, columns, complete, dump

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


def test_no_table_and_no_column_is_forgotten(database: Database) -> None:
    found = columns(database)
    assert set(found) == set(DUMP) | set(NOT_REBUILT)
    assert not set(DUMP) & set(NOT_REBUILT)
    for table in DUMP:
        there, compared = found[table]
        assert there - compared - NUMBERS == OTHERWISE.get(table, set()), table


WHY = "the technician asked for it"


def test_every_row_comes_back_whatever_was_done_to_the_archive(
    full: list[Dataset], database: Database, empty_database: Database, archive: Archive, blobs: FileBlobStore,
    settings: Settings, make: Make, encode: Encode, store: Store,
) -> None:  # fmt: skip
    receipts = [archive.open_receipt(channel="dimse", calling_ae=name) for name in ("FIRST", "SECOND", "THIRD")]
    one = make(SeriesDescription="one")
    of_one = {"StudyInstanceUID": one.StudyInstanceUID, "SeriesInstanceUID": one.SeriesInstanceUID}
    two, three = make(**of_one), make(**of_one)
    gone, lost = make(StudyInstanceUID=one.StudyInstanceUID), make()
    for made in (one, two, three, gone, lost):
        assert store(receipts[0], encode(made)).outcome is Outcome.STORED
    for receipt in receipts[1:]:  # others who sent the very same
        for made in (one, two, gone, lost):
            assert store(receipt, encode(made)).outcome is Outcome.DUPLICATE
    # second objects: one is to count, one is given up, one waits
    for made in (one, two, three):
        other = Dataset()
        other.update(made)
        other.SeriesDescription = "another"
        assert store(receipts[1], encode(other)).outcome is Outcome.CONFLICT_KEPT
    strange = make(StudyInstanceUID=one.StudyInstanceUID, PatientID="0815")
    assert store(receipts[1], encode(strange)).outcome is Outcome.QUARANTINED
    assert store(receipts[1], b"discarded").outcome is Outcome.QUARANTINED
    for receipt in receipts:
        archive.close_receipt(receipt)
    complete(database, settings)
    with database.transaction() as connection:
        waiting = {row["sop_instance_uid"]: row["id"] for row in conflicts.listed(connection)}
        aside = quarantine.listed(connection)[0]["id"]
        series = {
            row["series_instance_uid"]: row["id"]
            for row in connection.execute("SELECT id, series_instance_uid FROM series").fetchall()
        }
        datasets.add(connection, settings, series[one.SeriesInstanceUID], "heads", "all")
        datasets.add(connection, settings, series[gone.SeriesInstanceUID], "heads", "all")
        links.link(connection, settings, series[one.SeriesInstanceUID], "heads", "anna")
        links.unlink(connection, settings, series[one.SeriesInstanceUID], "inbox", "anna")
        for study in (one, full[0], lost):
            holds.place(connection, blobs, study.StudyInstanceUID, WHY, "anna")
        holds.release(connection, blobs, one.StudyInstanceUID, WHY, "anna")
        holds.release(connection, blobs, lost.StudyInstanceUID, WHY, "anna")
        key = connection.execute(
            "SELECT blob_key FROM instance WHERE sop_instance_uid = %s", (lost.SOPInstanceUID,)
        ).fetchone()
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES ('d', 'tissue', '1', '{}', '', 'anna')"
        )
        connection.execute(
            "INSERT INTO run (identity, project, algorithm, publish_version, inputs, parameters)"
            " VALUES ('abc', 'heads', 'd', '1', '[{\"name\": \"image\", \"series_instance_uid\": \"1.2\"}]', '{}')"
        )
        for number in (1, 2):
            connection.execute(
                "INSERT INTO execution (id, run, number, requested_by, state) VALUES (%s, 'abc', %s, 'anna', 'succeeded')",
                (f"abc-{number}", number),
            )
        executions.supersede(connection, "abc-2")
    quarantine.remove(database, blobs, aside)
    conflicts.resolve(archive, waiting[one.SOPInstanceUID], "replace", actor="anna", reason=WHY)
    conflicts.resolve(archive, waiting[two.SOPInstanceUID], "keep", actor="anna", reason=WHY)
    deletion.delete(archive, "anna", instance=two.SOPInstanceUID, reason=WHY, projects=None)
    deletion.delete(archive, "anna", series=gone.SeriesInstanceUID, reason=WHY, projects=None)
    assert key is not None
    blobs.delete(key["blob_key"])  # the disk has lost it
    again = archive.open_receipt(channel="stow", principal="anna", project="others")
    for made in (gone, lost):  # what was deleted, as a new one; what was lost, in its place
        assert store(again, encode(made)).outcome is Outcome.STORED
    archive.close_receipt(again)
    complete(database, settings)
    before = dump(database)
    empty = {name for name, rows in before.items() if not rows}
    assert not empty, "there is something to compare in every table"
    assert {row["superseded_by"] for row in before["series"]} == {None, "abc-2"}
    assert len(before["instance_sender"]) == 2  # of what was lost; of the others the instance is another one or gone
    for target in (empty_database, empty_database, database):
        report = reindex(target, blobs, settings)
        assert (report.unreadable, report.surplus, report.changed, report.missing) == ([], [], [], [])
        after = dump(target)
        for table, rows in before.items():
            assert after[table] == rows, table
    assert scrub(empty_database, blobs).healthy


@pytest.mark.parametrize("projects", [("heads", "others"), ("heads", "heads")])
def test_a_series_whose_first_objects_come_from_two_senders_at_once_comes_back_as_it_was(
    projects: tuple[str, str], database: Database, empty_database: Database, archive: Archive, blobs: FileBlobStore,
    settings: Settings, make: Make, encode: Encode,
) -> None:  # fmt: skip
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('heads'), ('others')")
    slow = make(SeriesDescription="first to arrive", StudyDescription="first to arrive")
    quick = make(
        StudyInstanceUID=slow.StudyInstanceUID,
        SeriesInstanceUID=slow.SeriesInstanceUID,
        SeriesDescription="first to be done",
    )
    receipts = [archive.open_receipt(channel="stow", principal=f"of {name}", project=name) for name in projects]
    first = archive.begin(receipts[0])
    first.write(encode(slow)[:500])
    with archive.begin(receipts[1]) as second:
        second.write(encode(quick))
        assert second.commit().outcome is Outcome.STORED
    first.write(encode(slow)[500:])
    assert first.commit().outcome is Outcome.STORED
    for receipt in receipts:
        archive.close_receipt(receipt)
    complete(database, settings)
    before = dump(database)
    (series,) = before["series"]
    assert series["attributes"]["0008103E"]["Value"] == ["first to arrive"]  # type: ignore[index]
    assert [row["project"] for row in before["series_project"]] == [projects[1]], "who saw it yesterday sees it today"
    reindex(empty_database, blobs, settings)
    assert dump(empty_database) == before


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove"])
def test_damage_to_a_receipt_or_the_journal_is_seen_and_never_believed(
    harm: str, full: list[Dataset], database: Database, empty_database: Database, archive: Archive, blobs: FileBlobStore,
    settings: Settings, receipt: Receipt,
) -> None:  # fmt: skip
    deletion.delete(archive, "anna", instance=full[1].SOPInstanceUID, reason=WHY, projects=None)
    complete(database, settings)
    assert scrub(database, blobs).healthy
    harmed = [receipt.key]
    harmed += [info.key for info in blobs.list("journal/") if b'"event":"deletion"' in blobs.read(info.key)]
    assert len(harmed) == 2
    for key in harmed:
        path = blobs.path(key)
        content = path.read_bytes()
        if harm == "remove":
            path.unlink()
        else:  # a letter that leaves it readable, say in a name or a date
            changed = {"flip": content.replace(b"2026", b"2027", 1).replace(b"asked", b"taked", 1), "cut": content[:-9]}
            path.write_bytes(changed.get(harm, b""))
            assert path.read_bytes() != content
    report = scrub(database, blobs)
    assert (sorted(report.records), report.healthy) == (sorted(harmed), False)
    assert all(blobs.exists(key) for key in harmed) is (harm != "remove"), "they are left for a person"
    assert not scrub(database, blobs).healthy, "it is told until it is mended"
    before = dump(database)
    in_place = reindex(database, blobs, settings)
    assert dump(database) == before, "what is in the index stays"
    anew = reindex(empty_database, blobs, settings)
    for rebuilt in (in_place, anew):
        assert sorted(rebuilt.unreadable) == ([] if harm == "remove" else sorted(harmed))
    assert anew.without_receipt == 1
    assert dump(empty_database)["deletion"] == [], "of a deletion nobody can read only the objects are gone"
    assert len(dump(empty_database)["instance"]) == len(before["instance"])


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
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = FileBlobStore(tmp_path / "blobs")
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
