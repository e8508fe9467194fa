"""What is deleted is gone from index and blobs and stays gone; what still needs it, or belongs to others, is not touched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from insitu.archive import deletion
from insitu.archive.blobs import FileBlobStore
from insitu.archive.deletion import Deleted
from insitu.archive.reindex import reindex
from insitu.archive.scrub import scrub
from insitu.archive.store import Archive, Outcome, Receipt, Stored
from insitu.audit import trail
from insitu.database import Database
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
