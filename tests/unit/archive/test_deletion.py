"""What is deleted is gone from index and blobs and stays gone; what still needs it, or belongs to others, is not touched."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom.dataset import Dataset

from insitu.archive import deletion, holds, links, rows
from insitu.archive.blobs import BlobStore, FileBlobStore
from insitu.archive.deletion import Deleted
from insitu.archive.reindex import reindex
from insitu.archive.scrub import scrub
from insitu.archive.store import Archive, Outcome, Receipt, Stored
from insitu.audit import trail
from insitu.database import Connection, Database, Row
from insitu.errors import Conflict, Invalid, NotFound, Unavailable
from insitu.settings import Settings

from .index_dump import complete, dump

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]
WHY = "sent by mistake"


@pytest.fixture
def study(receipt: Receipt, make: Make, encode: Encode, store: Store) -> list[Dataset]:
    """A study of two series: two objects, and one."""
    first = make(InstanceNumber=1)
    second = make(
        InstanceNumber=2, StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID,
        SeriesDescription="second",
    )  # fmt: skip
    third = make(StudyInstanceUID=first.StudyInstanceUID)
    for made in (first, second, third):
        assert store(receipt, encode(made)).outcome is Outcome.STORED
    return [first, second, third]


def test_a_deleted_study_is_gone_from_index_and_blobs_and_does_not_come_back(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, study: list[Dataset],
    empty_database: Database, receipt: Receipt, make: Make, encode: Encode, store: Store,
) -> None:  # fmt: skip
    other = make()
    store(receipt, encode(other))
    uid = study[0].StudyInstanceUID
    size = sum(len(encode(made)) for made in study)
    expected = Deleted(studies=1, series=2, instances=3, bytes=size)
    assert deletion.preview(database, study=uid, projects=None) == expected
    assert deletion.delete(archive, "anna", study=uid, reason=WHY, projects=None) == expected
    after = dump(database)
    assert [row["sop_instance_uid"] for row in after["instance"]] == [other.SOPInstanceUID]
    assert (len(after["study"]), len(after["series"])) == (1, 1)
    assert len(list(blobs.list("objects/"))) == 1
    with database.transaction() as connection:
        (event,) = trail.events(connection, action="delete")
        (row,) = deletion.listed(connection)
    assert (event["resource"], event["detail"]["reason"]) == (uid, WHY)
    assert (row["done"], row["actor"], row["instances"]) == (True, "anna", 3)
    archive.close_receipt(receipt)
    complete(database, settings)
    for target in (database, empty_database):
        assert reindex(target, blobs, settings).objects == 1
    assert dump(empty_database) == dump(database)
    assert scrub(database, blobs).healthy
    assert store(receipt, encode(study[0])).outcome is Outcome.STORED
    assert len(dump(database)["instance"]) == 2


def test_a_deleted_instance_leaves_something_of_itself_behind(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, study: list[Dataset],
    receipt: Receipt, empty_database: Database,
) -> None:  # fmt: skip
    archive.close_receipt(receipt)
    complete(database, settings)
    uid = study[0].SOPInstanceUID
    count = deletion.delete(archive, "anna", instance=uid, reason=WHY, projects=None)
    assert (count.studies, count.series, count.instances) == (0, 0, 1)
    complete(database, settings)
    after = dump(database)
    series = {row["series_instance_uid"]: row for row in after["series"]}
    assert series[study[0].SeriesInstanceUID]["revision"] == 2, "what is left is another content"
    described = series[study[0].SeriesInstanceUID]["attributes"]["0008103E"]["Value"]  # type: ignore[index,call-overload]
    assert described == ["second"], "the series is described by an object that is gone"
    reindex(empty_database, blobs, settings)
    assert dump(empty_database) == after
    deletion.delete(archive, "anna", series=study[0].SeriesInstanceUID, reason=WHY, projects=None)
    count = deletion.delete(archive, "anna", instance=study[2].SOPInstanceUID, reason=WHY, projects=None)
    assert (count.studies, count.series, count.instances) == (1, 1, 1)
    assert dump(database)["study"] == []


def test_the_audit_trail_of_a_patient_forgets_what_was_deleted(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, study: list[Dataset], make: Make,
    encode: Encode, store: Store, receipt: Receipt, empty_database: Database,
) -> None:  # fmt: skip
    other = make(PatientID="0815")
    store(receipt, encode(other))
    uid, series = study[0].StudyInstanceUID, study[0].SeriesInstanceUID
    with database.transaction() as connection:
        trail.record(connection, "eve", "view", "study", uid)
        trail.record(connection, "eve", "export", "series", series)
        trail.record(connection, "eve", "view", "instance", study[0].SOPInstanceUID)
        trail.record(connection, "eve", "view", "study", other.StudyInstanceUID)

    def actions(patient: str) -> list[str]:
        with database.transaction() as connection:
            return [row["action"] for row in trail.events(connection, patient=patient)]

    assert actions("4711") == ["view", "export", "view"]
    deletion.delete(archive, "anna", study=uid, reason=WHY, projects=None)
    assert actions("4711") == ["delete", "view", "export", "view"]
    assert actions("0815") == ["view"]
    assert actions("") == actions("nobody") == []
    assert b"4711" not in b"".join(blobs.read(info.key) for info in blobs.list("journal/"))
    reindex(empty_database, blobs, settings)
    assert dump(empty_database)["deletion"] == dump(database)["deletion"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("step", ["journal", "index", "blobs", "row"])
def test_a_deletion_killed_at_some_step_is_half_done_for_ever(
    step: str, database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, study: list[Dataset],
    receipt: Receipt, empty_database: Database, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    archive.close_receipt(receipt)
    complete(database, settings)
    before = dump(database)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "journal":
            patch.setattr(deletion.journal, "append", die)
        elif step == "index":
            patch.setattr(deletion, "remove_rows", die)
        elif step == "blobs":
            patch.setattr(type(blobs), "delete", die)
        else:
            left = list(range(3))
            removed = type(blobs).delete

            def delete(store: BlobStore, key: str) -> None:
                left.pop()
                removed(store, key)
                if not left:
                    raise Killed

            patch.setattr(type(blobs), "delete", delete)
        with pytest.raises(Killed):
            deletion.delete(archive, "anna", study=study[0].StudyInstanceUID, reason=WHY, projects=None)
    stands = step != "journal"
    report = reindex(empty_database, blobs, settings)
    assert report.added == (0 if stands else 3), "the journal decides"
    reindex(database, blobs, settings)
    assert len(dump(database)["instance"]) == (0 if stands else 3)
    assert deletion.finish(database, blobs, older_than=0) == 1
    assert deletion.finish(database, blobs, older_than=0) == 0
    after = dump(database)
    if stands:
        assert (after["instance"], after["study"], list(blobs.list("objects/"))) == ([], [], [])
        assert [row["keys"] for row in after["deletion"]] == [None]
        assert dump(empty_database)["deletion"] == after["deletion"]
    else:
        assert after == before


def test_a_deleted_series_that_is_sent_again_inherits_from_the_old_one(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, study: list[Dataset],
    receipt: Receipt, encode: Encode, store: Store, empty_database: Database,
) -> None:  # fmt: skip
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('heads')")
        row = connection.execute("SELECT id FROM series ORDER BY id LIMIT 1").fetchone()
        assert row is not None
        links.link(connection, settings, row["id"], "heads", "anna")
    archive.close_receipt(receipt)
    complete(database, settings)
    deletion.delete(archive, "anna", series=study[0].SeriesInstanceUID, reason=WHY, projects=None)
    again = archive.open_receipt(channel="dimse", calling_ae="MODALITY")
    assert store(again, encode(study[1])).outcome is Outcome.STORED
    archive.close_receipt(again)
    complete(database, settings)
    after = dump(database)
    assert {row["project"] for row in after["series_project"]} == {"inbox"}
    reindex(empty_database, blobs, settings)
    assert dump(empty_database) == after


def test_a_second_object_under_a_deleted_uid_stays(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, study: list[Dataset],
    receipt: Receipt, encode: Encode, store: Store, empty_database: Database,
) -> None:  # fmt: skip
    study[0].PatientID = "another"
    assert store(receipt, encode(study[0])).outcome is Outcome.CONFLICT_KEPT
    deletion.delete(archive, "anna", study=study[0].StudyInstanceUID, reason=WHY, projects=None)
    reindex(empty_database, blobs, settings)
    for target in (database, empty_database):
        assert dump(target)["conflict"] == []
    assert list(blobs.list("conflicts/")) == []


def test_a_project_deletes_what_others_hold_too(
    database: Database, archive: Archive, settings: Settings, study: list[Dataset]
) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('heads'), ('others')")
        shared, own = connection.execute("SELECT id FROM series ORDER BY id").fetchall()
        links.link(connection, settings, shared["id"], "heads", "anna")
        links.link(connection, settings, own["id"], "heads", "anna")
        links.unlink(connection, settings, own["id"], "inbox", "anna")
    mine = frozenset(("heads",))
    with pytest.raises(NotFound):
        deletion.delete(archive, "eve", study=study[0].StudyInstanceUID, reason=WHY, projects=frozenset(("others",)))
    with pytest.raises(Conflict, match="Other projects hold"):
        deletion.delete(archive, "anna", instance=study[0].SOPInstanceUID, reason=WHY, projects=mine)
    count = deletion.delete(archive, "anna", study=study[0].StudyInstanceUID, reason=WHY, projects=mine)
    assert (count.studies, count.series, count.instances, count.unlinked) == (0, 1, 1, 1)
    after = dump(database)
    assert [row["series_instance_uid"] for row in after["series"]] == [study[0].SeriesInstanceUID]
    assert [row["project"] for row in after["series_project"]] == ["inbox"]
    with pytest.raises(NotFound):
        deletion.preview(database, study=study[0].StudyInstanceUID, projects=mine)


def test_what_is_held_or_needed_by_a_run_is_deleted(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, study: list[Dataset],
    empty_database: Database,
) -> None:  # fmt: skip
    uid, series = study[0].StudyInstanceUID, study[0].SeriesInstanceUID
    with database.transaction() as connection:
        holds.place(connection, blobs, uid, "court order 7", "anna")
    with pytest.raises(Conflict, match="court order 7"):
        deletion.delete(archive, "anna", series=series, reason=WHY, projects=None)
    reindex(empty_database, blobs, settings)
    assert dump(empty_database)["hold"] == dump(database)["hold"] != []
    with database.transaction() as connection:
        holds.release(connection, blobs, uid, "case closed", "anna")
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES ('d', 'tissue', '1', '{}', '', 'anna')"
        )
        connection.execute(
            "INSERT INTO run (identity, project, algorithm, publish_version, inputs, parameters)"
            " VALUES ('r', 'inbox', 'd', '1', jsonb_build_array(jsonb_build_object('series_instance_uid', %s::text)), '{}')",
            (series,),
        )
        connection.execute("INSERT INTO execution (id, run, number, requested_by) VALUES ('r-1', 'r', 1, 'anna')")
    with pytest.raises(Conflict, match="r-1"):
        deletion.delete(archive, "anna", study=uid, reason=WHY, projects=None)
    with pytest.raises(Invalid, match="reason"):
        deletion.delete(archive, "anna", study=uid, reason=" x ", projects=None)
    with pytest.raises(Invalid, match="names nothing"):
        deletion.delete(archive, "anna", reason=WHY, projects=None)
    assert len(dump(database)["instance"]) == 3
    with database.transaction() as connection:
        connection.execute("UPDATE execution SET state = 'succeeded'")
        connection.execute(
            "INSERT INTO execution_result (execution, sop_instance_uid, series_instance_uid, kind)"
            " VALUES ('r-1', %s, %s, 'SEG'), ('r-1', '1.2.3', '1.2', 'SR')",
            (study[2].SOPInstanceUID, study[2].SeriesInstanceUID),
        )
    deletion.delete(archive, "anna", study=uid, reason=WHY, projects=None)
    with database.transaction() as connection:
        results = connection.execute("SELECT sop_instance_uid FROM execution_result").fetchall()
        history = connection.execute("SELECT stage, detail FROM execution_event").fetchall()
    assert results == [{"sop_instance_uid": "1.2.3"}], "a run keeps the results that are still there, and no others"
    assert [(row["stage"], row["detail"]["objects"]) for row in history] == [("result-deleted", 1)]
    reindex(empty_database, blobs, settings)
    assert dump(empty_database)["hold"] == []


def test_an_object_that_arrives_while_its_series_is_deleted_is_refused_or_lost(
    database: Database, archive: Archive, study: list[Dataset], receipt: Receipt, make: Make, encode: Encode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    late = make(StudyInstanceUID=study[0].StudyInstanceUID, SeriesInstanceUID=study[0].SeriesInstanceUID)
    incoming = archive.begin(receipt)
    incoming.write(encode(late))
    again = archive.begin(receipt)
    again.write(encode(study[0]))
    ensure = rows.known_instance

    def known(connection: Connection, uid: str) -> Row | None:
        found = ensure(connection, uid)  # the row that is about to be deleted
        monkeypatch.undo()
        deletion.delete(archive, "anna", study=study[0].StudyInstanceUID, reason=WHY, projects=None)
        return ensure(connection, uid) and found

    monkeypatch.setattr(rows, "known_instance", known)
    assert again.commit().outcome is Outcome.STORED  # the series it had been known in went in between
    assert incoming.commit().outcome is Outcome.STORED
    assert {row["sop_instance_uid"] for row in dump(database)["instance"]} == {
        late.SOPInstanceUID, study[0].SOPInstanceUID,
    }  # fmt: skip


def test_objects_that_arrive_while_their_study_is_deleted_again_and_again_are_lost(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, make: Make, encode: Encode
) -> None:
    first = make()
    files = [
        encode(make(StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID))
        for _ in range(40)
    ]
    receipts = [archive.open_receipt(channel="dimse", calling_ae=f"MODALITY{number}") for number in range(2)]
    senders = [
        Archive(database, blobs, settings) for _ in receipts
    ]  # each with its own memory of series, as processes have

    def send(number: int) -> None:
        for file in files[number::2]:
            for _ in range(20):  # a sender that is told to try again does
                incoming = senders[number].begin(receipts[number])
                incoming.write(file)
                try:
                    assert incoming.commit().outcome is Outcome.STORED
                    break
                except Unavailable:
                    continue
            else:
                raise AssertionError("never taken")

    deleted = 0
    with ThreadPoolExecutor() as pool:
        sending = [pool.submit(send, number) for number in range(2)]
        while not all(future.done() for future in sending):
            try:
                gone = deletion.delete(archive, "anna", study=first.StudyInstanceUID, reason=WHY, projects=None)
                deleted += gone.instances
            except NotFound:
                complete(database, settings)  # the dispatcher is at work as well
        for future in sending:
            future.result()
    left = dump(database)["instance"]
    assert deleted + len(left) == len(files)
    assert {row["blob_key"] for row in left} == {blob.key for blob in blobs.list("objects/")}
    assert scrub(database, blobs).healthy
    for sender in senders:
        sender.close()
