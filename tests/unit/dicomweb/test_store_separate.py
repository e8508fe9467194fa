"""STOW-RS of metadata and bulk data apart: what is stored is the object they came from, and each object has its own answer."""

from __future__ import annotations

import io
import json
import tracemalloc

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_frames

from insitu.archive import metadata
from insitu_services.api.dicomweb import assembly, native

from .test_store import FAILED, OTHER, REFERENCED, indexed, quarantined, reasons

JSON, XML = "application/dicom+json", "application/dicom+xml"
OBJECT = 'application/dicom; transfer-syntax="*"'


def document(dataset: pydicom.Dataset, **changes) -> dict:
    """Metadata of a data set; its bulk data is named `bulk/TAG` of the instance."""
    found = metadata._document(dataset, f"{dataset.SOPInstanceUID}/")
    for tag in ("7FE00010",):
        found[tag] = {"vr": "OW", "BulkDataURI": f"{dataset.SOPInstanceUID}/{tag}"}
    return json.loads(json.dumps(found)) | changes


def bulk(dataset: pydicom.Dataset, tag: int = 0x7FE00010) -> tuple[dict, bytes]:
    """A value as a part."""
    location = f"{dataset.SOPInstanceUID}/{tag:08X}"
    return {"Content-Type": "application/octet-stream", "Content-Location": location}, dataset[tag].value


def send(site, kind: str, documents: list[dict], *parts: tuple[dict, bytes], path="/studies", end=b"--b--\r\n"):
    """POST metadata, then bulk data."""
    texts = [json.dumps(documents).encode()] if kind == JSON else [native.to_xml(each) for each in documents]
    heads = [({"Content-Type": kind}, text) for text in texts]
    body = b""
    for headers, content in (*heads, *parts):
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body += f"--b\r\n{lines}\r\n".encode() + content + b"\r\n"
    content_type = {"Content-Type": f'multipart/related; type="{kind}"; boundary=b'}
    return httpx.post(
        f"{site.url}/dicom-web{path}", content=body + end, headers=site.headers | content_type, timeout=60
    )


def stored(site, dataset: pydicom.Dataset) -> pydicom.Dataset:
    """The object as the archive gives it back."""
    path = f"/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}"
    answer = site.get(path, headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert answer.status_code == 200, answer.text
    return pydicom.dcmread(io.BytesIO(answer.content))


@pytest.mark.parametrize("kind", [JSON, XML])
def test_objects_are_those_their_metadata_and_bulk_data_came_from(site, make, kind):
    private = make(1, PatientName="Müller^Jürgen", SpecificCharacterSet="ISO_IR 192")
    private.private_block(0x0099, "INSITU TEST", create=True).add_new(1, "OB", bytes(range(256)) * 8)
    item = pydicom.Dataset()
    item.add_new(0x00660040, "OL", np.arange(1000, dtype="<u4").tobytes())
    second = make(2, SurfaceSequence=[item], RescaleSlope="0.5", ImageType=["ORIGINAL", "", "AXIAL"])
    nested = {
        "Content-Type": "application/octet-stream",
        "Content-Location": f"{second.SOPInstanceUID}/00660002/0/00660040",
    }
    parts = [bulk(private), bulk(private, 0x00991001), bulk(second), (nested, item[0x00660040].value)]
    answer = send(site, kind, [document(private), document(second)], *parts)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()[REFERENCED]["Value"]) == 2
    for dataset in (private, second):
        got = stored(site, dataset)
        assert got.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert {e.tag: e.value for e in got if e.tag != 0x00080005} == {
            e.tag: e.value for e in dataset if e.tag != 0x00080005
        }


def test_compressed_frames_are_put_into_one_object(site, sample):
    dataset = sample("SC_rgb_rle_2frame.dcm")
    frames = list(generate_frames(dataset.PixelData, number_of_frames=2))
    location = f"{dataset.SOPInstanceUID}/7FE00010"
    parts = [({"Content-Type": "image/dicom-rle", "Content-Location": location}, frame) for frame in frames]
    answer = send(site, JSON, [document(dataset)], *parts)
    assert answer.status_code == 200, answer.text
    got = stored(site, dataset)
    assert got.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.5"
    assert np.array_equal(got.pixel_array, dataset.pixel_array)


def test_a_jpeg_tells_the_pixel_description_that_the_metadata_leaves_out(site, make):
    picture = io.BytesIO()
    Image.fromarray(np.full((16, 24, 3), 90, np.uint8)).save(picture, "JPEG")
    dataset = make(1)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    left = document(dataset)
    for tag in [tag for tag in left if tag.startswith("0028")]:
        del left[tag]
    kind = "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50"
    part = {"Content-Type": kind, "Content-Location": f"{dataset.SOPInstanceUID}/7FE00010"}
    answer = send(site, JSON, [left], (part, picture.getvalue()))
    assert answer.status_code == 200, answer.text
    got = stored(site, dataset)
    assert (got.Rows, got.Columns, got.PhotometricInterpretation) == (16, 24, "YBR_FULL_422")
    assert abs(int(got.pixel_array[8, 8, 0]) - 90) < 20


def test_each_object_that_cannot_be_put_together_is_named_and_the_others_are_stored(site, make):
    good, lacking, other = make(1), make(2), make(3, StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1")
    wrong = document(make(4), **{"00280010": {"vr": "US", "Value": ["many"]}})
    documents = [document(good), document(lacking), document(other), wrong]
    answer = send(site, JSON, documents, bulk(good), bulk(other), path="/studies/1.2.3")
    assert answer.status_code == 202, answer.text
    failed = {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in answer.json()[FAILED]["Value"]}
    assert failed == {
        lacking.SOPInstanceUID: 0xC000, other.SOPInstanceUID: 0xA900, wrong["00080018"]["Value"][0]: 0xC000
    }  # fmt: skip
    assert indexed(site) == [good.SOPInstanceUID]
    assert quarantined(site) == 1  # what was an object, of another study
    nameless = send(site, JSON, [{"00100010": {"vr": "PN"}}])
    assert (nameless.status_code, reasons(nameless.json(), OTHER)) == (409, [0xC000])


@pytest.mark.parametrize("text", [b"[", b"[1]", b"[" * 100_000, b"{}}", b"<a/>", b"\xff"])
def test_metadata_that_cannot_be_read_is_a_bad_request(site, make, text):
    for kind in (JSON, XML):
        body = f"--b\r\nContent-Type: {kind}\r\n\r\n".encode() + text + b"\r\n--b--\r\n"
        headers = site.headers | {"Content-Type": f'multipart/related; type="{kind}"; boundary=b'}
        answer = httpx.post(f"{site.url}/dicom-web/studies", content=body, headers=headers, timeout=60)
        assert answer.status_code == 400, answer.text


def test_a_request_that_is_not_whole_stores_nothing(site, make):
    dataset = make(1)
    assert send(site, JSON, [document(dataset)], bulk(dataset), end=b"").status_code == 400
    placeless = ({"Content-Type": "application/octet-stream"}, b"xx")
    assert send(site, JSON, [document(dataset)], placeless).status_code == 400
    assert send(site, JSON, []).status_code == 400
    assert indexed(site) == []


def test_an_address_that_is_not_in_the_request_is_not_fetched(site, make):
    dataset = make(1)
    away = document(dataset, **{"7FE00010": {"vr": "OW", "BulkDataURI": f"{site.url}/healthz"}})
    assert send(site, JSON, [away]).status_code == 409
    local = document(dataset, **{"7FE00010": {"vr": "OW", "BulkDataURI": "file:///etc/hostname"}})
    assert send(site, JSON, [local]).status_code == 409
    assert indexed(site) == []


def test_large_bulk_data_is_not_held_in_memory(site, make, monkeypatch):
    frames = 200
    dataset = make(1, Rows=512, Columns=512, NumberOfFrames=frames)
    head = json.dumps([document(dataset)]).encode()
    location = f"{dataset.SOPInstanceUID}/7FE00010".encode()

    def body():
        yield b"--b\r\nContent-Type: application/dicom+json\r\n\r\n" + head
        yield b"\r\n--b\r\nContent-Type: application/octet-stream\r\nContent-Location: " + location + b"\r\n\r\n"
        for number in range(frames):
            yield bytes([number]) * (512 * 512 * 2)
        yield b"\r\n--b--\r\n"

    headers = site.headers | {"Content-Type": f'multipart/related; type="{JSON}"; boundary=b'}
    tracemalloc.start()
    try:
        answer = httpx.post(f"{site.url}/dicom-web/studies", content=body(), headers=headers, timeout=200)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 200, answer.text
    assert peak < 40 << 20
    monkeypatch.setattr(assembly, "METADATA_LIMIT", 1000)
    assert send(site, JSON, [document(make(2))]).status_code == 400
