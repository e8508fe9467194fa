"""The PyPI package dicomweb-client as an independent judge: it stores, searches and retrieves without a special case."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image


def test_client_gets_back_what_it_stored(site, make):
    images = [make(number) for number in (2, 1, 3)]
    answer = site.client.store_instances(images)
    assert len(answer.ReferencedSOPSequence) == 3
    assert "FailedSOPSequence" not in answer
    series = site.client.retrieve_series("1.2.3", "1.2.3.4")
    assert [d.InstanceNumber for d in series] == [1, 2, 3]
    sent = {d.SOPInstanceUID: d for d in images}
    for dataset in series:
        assert dataset == sent[dataset.SOPInstanceUID]
    assert len(site.client.retrieve_study("1.2.3")) == 3
    one = site.client.retrieve_instance("1.2.3", "1.2.3.4", images[0].SOPInstanceUID)
    assert one == images[0]


def test_client_finds_at_every_level(site, make):
    site.take(make(1), make(2), make(1, SeriesInstanceUID="1.2.3.5", Modality="MR"))
    client = site.client
    (study,) = client.search_for_studies(search_filters={"PatientID": "P1"}, fields=["StudyDescription"])
    assert study["0020000D"]["Value"] == ["1.2.3"]
    assert study["00201208"]["Value"] == [3]
    assert study["00080061"]["Value"] == ["CT", "MR"]
    assert len(client.search_for_series()) == 2
    assert len(client.search_for_series("1.2.3", search_filters={"Modality": "MR"})) == 1
    assert len(client.search_for_instances()) == 3
    assert len(client.search_for_instances("1.2.3")) == 3
    assert len(client.search_for_instances("1.2.3", "1.2.3.4", limit=1, get_remaining=True)) == 2
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []


def test_client_reads_metadata_and_the_bulk_data_it_points_to(site, make):
    table = bytes(range(256)) * 16
    image = make(1, RedPaletteColorLookupTableData=table)
    site.take(image)
    (document,) = site.client.retrieve_series_metadata("1.2.3", "1.2.3.4")
    dataset = pydicom.Dataset.from_json(document, bulk_data_uri_handler=lambda *_: b"")
    assert dataset.SliceThickness == 1.25
    address = document["00281201"]["BulkDataURI"]
    assert address.startswith(f"{site.url}/dicom-web/studies/1.2.3/")
    assert site.client.retrieve_bulkdata(address) == [table]
    assert len(site.client.retrieve_study_metadata("1.2.3")) == 1
    assert site.client.retrieve_instance_metadata("1.2.3", "1.2.3.4", image.SOPInstanceUID) == document


def test_client_gets_frames_of_native_and_compressed_images(site, sample):
    plain, packed = sample("rtdose.dcm"), sample("examples_ybr_color.dcm")
    site.take(plain, packed)
    pixels = plain.pixel_array
    size = pixels[0].nbytes
    frames = site.client.retrieve_instance_frames(*uids(plain), [2, 15])
    assert frames == [pixels[1].astype("<u4").tobytes(), pixels[14].astype("<u4").tobytes()]
    assert {len(frame) for frame in frames} == {size}
    (jpeg,) = site.client.retrieve_instance_frames(*uids(packed), [30], media_types=("image/jpeg",))
    assert Image.open(io.BytesIO(jpeg)).size == (packed.Columns, packed.Rows)
    (octets,) = site.client.retrieve_instance_frames(*uids(packed), [30], media_types=("application/octet-stream",))
    decoded = np.frombuffer(octets, np.uint8).reshape(packed.Rows, packed.Columns, 3)
    reference = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    assert np.abs(decoded.astype(int) - reference).mean() < 3


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/png"])
def test_client_gets_rendered_images(site, make, media_type):
    image = make(1)
    site.take(image)
    rendered = site.client.retrieve_instance_rendered(*uids(image), media_types=(media_type,))
    assert Image.open(io.BytesIO(rendered)).size == (6, 4)
    rendered = site.client.retrieve_instance_frames_rendered(*uids(image), [1], media_types=(media_type,))
    assert Image.open(io.BytesIO(rendered)).format == media_type.partition("/")[2].upper()


def test_the_server_says_what_it_can_do(site):
    for method in ("GET", "OPTIONS"):
        response = httpx.request(method, f"{site.url}/dicom-web/", headers=site.headers, timeout=60)
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/vnd.sun.wadl+xml"
        for path in ("/studies", "/studies/{study}/series/{series}/rendered"):
            assert f'<resource path="{path}">' in response.text


def uids(dataset: pydicom.Dataset) -> tuple[str, str, str]:
    """The UIDs that name an instance."""
    return dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
