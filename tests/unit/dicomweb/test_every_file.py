"""Every test file of pydicom by STOW-RS and back by WADO-RS: the same bytes, the metadata of pydicom; or refused for a reason."""

from __future__ import annotations

import hashlib

import pytest

from tests.pydicom_files import comparable, expected_metadata, files

from .conftest import Site

FAILED, OTHER_FAILURES = "00081198", "0008119A"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_file_comes_back_as_it_was_or_is_refused_for_its_reason(site: Site) -> None:
    stored = 0
    for file in files():
        name, content = file.path.name, file.content
        response = site.store(content)
        with site.context.database.transaction() as connection:
            last = connection.execute("SELECT * FROM quarantine ORDER BY at DESC LIMIT 1").fetchone()
        if file.refusal is not None:
            assert response.status_code == 409, name
            assert FAILED in response.json() or OTHER_FAILURES in response.json(), name
            assert last is not None
            assert file.refusal in last["reason"], name
            assert site.context.archive.blobs.read(last["blob_key"]) == content, name
            continue
        assert response.status_code == 200, (name, response.text)
        read = file.read()
        path = f"/studies/{read.StudyInstanceUID}/series/{read.SeriesInstanceUID}/instances/{read.SOPInstanceUID}"
        got = site.get(path, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert got.status_code == 200, name
        assert hashlib.sha256(got.content).digest() == hashlib.sha256(content).digest(), name
        (document,) = site.found(f"{path}/metadata")
        expected = expected_metadata(file)
        if "00080005" in expected:  # an answer in JSON is in UTF-8, and says so
            expected["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
        assert comparable(document, file) == expected, name
        with site.context.database.transaction() as connection:
            connection.execute("TRUNCATE study, series, instance CASCADE")  # the files share UIDs
        stored += 1
    assert stored > 100
