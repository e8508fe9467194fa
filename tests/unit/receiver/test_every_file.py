"""Every test file of pydicom and pydicom-data by C-STORE: kept byte for byte, its metadata that of pydicom; or refused."""

from __future__ import annotations

import hashlib

import pytest

from insitu.archive.blobs import FileBlobStore
from insitu.archive.metadata import instance_metadata
from tests.pydicom_files import REFUSED, comparable, expected_metadata, files

from .conftest import Receiver
from .test_receiver import scripted_store


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_file_arrives_as_it_is_or_is_refused_for_its_reason(module_receiver: Receiver) -> None:
    receiver = module_receiver
    blobs = FileBlobStore(receiver.home / "blobs")
    stored = 0
    for file in files():
        if not (file.has_storage_class() and file.transfer_syntax_uid):
            continue
        name, read, sent = file.path.name, file.header(), file.data_set
        uid = str(read.SOPInstanceUID)
        status, comment = scripted_store(receiver, sent, uid, str(read.SOPClassUID), file.transfer_syntax_uid)
        reason = REFUSED.get(name)
        with receiver.database.transaction() as connection:
            row = connection.execute("SELECT * FROM instance WHERE sop_instance_uid = %s", (uid,)).fetchone()
            last = connection.execute("SELECT * FROM quarantine ORDER BY at DESC LIMIT 1").fetchone()
            # The files share UIDs; each comes into an empty archive.
            connection.execute("TRUNCATE study, series, instance CASCADE")
        if reason is not None:
            assert status & 0xF000 == 0xC000, name
            assert last is not None
            assert reason in last["reason"], name
            assert row is None
            assert blobs.read(last["blob_key"]).endswith(sent)
            continue
        assert (status, comment) == (0, ""), name
        assert row is not None, name
        kept = blobs.read(row["blob_key"])
        assert kept[row["dataset_offset"] :] == sent, name
        assert bytes(row["digest"]) == hashlib.sha256(sent).digest(), name
        assert row["transfer_syntax_uid"] == file.transfer_syntax_uid
        assert comparable(instance_metadata(blobs, row), file) == expected_metadata(file), name
        stored += 1
    assert stored > 170
