"""The write path: what is stored is byte for byte what came, once, and what is not stored leaves nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pydicom.data
import pytest
from psycopg.pq import TransactionStatus
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from insitu.archive import rows as row_writer
from insitu.archive.blobs import FileBlobStore
from insitu.archive.examine import parse_meta
from insitu.archive.store import Archive, Outcome, Receipt, Stored
from insitu.database import Connection, Database
from insitu.errors import Conflict, Invalid, Unavailable

SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]


def rows(database: Database, statement: str) -> list[dict[str, object]]:
    with database.transaction() as connection:
        return connection.execute(statement).fetchall()


def keys(blobs: FileBlobStore, prefix: str) -> list[str]:
    return [blob.key for blob in blobs.list(prefix)]


def data_set(file: bytes) -> bytes:
    parsed = parse_meta(file, whole=True)
    assert parsed is not None
    return file[parsed[0] :]


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda uid: uid.name,
)
def test_a_file_is_kept_byte_for_byte_and_indexed(
    syntax: str, database: Database, blobs: FileBlobStore, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    made = make(NumberOfFrames=1)
    file = encode(made, syntax)
    stored = store(receipt, file)
    assert stored.outcome is Outcome.STORED
    assert stored.series_instance_uid == made.SeriesInstanceUID
    (row,) = rows(database, "SELECT * FROM instance")
    assert blobs.read(str(row["blob_key"])) == file
    assert bytes(row["digest"]) == hashlib.sha256(data_set(file)).digest()  # type: ignore[call-overload]
    assert file[row["dataset_offset"] :] == data_set(file)  # type: ignore[misc]
    assert row["size"] == len(file)
    assert row["transfer_syntax_uid"] == syntax
    assert (row["image_rows"], row["image_columns"]) == (16, 8)
    assert (row["instance_number"], row["number_of_frames"]) == (7, 1)
    (study,) = rows(database, "SELECT * FROM study")
    assert study["patient_id"] == "4711"
    assert study["attributes"]["00100010"]["Value"] == [{"Alphabetic": "Müller^Jörg"}]  # type: ignore[index]
    (series,) = rows(database, "SELECT * FROM series JOIN series_project ON series = id")
    assert (series["modality"], series["project"], series["state"]) == ("CT", "inbox", "receiving")
    assert series["attributes"]["0008103E"]["Value"] == ["Kopf nativ"]  # type: ignore[index]
    assert rows(database, "SELECT series FROM series_event") == [{"series": series["id"]}]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_bare_data_set_becomes_a_dicom_file_with_the_same_data_set(
    syntax: str,
    archive: Archive,
    blobs: FileBlobStore,
    receipt: Receipt,
    make: Make,
    encode: Encode,
    database: Database,
) -> None:
    made = make()
    bare = data_set(encode(made, syntax))
    incoming = archive.begin(
        receipt,
        transfer_syntax_uid=syntax,
        sop_class_uid=made.SOPClassUID,
        sop_instance_uid=made.SOPInstanceUID,
    )
    for start in range(0, len(bare), 100):
        incoming.write(bare[start : start + 100])
    assert incoming.commit().outcome is Outcome.STORED
    (row,) = rows(database, "SELECT * FROM instance")
    file = blobs.read(str(row["blob_key"]))
    assert file[row["dataset_offset"] :] == bare  # type: ignore[misc]
    assert bytes(row["digest"]) == hashlib.sha256(bare).digest()  # type: ignore[call-overload]
    read = pydicom.dcmread(blobs.open(str(row["blob_key"])))
    assert read.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    assert read.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert read.PatientName == "Müller^Jörg"


def test_every_shipped_image_of_pydicom_comes_back_as_it_went_in(
    database: Database, blobs: FileBlobStore, receipt: Receipt, store: Store
) -> None:
    outcomes: dict[str, Stored] = {}
    whole: dict[str, bytes] = {}
    for path in sorted(SHIPPED.glob("*.dcm")):
        whole[path.name] = path.read_bytes()
        outcomes[path.name] = store(receipt, whole[path.name])
    # Some of them are one object in several encodings: those are conflicts, and kept as well.
    all_rows = rows(database, "SELECT blob_key FROM instance UNION ALL SELECT blob_key FROM conflict")
    kept = {blobs.read(str(row["blob_key"])) for row in all_rows}
    stored = {name for name, outcome in outcomes.items() if outcome.outcome is not Outcome.QUARANTINED}
    assert {whole[name] for name in stored} == kept
    assert len(stored) > 45
    for name in ("693_J2KI.dcm", "badVR.dcm", "rtplan.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "test-SR.dcm"):
        assert name in stored, outcomes[name]
    # Every other one is here too, with a reason, and none of them for a fault of the reader.
    for name in outcomes.keys() - stored:
        outcome = outcomes[name]
        if outcome.outcome is Outcome.QUARANTINED:
            assert any(
                part in (outcome.reason or "")
                for part in (
                    "missing",
                    "DICM",
                    "truncated",
                    "does not match",
                    "names no transfer syntax",
                    "known under",
                )
            ), (name, outcome.reason)


def test_the_same_object_again_is_a_success_and_changes_nothing(
    database: Database, blobs: FileBlobStore, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    file = encode(make())
    store(receipt, file)
    before = (rows(database, "SELECT * FROM instance"), keys(blobs, "objects"))
    events = rows(database, "SELECT * FROM series_event")
    stored = store(receipt, file)
    assert (stored.outcome, stored.success) == (Outcome.DUPLICATE, True)
    assert (rows(database, "SELECT * FROM instance"), keys(blobs, "objects")) == before
    assert rows(database, "SELECT * FROM series_event") == events


def test_other_content_under_a_known_uid_is_kept_once_as_a_conflict(
    database: Database, blobs: FileBlobStore, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    made = make()
    store(receipt, encode(made))
    before = rows(database, "SELECT * FROM instance")
    made.PatientID = "4712"
    other = encode(made)
    for _ in range(2):
        stored = store(receipt, other)
        assert (stored.outcome, stored.success) == (Outcome.CONFLICT_KEPT, True)
    assert rows(database, "SELECT * FROM instance") == before
    (conflict,) = rows(database, "SELECT * FROM conflict")
    assert keys(blobs, "conflicts") == [conflict["blob_key"]]
    assert blobs.read(str(conflict["blob_key"])) == other
    assert keys(blobs, "objects") == [before[0]["blob_key"]]


def test_the_same_data_set_in_another_transfer_syntax_is_a_conflict_not_a_duplicate(
    receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    made = make()
    store(receipt, encode(made))
    assert store(receipt, encode(made, ImplicitVRLittleEndian)).outcome is Outcome.CONFLICT_KEPT


def test_a_site_can_refuse_other_content_under_a_known_uid(
    database: Database, blobs: FileBlobStore, archive: Archive, receipt: Receipt, make: Make, encode: Encode,
    store: Store,
) -> None:  # fmt: skip
    archive.settings = archive.settings.model_copy(update={"known_uid_policy": "refuse"})
    made = make()
    store(receipt, encode(made))
    made.PatientID = "4712"
    stored = store(receipt, encode(made))
    assert (stored.outcome, stored.success) == (Outcome.CONFLICT_REFUSED, False)
    assert rows(database, "SELECT * FROM conflict") == []
    assert len(keys(blobs, "objects")) == 1
    assert keys(blobs, "conflicts") == []


def test_a_new_series_belongs_to_the_project_its_receipt_names(
    database: Database, archive: Archive, make: Make, encode: Encode, store: Store
) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('heads'), ('others')")
    file = encode(make())
    store(archive.open_receipt(channel="stow", principal="anna", project="heads"), file)
    assert rows(database, "SELECT project, added_by FROM series_project") == [{"project": "heads", "added_by": "anna"}]
    # Who has the same object already may see the series in his project too.
    store(archive.open_receipt(channel="stow", principal="ben", project="others"), file)
    assert {row["project"] for row in rows(database, "SELECT project FROM series_project")} == {"heads", "others"}


def test_a_new_object_under_a_known_series_opens_no_door_into_it(
    database: Database, archive: Archive, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('others')")
    made = make()
    store(receipt, encode(made))
    made.SOPInstanceUID = generate_uid()
    stored = store(archive.open_receipt(channel="stow", principal="ben", project="others"), encode(made))
    assert stored.outcome is Outcome.STORED
    assert rows(database, "SELECT project FROM series_project") == [{"project": "inbox"}]


def test_a_receipt_for_an_unknown_project_is_refused(archive: Archive, blobs: FileBlobStore) -> None:
    with pytest.raises(Invalid, match="no such project"):
        archive.open_receipt(channel="stow", project="nowhere")
    assert keys(blobs, "receipts") == []


def test_an_aborted_object_leaves_no_trace(
    database: Database, archive: Archive, blobs: FileBlobStore, receipt: Receipt, make: Make, encode: Encode
) -> None:
    before = keys(blobs, "")
    with archive.begin(receipt) as incoming:
        incoming.write(encode(make())[:-10])
    assert keys(blobs, "") == before
    assert list((blobs.root / "incoming").iterdir()) == []
    assert rows(database, "SELECT * FROM instance") == []


def test_a_database_that_is_away_says_try_again_and_leaves_no_trace(
    database: Database,
    archive: Archive,
    blobs: FileBlobStore,
    receipt: Receipt,
    make: Make,
    encode: Encode,
    store: Store,
) -> None:
    with database.transaction() as connection:
        # The statement breaks off as it does when the server is stopped.
        connection.execute(
            "CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'going down' USING ERRCODE = '57P01'; END $$"
        )
        connection.execute("CREATE TRIGGER away BEFORE INSERT ON instance EXECUTE FUNCTION away()")
    file = encode(make())
    with pytest.raises(Unavailable):
        store(receipt, file)
    assert keys(blobs, "objects") == []
    assert rows(database, "SELECT * FROM study") == []
    with database.transaction() as connection:
        connection.execute("DROP TRIGGER away ON instance")
    assert store(receipt, file).outcome is Outcome.STORED


def test_results_enter_all_or_none(
    database: Database, archive: Archive, blobs: FileBlobStore, receipt: Receipt, make: Make, encode: Encode,
    store: Store, tmp_path: Path,
) -> None:  # fmt: skip
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('heads')")
    source = make()
    store(receipt, encode(source))
    objects, quarantined = keys(blobs, "objects"), keys(blobs, "quarantine")
    good, bad = make(StudyInstanceUID=source.StudyInstanceUID), make(StudyInstanceUID=source.StudyInstanceUID)
    bad.SOPInstanceUID = source.SOPInstanceUID
    files = [tmp_path / "good", tmp_path / "bad"]
    for path, made in zip(files, (good, bad), strict=True):
        path.write_bytes(encode(made))
    results = archive.open_receipt(channel="result", principal="algorithm", project="heads", execution="abc-1")
    with pytest.raises(Conflict, match="other content stands under its SOP Instance UID"):
        archive.store_results(results, files, "abc-1", "heads")
    assert keys(blobs, "objects") == objects
    assert len(rows(database, "SELECT * FROM instance")) == 1
    assert len(keys(blobs, "quarantine")) == len(quarantined) + 1

    files[1].write_bytes(b"no DICOM")
    with pytest.raises(Conflict, match="not a DICOM file"):
        archive.store_results(results, files, "abc-1", "heads")
    assert keys(blobs, "objects") == objects

    files[1].write_bytes(encode(make(StudyInstanceUID=source.StudyInstanceUID)))

    def refuse(connection: object, stored: list[Stored]) -> None:
        raise Conflict("The execution has ended")

    with pytest.raises(Conflict, match="has ended"):
        archive.store_results(results, files, "abc-1", "heads", refuse)
    assert keys(blobs, "objects") == objects
    assert len(rows(database, "SELECT * FROM instance")) == 1

    stored = archive.store_results(results, files, "abc-1", "heads")
    assert [item.outcome for item in stored] == [Outcome.STORED, Outcome.STORED]
    assert stored[0].sop_instance_uid == good.SOPInstanceUID
    made_by = rows(
        database,
        "SELECT count(*) FROM series JOIN series_project ON series = id WHERE execution = 'abc-1' AND project = 'heads'",
    )
    assert made_by == [{"count": 2}]

    before = rows(database, "SELECT * FROM instance"), keys(blobs, "objects")
    again = archive.store_results(results, files, "abc-1", "heads")
    assert [item.outcome for item in again] == [Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert (rows(database, "SELECT * FROM instance"), keys(blobs, "objects")) == before


def test_a_row_that_was_written_without_a_word_keeps_its_blob(
    archive: Archive,
    blobs: FileBlobStore,
    receipt: Receipt,
    make: Make,
    encode: Encode,
    store: Store,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL dies after it has carried out the statement and before it says so, and is not back yet."""
    made = make()
    store(receipt, encode(made))  # from here on the series is known, and one statement is enough
    second = encode(make(StudyInstanceUID=made.StudyInstanceUID, SeriesInstanceUID=made.SeriesInstanceUID))
    written = row_writer.insert_instance

    def cut_off(connection: Connection, *values: Any, **named: Any) -> bool:
        assert written(connection, *values, **named)
        assert connection.info.transaction_status is TransactionStatus.IDLE  # it stands by itself, and is committed
        monkeypatch.setattr(archive.database, "transaction", away)
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    @contextlib.contextmanager
    def away() -> Iterator[Connection]:
        raise Unavailable("The database does not answer")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(row_writer, "insert_instance", cut_off)
        with pytest.raises(Unavailable):
            store(receipt, second)
    monkeypatch.undo()
    assert len(rows(database, "SELECT 1 FROM instance")) == 2
    assert all(blobs.exists(str(row["blob_key"])) for row in rows(database, "SELECT blob_key FROM instance"))
    assert store(receipt, second).outcome is Outcome.DUPLICATE
    assert all(blobs.exists(str(row["blob_key"])) for row in rows(database, "SELECT blob_key FROM instance"))


def test_an_object_that_no_statement_was_sent_for_leaves_no_blob(
    archive: Archive,
    blobs: FileBlobStore,
    receipt: Receipt,
    make: Make,
    encode: Encode,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = make()
    store(receipt, encode(made))
    before = [blob.key for blob in blobs.list("objects/")]

    @contextlib.contextmanager
    def away() -> Iterator[Connection]:
        raise Unavailable("The database does not answer")
        yield

    monkeypatch.setattr(archive.database, "statement", away)
    with pytest.raises(Unavailable):
        store(receipt, encode(make(StudyInstanceUID=made.StudyInstanceUID, SeriesInstanceUID=made.SeriesInstanceUID)))
    assert [blob.key for blob in blobs.list("objects/")] == before
