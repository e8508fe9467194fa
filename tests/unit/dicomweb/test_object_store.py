"""DICOMweb over an archive in a bucket: what is fetched is what was stored, and nobody is told success while the bucket is away."""

from __future__ import annotations

import hashlib

import httpx
import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.object_store import ObjectStore

SERIES = "/studies/1.2.3/series/1.2.3.4"
STORED = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
FRAME = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}


@pytest.fixture
def server(tmp_path):
    """The bucket's server."""
    with ObjectStore(tmp_path / "server") as server:
        yield server


@pytest.fixture
def bucket_site(site, server, tmp_path):
    """The site of the other tests, with its objects in the bucket."""
    site.context.archive.blobs = server.blobs(tmp_path / "spool", patience=2)
    return site


def slices(make, count: int) -> list[Dataset]:
    """Slices of 2 MB, each with pixels of its own."""
    chance = np.random.default_rng(3)
    return [
        make(number, Rows=1024, Columns=1024, PixelData=chance.integers(0, 4096, 1 << 20, dtype="<i2").tobytes())
        for number in range(1, count + 1)
    ]


def test_series_frames_and_images_are_fetched_from_the_bucket(bucket_site, server, make):
    made = slices(make, 6)
    for each in made:
        assert bucket_site.store(bucket_site.file(each)).status_code == 200
    assert len([key for key in server.files() if key.startswith("objects/")]) == 6
    whole = bucket_site.get(SERIES, headers=STORED)
    assert whole.status_code == 200
    assert len(whole.content) == int(whole.headers["Content-Length"])
    assert all(bucket_site.file(each) in whole.content for each in made)
    one = f"{SERIES}/instances/{made[3].SOPInstanceUID}"
    assert made[3].PixelData in bucket_site.get(f"{one}/frames/1", headers=FRAME).content
    assert bucket_site.get(f"{one}/rendered", headers={"Accept": "image/png"}).status_code == 200
    document = bucket_site.get(f"{one}/metadata", headers={"Accept": "application/dicom+json"}).json()
    address = document[0]["7FE00010"]["BulkDataURI"].partition("/dicom-web")[2]
    bulk = bucket_site.get(address, headers={"Accept": "application/octet-stream", "Range": "bytes=1000-1999"})
    assert hashlib.sha256(made[3].PixelData[1000:2000]).digest() == hashlib.sha256(bulk.content).digest()


def test_while_the_bucket_is_away_storing_and_frames_are_put_off_and_no_answer_ends_as_if_whole(
    bucket_site, server, make
):
    made = slices(make, 2)
    assert bucket_site.store(bucket_site.file(made[0])).status_code == 200
    server.kill()
    refused = bucket_site.store(bucket_site.file(made[1]))
    assert refused.status_code == 503, refused.text
    one = f"{SERIES}/instances/{made[0].SOPInstanceUID}"
    assert bucket_site.get(f"{one}/frames/1", headers=FRAME).status_code == 503
    try:
        whole = bucket_site.get(SERIES, headers=STORED)
    except httpx.RemoteProtocolError:
        pass  # broken off, as where a disk fails
    else:
        assert whole.status_code == 503
    assert bucket_site.get("/studies").status_code == 200
    server.start()
    assert bucket_site.store(bucket_site.file(made[1])).status_code == 200
    assert bucket_site.file(made[1]) in bucket_site.get(SERIES, headers=STORED).content
