"""A person decides which of two objects under one UID counts; the decision survives a kill and a rebuild."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from insitu.archive import conflicts, deletion, holds, metadata
from insitu.archive.blobs import FileBlobStore, files
from insitu.archive.blobs.s3 import S3BlobStore
from insitu.archive.reindex import reindex
from insitu.archive.scrub import scrub
from insitu.archive.store import Archive, Outcome, Receipt, Stored
from insitu.audit import trail
from insitu.database import Database, Row
from insitu.errors import Conflict, Invalid, NotFound
from insitu.settings import Settings

from .index_dump import complete, dump

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]
WHY = "the technician corrected the protocol"


@pytest.fixture
def first(
    database: Database, archive: Archive, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> Dataset:
    """A complete series whose first object has a rival; the object as it was first."""
    made = make(SeriesDescription="first")
    store(receipt, encode(made))
    store(receipt, encode(make(StudyInstanceUID=made.StudyInstanceUID, SeriesInstanceUID=made.SeriesInstanceUID)))
    archive.close_receipt(receipt)
    complete(database, settings)
    again = archive.open_receipt(channel="stow", principal="anna", project="inbox")
    other = Dataset()
    other.update(made)
    other.SeriesDescription = "second"
    other.PixelData = bytes(256)
    other.StationName = "another"
    del other.InstanceNumber
    assert store(again, encode(other)).outcome is Outcome.CONFLICT_KEPT
    archive.close_receipt(again)
    return made


def only(database: Database) -> Row:
    """The one conflict there is."""
    with database.transaction() as connection:
        (row,) = conflicts.listed(connection)
    return row


def test_a_person_cannot_see_in_what_two_objects_differ(
    database: Database, blobs: FileBlobStore, first: Dataset
) -> None:
    row = only(database)
    found = {item["keyword"]: item["change"] for item in conflicts.differences(blobs, row)}
    assert found == {
        "SeriesDescription": "changed", "PixelData": "changed", "StationName": "only in the second",
        "InstanceNumber": "only in the first",
    }  # fmt: skip
    assert str(first.PatientName) not in str(conflicts.shown(row))


@pytest.mark.parametrize("resolution", ["keep", "replace"])
def test_a_decision_does_not_hold(
    resolution: conflicts.Resolution, database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings,
    first: Dataset, empty_database: Database,
) -> None:  # fmt: skip
    row = only(database)
    with database.transaction() as connection:
        metadata.project_series(connection, blobs, row["series"])
    conflicts.resolve(archive, row["id"], resolution, actor="anna", reason=WHY)
    complete(database, settings)
    after = dump(database)
    digests = {item["sop_instance_uid"]: item["digest"] for item in after["instance"]}
    replaced = resolution == "replace"
    assert digests[first.SOPInstanceUID] == row["digest" if replaced else "first_digest"]
    assert len(digests) == 2
    assert {item["revision"] for item in after["series"]} == {2 if replaced else 1}
    assert after["conflict"] == []
    assert {item["project"] for item in after["series_project"]} == {"inbox"}
    assert len(list(blobs.list("objects/"))) == 2
    assert list(blobs.list("conflicts/")) == []
    assert scrub(database, blobs).healthy
    with database.transaction() as connection:
        known = connection.execute(
            "SELECT 1 FROM instance_metadata m JOIN instance i ON i.id = m.instance WHERE i.sop_instance_uid = %s",
            (first.SOPInstanceUID,),
        ).fetchone()
        (event,) = trail.events(connection, action=f"conflict-{resolution}")
        (decided,) = conflicts.resolved(connection)
    assert (known is None) is replaced, "metadata of the object that was given up"
    assert event["detail"]["reason"] == decided["reason"] == WHY
    for target in (empty_database, database):
        reindex(target, blobs, settings)
        assert dump(target) == after
    with pytest.raises(NotFound):
        conflicts.resolve(archive, row["id"], resolution, actor="anna", reason=WHY)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("step", ["journal", "move", "half a move", "index", "blob"])
def test_a_replacement_killed_at_some_step_is_half_done_for_ever(
    step: str, database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, first: Dataset,
    empty_database: Database, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    row = only(database)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "journal":
            patch.setattr(conflicts.journal, "append", die)
        elif step == "move":
            patch.setattr(type(blobs), "move", die)
        elif step == "half a move" and isinstance(blobs, S3BlobStore):
            patch.setattr(S3BlobStore, "_remove", die)  # the server has copied it
        elif step == "half a move":
            patch.setattr(files, "_sync_folder", die)
        elif step == "index":
            patch.setattr(conflicts, "_exchange", die)
        else:
            patch.setattr(type(blobs), "delete", die)
        with pytest.raises(Killed):
            conflicts.resolve(archive, row["id"], "replace", actor="anna", reason=WHY)
    removed = scrub(database, blobs, now=2e10).removed
    assert removed == ([row["first_key"]] if step == "blob" else []), "a scrub removes an object that may count"
    stands = step != "journal"
    assert conflicts.finish(database, blobs, older_than=0) == 1
    complete(database, settings)
    after = dump(database)
    digests = {item["sop_instance_uid"]: item["digest"] for item in after["instance"]}
    assert digests[first.SOPInstanceUID] == row["digest" if stands else "first_digest"]
    assert len(after["conflict"]) == (not stands)
    assert scrub(database, blobs).healthy
    reindex(empty_database, blobs, settings)
    assert dump(empty_database) == after


def test_the_object_that_counts_is_replaced_where_it_must_stay(
    database: Database, archive: Archive, blobs: FileBlobStore, first: Dataset
) -> None:
    row = only(database)
    with pytest.raises(Invalid, match="reason"):
        conflicts.resolve(archive, row["id"], "keep", actor="anna", reason="")
    with database.transaction() as connection:
        holds.place(connection, blobs, first.StudyInstanceUID, "court order 7", "anna")
    with pytest.raises(Conflict, match="held"):
        conflicts.resolve(archive, row["id"], "replace", actor="anna", reason=WHY)
    conflicts.resolve(archive, row["id"], "keep", actor="anna", reason=WHY)
    with pytest.raises(NotFound):
        conflicts.resolve(archive, "no uuid", "keep", actor="anna", reason=WHY)


def test_a_second_object_of_another_patient_enters_a_study_by_a_decision(
    database: Database, archive: Archive, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    one = make()
    two = make(StudyInstanceUID=one.StudyInstanceUID, SeriesInstanceUID=one.SeriesInstanceUID)
    alone = make()
    for made in (one, two, alone):
        store(receipt, encode(made))
    archive.close_receipt(receipt)
    complete(database, settings)
    for made in (one, alone):
        made.PatientID = "0815"
        assert store(receipt, encode(made)).outcome is Outcome.CONFLICT_KEPT
    with database.transaction() as connection:
        waiting = {row["sop_instance_uid"]: row["id"] for row in conflicts.listed(connection)}
    with pytest.raises(Conflict, match="contradicts its study"):
        conflicts.resolve(archive, waiting[one.SOPInstanceUID], "replace", actor="anna", reason=WHY)
    conflicts.resolve(archive, waiting[alone.SOPInstanceUID], "replace", actor="anna", reason=WHY)
    patients = {row["study_instance_uid"]: row["patient_id"] for row in dump(database)["study"]}
    assert patients == {one.StudyInstanceUID: "4711", alone.StudyInstanceUID: "0815"}


def test_a_second_object_of_another_series_pulls_the_others_along(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, receipt: Receipt, make: Make,
    encode: Encode, store: Store, empty_database: Database,
) -> None:  # fmt: skip
    made = make()
    assert store(receipt, encode(made)).outcome is Outcome.STORED
    other = make(SOPInstanceUID=made.SOPInstanceUID, StudyInstanceUID=made.StudyInstanceUID)
    assert store(receipt, encode(other)).outcome is Outcome.CONFLICT_KEPT
    archive.close_receipt(receipt)
    conflicts.resolve(archive, only(database)["id"], "replace", actor="anna", reason=WHY)
    complete(database, settings)
    after = dump(database)
    assert [row["series_instance_uid"] for row in after["series"]] == [other.SeriesInstanceUID]
    reindex(empty_database, blobs, settings)
    assert dump(empty_database) == after
    count = deletion.delete(archive, "anna", study=made.StudyInstanceUID, reason=WHY, projects=None)
    assert count.instances == 1
