"""Bit rot and missing objects are found, never served, and healed by sending the object again; a scrub goes on where it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from insitu.archive import quarantine
from insitu.archive import scrub as scrubbing
from insitu.archive.blobs import FileBlobStore
from insitu.archive.reindex import reindex
from insitu.archive.scrub import Throttle, scrub
from insitu.archive.store import Archive, Outcome, Receipt, Stored
from insitu.audit import trail
from insitu.database import Database
from insitu.errors import Invalid
from insitu.settings import Settings

from .index_dump import complete, dump

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]


def flip(path: Path) -> None:
    """Change one bit near the end of a file."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.fixture
def two(
    database: Database, archive: Archive, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> list[Dataset]:
    """A complete series of two objects."""
    first = make(InstanceNumber=1)
    second = make(StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID, InstanceNumber=2)
    for made in (first, second):
        store(receipt, encode(made))
    archive.close_receipt(receipt)
    complete(database, settings)
    return [first, second]


def path_of(database: Database, blobs: FileBlobStore, made: Dataset) -> Path:
    """The file of an object."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT blob_key FROM instance WHERE sop_instance_uid = %s", (made.SOPInstanceUID,)
        ).fetchone()
    assert row is not None
    return blobs.path(row["blob_key"])


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_damaged_object_is_put_aside_and_whole_again_once_it_is_sent_again(
    harm: Callable[[Path], None], database: Database, blobs: FileBlobStore, archive: Archive, settings: Settings,
    two: list[Dataset], encode: Encode, store: Store, empty_database: Database,
) -> None:  # fmt: skip
    before = dump(database)
    path = path_of(database, blobs, two[0])
    harm(path)
    report = scrub(database, blobs)
    uid = two[0].SOPInstanceUID
    rotten = harm is flip
    assert (report.changed, report.missing) == (([uid], []) if rotten else ([], [uid]))
    assert (report.healthy, path.exists()) == (False, False)
    with database.transaction() as connection:
        entries = quarantine.listed(connection)
        (event,) = trail.events(connection, action="damage")
        (damaged,) = scrubbing.damaged(connection)
    assert event["resource"] == damaged["sop_instance_uid"] == uid
    assert len(entries) == rotten
    assert not rotten or (uid in entries[0]["reason"] and blobs.exists(entries[0]["blob_key"]))
    assert scrub(database, blobs).healthy is False, "it is told until it is mended"
    # neither a rebuild in place nor one from nothing takes the rotten blob for good
    assert reindex(database, blobs, settings).missing == [uid]
    assert dump(database)["instance"] == before["instance"]
    assert reindex(empty_database, blobs, settings).added == 1
    assert dump(empty_database)["series_project"] == before["series_project"], (
        "the object that is left decides who sees it"
    )
    again = archive.open_receipt(channel="dimse", calling_ae="BACKUP")
    assert store(again, encode(two[0])).outcome is Outcome.STORED
    archive.close_receipt(again)
    complete(database, settings)
    assert scrub(database, blobs).healthy
    after = dump(database)
    assert [row["digest"] for row in after["instance"]] == [row["digest"] for row in before["instance"]]
    assert after["series_revision"] == before["series_revision"]
    assert reindex(database, blobs, settings).missing == []
    assert after["series_project"] == before["series_project"]


def test_another_object_does_not_heal_a_missing_one(
    database: Database, blobs: FileBlobStore, two: list[Dataset], encode: Encode, store: Store, receipt: Receipt
) -> None:
    path_of(database, blobs, two[0]).unlink()
    two[0].PatientID = "another"
    assert store(receipt, encode(two[0])).outcome is Outcome.CONFLICT_KEPT
    assert not scrub(database, blobs).healthy


@pytest.mark.parametrize("step", ["journal", "transaction", "move"])
def test_a_scrub_killed_while_it_puts_a_rotten_object_aside_leaves_it_to_be_taken_for_good(
    step: str, database: Database, blobs: FileBlobStore, settings: Settings, two: list[Dataset],
    empty_database: Database, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    flip(path_of(database, blobs, two[0]))

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    original = scrubbing.journal.append

    def written(*arguments: object, **content: object) -> None:
        original(*arguments, **content)  # type: ignore[arg-type]
        if "quarantine" in arguments:
            raise Killed

    with monkeypatch.context() as patch:
        if step == "move":
            patch.setattr(type(blobs), "move", die)
        else:
            patch.setattr(scrubbing.journal, "append", die if step == "journal" else written)
        with pytest.raises(Killed):
            scrub(database, blobs)
    if step != "journal":
        report = reindex(empty_database, blobs, settings)
        assert (report.added, len(dump(empty_database)["quarantine"])) == (1, 1)
        assert reindex(database, blobs, settings).missing == [two[0].SOPInstanceUID]
    assert not scrub(database, blobs).healthy
    with database.transaction() as connection:
        (entry,) = quarantine.listed(connection)
    assert blobs.exists(entry["blob_key"])
    assert len(list(blobs.list("objects/"))) == 1


def test_a_scrub_that_was_ended_starts_over_instead_of_going_on(
    database: Database, blobs: FileBlobStore, two: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "ROWS_AT_ONCE", 1)
    flip(path_of(database, blobs, two[0]))
    stop = threading.Event()
    part = scrub(
        database, blobs, throttle=Throttle(None, stop), progress=lambda done: stop.set() if done == 1 else None
    )
    assert (part.finished, part.resumed, part.objects) == (False, False, 1)
    rest = scrub(database, blobs)
    assert (rest.finished, rest.resumed, rest.objects) == (True, True, 2)
    assert rest.changed == [two[0].SOPInstanceUID], "what the first part found is told as well"
    assert scrub(database, blobs).resumed is False


def test_a_limited_scrub_reads_as_fast_as_it_can(database: Database, blobs: FileBlobStore, two: list[Dataset]) -> None:
    waited: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            return False

    report = scrub(database, blobs, throttle=Throttle(1.0, Stop()))
    # without really waiting, each wait is as long as the bytes before it took at one byte a second
    assert report.objects == 2
    assert sum(1 for seconds in waited if seconds > 0) == 2 + 1 + 1, "two objects, a receipt, an entry of the journal"
    assert max(waited) > 200


def test_a_disk_that_is_not_there_makes_every_object_count_as_missing(
    database: Database, two: list[Dataset], tmp_path: Path
) -> None:
    assert two
    with pytest.raises(Invalid, match="is empty"):
        scrub(database, FileBlobStore(tmp_path / "elsewhere"))
    with database.transaction() as connection:
        assert scrubbing.damaged(connection) == []


def test_a_first_round_is_due_at_the_first_start(database: Database, blobs: FileBlobStore) -> None:
    assert not scrubbing.due(database, 7)
    assert not scrubbing.due(database, 7)
    assert scrubbing.due(database, 0)
