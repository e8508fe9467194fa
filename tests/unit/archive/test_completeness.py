"""A series becomes complete when its senders are done and it was quiet, once per content, whoever asks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from insitu.archive import completeness, index, metadata
from insitu.archive.blobs import FileBlobStore
from insitu.archive.completeness import CompleteSeries
from insitu.archive.store import Archive, Receipt, Stored
from insitu.database import Database
from insitu.errors import NotFound
from insitu.settings import Settings

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]


def turn(database: Database, settings: Settings) -> list[CompleteSeries]:
    with database.transaction() as connection:
        while completeness.absorb(connection, settings):
            pass
        return completeness.complete_due(connection, settings)


def test_a_series_waits_for_its_association_and_is_complete_when_it_closes(
    database: Database, archive: Archive, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    made = make()
    store(receipt, encode(made))
    assert turn(database, settings) == []
    with database.transaction() as connection:
        wait = completeness.next_deadline(connection, settings)
        assert wait is not None
        assert 0 < wait <= 30
    archive.close_receipt(receipt)
    (series,) = turn(database, settings)
    assert (series.series_instance_uid, series.revision) == (made.SeriesInstanceUID, 1)
    with database.transaction() as connection:
        assert index.content_digest(connection, series.series_id) == series.content_digest
        assert completeness.next_deadline(connection, settings) is None
    assert turn(database, settings) == []


def test_a_quiet_time_is_kept_after_the_last_object(
    database: Database, archive: Archive, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    settings = settings.model_copy(update={"quiet_time": 3600.0})
    store(receipt, encode(make()))
    archive.close_receipt(receipt)
    assert turn(database, settings) == []
    with database.transaction() as connection:
        wait = completeness.next_deadline(connection, settings)
    assert wait is not None
    assert 3000 < wait <= 3600


def test_a_lease_that_runs_out_frees_the_series_of_a_dead_receiver(
    database: Database, settings: Settings, receipt: Receipt, archive: Archive, make: Make, encode: Encode, store: Store
) -> None:
    store(receipt, encode(make()))
    archive.renew(receipt)
    assert turn(database, settings) == []
    with database.transaction() as connection:
        connection.execute("UPDATE association SET leased_until = clock_timestamp() - interval '1 second'")
    assert len(turn(database, settings)) == 1


def test_a_late_object_reopens_a_series_as_a_new_revision_and_a_duplicate_does_not(
    database: Database, archive: Archive, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    made = make()
    file = encode(made)
    store(receipt, file)
    archive.close_receipt(receipt)
    (first,) = turn(database, settings)
    later = archive.open_receipt(channel="dimse", calling_ae="LATE")
    store(later, file)
    archive.close_receipt(later)
    assert turn(database, settings) == []
    made.SOPInstanceUID = generate_uid()
    store(later, encode(made))
    (second,) = turn(database, settings)
    assert (first.revision, second.revision) == (1, 2)
    assert first.content_digest != second.content_digest
    with database.transaction() as connection:
        revisions = connection.execute("SELECT revision, instances FROM series_revision ORDER BY revision").fetchall()
        assert revisions == [{"revision": 1, "instances": 1}, {"revision": 2, "instances": 2}]
        context = index.series_context(connection, second.series_id)
    assert context["calling_ae"] == ["LATE", "MODALITY"]
    assert context["source"] == "dimse"


def test_completing_by_hand_does_not_wait_for_an_open_association(
    database: Database, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    made = make()
    store(receipt, encode(made))
    assert turn(database, settings) == []
    with database.transaction() as connection:
        completeness.complete(connection, made.SeriesInstanceUID)
    assert len(turn(database, settings)) == 1
    with pytest.raises(NotFound), database.transaction() as connection:
        completeness.complete(connection, "1.2.3")


def test_results_are_complete_at_once(
    database: Database, archive: Archive, settings: Settings, make: Make, encode: Encode, store: Store
) -> None:
    settings = settings.model_copy(update={"quiet_time": 3600.0})
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('heads')")
    store(archive.open_receipt(channel="result", project="heads", execution="abc-1"), encode(make()))
    (series,) = turn(database, settings)
    with database.transaction() as connection:
        assert index.series_context(connection, series.series_id)["source"] == "result"


def test_two_dispatchers_complete_each_series_once(
    database: Database, archive: Archive, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    for _ in range(3):
        store(receipt, encode(make()))
    archive.close_receipt(receipt)
    with database.transaction() as one, database.transaction() as other:
        assert completeness.absorb(one, settings) == 3
        assert completeness.absorb(other, settings) == 0  # not waiting for the first
    with database.transaction() as one, database.transaction() as other:
        assert len(completeness.complete_due(one, settings)) == 3
        assert completeness.complete_due(other, settings) == []
    assert turn(database, settings) == []


def test_an_object_can_be_stored_while_its_series_is_being_completed(
    database: Database, archive: Archive, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    made = make()
    store(receipt, encode(made))
    archive.close_receipt(receipt)
    with database.transaction() as connection:
        completeness.absorb(connection, settings)
        assert len(completeness.complete_due(connection, settings)) == 1
        made.SOPInstanceUID = generate_uid()
        store(receipt, encode(made))  # would hang here
    (series,) = turn(database, settings)
    assert series.revision == 2


def test_metadata_names_big_values_by_address_and_never_holds_pixels(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, receipt: Receipt, make: Make,
    encode: Encode, store: Store,
) -> None:  # fmt: skip
    made = make()
    item = Dataset()
    item.add_new(0x54001010, "OW", bytes(4000))
    made.WaveformSequence = [item]
    made.add_new(0x00091010, "UN", b"abc")
    made.add_new(0x00091011, "DS", "12345678")
    store(receipt, encode(made).replace(b"12345678", b"no digit"))  # a value without a form in JSON
    archive.close_receipt(receipt)
    (series,) = turn(database, settings)
    with database.transaction() as connection:
        assert metadata.project_series(connection, blobs, series.series_id) == 1
        assert metadata.project_series(connection, blobs, series.series_id) == 0
        row = connection.execute("SELECT body FROM instance_metadata").fetchone()
        assert row is not None
        body = row["body"]
        assert index.series_attributes(connection, series.series_id)["00280010"] == {"vr": "US", "Value": [16]}
    base = (
        f"/dicom-web/studies/{made.StudyInstanceUID}/series/{made.SeriesInstanceUID}"
        f"/instances/{made.SOPInstanceUID}/bulkdata/"
    )
    assert body["7FE00010"] == {"vr": "OW", "BulkDataURI": base + "7FE00010"}
    assert body["54000100"]["Value"][0]["54001010"] == {"vr": "OW", "BulkDataURI": base + "54000100/0/54001010"}
    assert body["00091010"]["vr"] == "UN"
    assert body["00100010"]["Value"] == [{"Alphabetic": "Müller^Jörg"}]
    assert "00020010" not in body
    assert "00091011" not in body
