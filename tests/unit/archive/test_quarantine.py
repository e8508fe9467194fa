"""What could not be archived is in the hands of a person: seen, tried again, removed; never lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from insitu.archive import quarantine
from insitu.archive.blobs import FileBlobStore
from insitu.archive.reindex import reindex
from insitu.archive.store import Archive, Outcome, Receipt, Stored
from insitu.database import Database
from insitu.errors import NotFound

Store = Callable[..., Stored]


@pytest.fixture
def misplaced(
    archive: Archive, receipt: Receipt, make: Callable[..., Any], encode: Callable[..., bytes], store: Store
) -> tuple[str, Any]:
    """An object in quarantine because its series is known under another study; the entry and the data set."""
    first = make()
    assert store(receipt, encode(first)).success
    second = make(SeriesInstanceUID=first.SeriesInstanceUID)
    stored = store(receipt, encode(second))
    assert stored.outcome is Outcome.QUARANTINED
    with archive.database.transaction() as connection:
        (row,) = quarantine.listed(connection)
    return row["id"], second


def count(database: Database, table: str) -> int:
    with database.transaction() as connection:
        row = connection.execute(f"SELECT count(*) AS n FROM {table}").fetchone()
    assert row is not None
    return int(row["n"])


def test_an_entry_tells_what_it_is_and_nothing_of_the_patient(
    misplaced: tuple[str, Any], database: Database, blobs: FileBlobStore
) -> None:
    entry, dataset = misplaced
    with database.transaction() as connection:
        row = quarantine.get(connection, entry)
    assert row["calling_ae"] == "MODALITY"
    facts = quarantine.facts(blobs, row)
    assert facts["SOPInstanceUID"] == dataset.SOPInstanceUID
    assert facts["Modality"] == "CT"
    assert "Jörg" not in str(row) + str(facts)
    assert "4711" not in str(facts)


def test_facts_of_what_is_no_dicom_are_empty(archive: Archive, receipt: Receipt, store: Store) -> None:
    assert not store(receipt, b"a text " * 100).success
    with archive.database.transaction() as connection:
        (row,) = quarantine.listed(connection)
    assert quarantine.facts(archive.blobs, row) == {}


def test_a_release_archives_the_object_once_its_obstacle_is_gone(
    misplaced: tuple[str, Any], archive: Archive, blobs: FileBlobStore
) -> None:
    entry, dataset = misplaced
    with archive.database.transaction() as connection:
        key = quarantine.get(connection, entry)["blob_key"]
        # the wrong series goes, as a correction at the site would do it
        for table in ("series_event", "instance", "series_project", "series"):
            connection.execute(f"DELETE FROM {table}")
    archive.series_seen.forget(dataset.SeriesInstanceUID)
    stored = quarantine.release(archive, entry)
    assert stored.outcome is Outcome.STORED, stored.reason
    assert stored.sop_instance_uid == dataset.SOPInstanceUID
    assert count(archive.database, "quarantine") == 0
    assert not blobs.exists(key)
    with archive.database.transaction() as connection:
        row = connection.execute("SELECT receipt::text FROM instance").fetchone()
        with pytest.raises(NotFound):
            quarantine.get(connection, entry)
    assert row is not None


def test_an_object_that_is_still_bad_stays_with_the_reason_it_has_now(
    misplaced: tuple[str, Any], archive: Archive
) -> None:
    entry, _ = misplaced
    stored = quarantine.release(archive, entry)
    assert stored.outcome is Outcome.QUARANTINED
    with archive.database.transaction() as connection:
        (row,) = quarantine.listed(connection)
    assert row["id"] != entry
    assert row["reason"] == stored.reason
    assert archive.blobs.exists(row["blob_key"])


def test_what_was_discarded_is_gone_for_good_also_after_a_reindex(
    misplaced: tuple[str, Any], archive: Archive, blobs: FileBlobStore
) -> None:
    entry, _ = misplaced
    with archive.database.transaction() as connection:
        key = quarantine.get(connection, entry)["blob_key"]
    assert quarantine.remove(archive.database, blobs, entry)
    assert not quarantine.remove(archive.database, blobs, entry)
    assert not blobs.exists(key)
    reindex(archive.database, blobs, archive.settings)
    assert count(archive.database, "quarantine") == 0


@pytest.mark.parametrize("entry", ["not-a-uuid", "00000000-0000-0000-0000-000000000000"])
def test_an_unknown_entry_is_not_found(database: Database, entry: str) -> None:
    with database.transaction() as connection, pytest.raises(NotFound):
        quarantine.get(connection, entry)
