"""Bulk data by ranges of bytes (RFC 9110 14): a client that resumes gets exactly the bytes it lacks, or is told why not."""

from __future__ import annotations

import pytest

from insitu_services.api.dicomweb.conditional import OutOfRange, byte_range


@pytest.fixture
def multiframe(site, sample):
    """Path of the pixel data of an object of 15 frames, and its bytes."""
    dataset = sample("rtdose.dcm")
    site.take(dataset)
    instance = (
        f"/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}"
    )
    return f"{instance}/bulkdata/7FE00010", dataset.PixelData


def test_a_range_of_pixel_data_is_those_bytes_across_frames(site, multiframe):
    path, pixels = multiframe
    for text, expected in {
        "bytes=0-0": pixels[:1], "bytes=350-1234": pixels[350:1235], "bytes=-7": pixels[-7:],
        "bytes=5-": pixels[5:], f"bytes=3-{1 << 40}": pixels[3:],
    }.items():  # fmt: skip
        response = site.get(path, headers={"Range": text})
        assert (response.status_code, response.content) == (206, expected), text
        begin = len(pixels) - 7 if text == "bytes=-7" else int(text[6:].split("-")[0])
        assert response.headers["Content-Range"] == f"bytes {begin}-{begin + len(expected) - 1}/{len(pixels)}"
        assert response.headers["Content-Type"] == "application/octet-stream"


def test_a_range_without_a_byte_is_416_and_says_how_many_there_are(site, multiframe):
    path, pixels = multiframe
    response = site.get(path, headers={"Range": f"bytes={len(pixels)}-"})
    assert (response.status_code, response.headers["Content-Range"]) == (416, f"bytes */{len(pixels)}")
    assert response.headers["Content-Type"] == "application/problem+json"


def test_a_range_of_an_object_that_was_replaced_is_the_whole_new_value(site, multiframe):
    path, pixels = multiframe
    tag = site.get(path, headers={"Range": "bytes=0-9"}).headers["ETag"]
    again = site.get(path, headers={"Range": "bytes=10-19", "If-Range": tag})
    assert (again.status_code, again.content) == (206, pixels[10:20])
    changed = site.get(path, headers={"Range": "bytes=10-19", "If-Range": '"another"'})
    assert (changed.status_code, changed.content) == (200, pixels)
    single = {"Accept": "application/octet-stream"}
    assert site.get(path, headers=single | {"If-None-Match": tag}).status_code == 304
    assert site.get(path, headers=single).headers["Content-Length"] == str(len(pixels))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, None), ("bytes=2-4", (2, 5)), ("bytes= 2-4", (2, 5)), ("bytes=2-", (2, 10)), ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)), ("bytes=4-2", None), ("bytes=0-1,3-4", None), ("lines=1-2", None), ("bytes=-", None),
        ("bytes=a-b", None),
    ],
)  # fmt: skip
def test_ranges_that_are_no_single_range_of_bytes_are_left_aside(text, found):
    assert byte_range(text, 10) == found


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_ranges_outside_of_the_value_are_refused(text):
    with pytest.raises(OutOfRange):
        byte_range(text, 10)
