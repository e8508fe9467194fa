"""Every test file of pydicom and pydicom-data by STOW-RS and back: the same bytes, the metadata of pydicom; or refused."""

from __future__ import annotations

import hashlib

import httpx
import pytest

from tests.pydicom_files import File, comparable, expected_metadata, files

from .conftest import PATIENCE, Site

BOUNDARY = "the-boundary"
FAILED, OTHER_FAILURES = "00081198", "0008119A"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_file_comes_back_as_it_was_or_is_refused_for_its_reason(site: Site) -> None:
    with httpx.Client(base_url=f"{site.url}/dicom-web", headers=site.headers, timeout=PATIENCE) as client:
        assert sum(come_back(site, client, file) for file in files()) > 170


def come_back(site: Site, client: httpx.Client, file: File) -> bool:
    """Whether the file was stored and came back; false where it was refused as it should be."""
    name, content = file.path.name, file.content
    part = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    response = client.post(
        "/studies",
        content=part + content + f"\r\n--{BOUNDARY}--\r\n".encode(),
        headers={"Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'},
    )
    with site.context.database.transaction() as connection:
        last = connection.execute("SELECT * FROM quarantine ORDER BY at DESC LIMIT 1").fetchone()
    if file.refusal is not None:
        assert response.status_code == 409, name
        assert FAILED in response.json() or OTHER_FAILURES in response.json(), name
        assert last is not None
        assert file.refusal in last["reason"], name
        assert site.context.archive.blobs.read(last["blob_key"]) == content, name
        return False
    assert response.status_code == 200, (name, response.text)
    read = file.read()
    path = f"/studies/{read.StudyInstanceUID}/series/{read.SeriesInstanceUID}/instances/{read.SOPInstanceUID}"
    got = client.get(path, headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert got.status_code == 200, name
    assert hashlib.sha256(got.content).digest() == hashlib.sha256(content).digest(), name
    (document,) = client.get(f"{path}/metadata").json()
    expected = expected_metadata(file)
    if "00080005" in expected:  # an answer in JSON is in UTF-8, and says so
        expected["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    assert comparable(document, file) == expected, name
    with site.context.database.transaction() as connection:
        connection.execute("TRUNCATE study, series, instance CASCADE")  # the files share UIDs
    return True
