"""The counts of the archive are right by project, modality and month, and tell nobody of projects that are not his."""

from __future__ import annotations

from collections.abc import Callable

from pydicom.dataset import Dataset

from insitu.archive import deletion, links, statistics
from insitu.archive.store import Archive, Receipt, Stored
from insitu.database import Database
from insitu.settings import Settings

from .index_dump import complete

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]


def test_counts_are_wrong_or_show_other_projects(
    database: Database, archive: Archive, settings: Settings, receipt: Receipt, make: Make, encode: Encode, store: Store
) -> None:
    first = make()
    second = make(StudyInstanceUID=first.StudyInstanceUID, Modality="MR")
    third = make(StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID, InstanceNumber=8)
    sizes = [store(receipt, encode(made)) and len(encode(made)) for made in (first, second, third)]
    store(receipt, b"no DICOM")
    archive.close_receipt(receipt)
    complete(database, settings)
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('heads'), ('others')")
        row = connection.execute("SELECT id FROM series WHERE modality = 'MR'").fetchone()
        assert row is not None
        links.link(connection, settings, row["id"], "heads", "anna")
        connection.execute("UPDATE series SET created_at = '2024-03-31 23:30+00' WHERE modality = 'MR'")
    with database.transaction() as connection:
        found = statistics.read(connection, None)  # nobody had counted yet
        condition = statistics.condition(connection, settings)
    total = found["archive"]["total"]
    assert (total["studies"], total["series"], total["instances"], total["bytes"]) == (1, 2, 3, sum(sizes))
    assert total["oldest"].startswith("2024-03-31")
    assert found["archive"]["modalities"]["CT"]["instances"] == 2
    assert found["archive"]["months"]["2024-03"]["bytes"] == sizes[1]
    assert found["projects"]["inbox"]["total"]["series"] == 2
    assert found["projects"]["heads"]["total"]["bytes"] == sizes[1]
    assert (condition["quarantine"], condition["conflicts"], condition["damaged"]) == (1, 0, 0)
    assert 0 < condition["disk_free_bytes"] <= condition["disk_bytes"]
    with database.transaction() as connection:
        mine = statistics.read(connection, frozenset(("heads",)))
        assert statistics.read(connection, frozenset())["projects"] == {}
    assert (mine["archive"], list(mine["projects"])) == (None, ["heads"])
    deletion.delete(archive, "anna", series=first.SeriesInstanceUID, reason="a test", projects=None)
    with database.transaction() as connection:
        assert not statistics.refresh(connection), "it is counted at most once a minute"
        assert statistics.refresh(connection, force=True)
        assert statistics.read(connection, None)["archive"]["total"]["instances"] == 1
