"""STOW-RS: every part gets its own answer, and what is refused leaves nothing in the index."""

from __future__ import annotations

import hashlib
import socket
import time
import tracemalloc

import httpx
import pytest

REFERENCED, FAILED, OTHER, REASON = "00081199", "00081198", "0008119A", "00081197"


def reasons(document: dict, sequence: str) -> list[int]:
    """The failure reasons of a sequence."""
    return [item[REASON]["Value"][0] for item in document.get(sequence, {}).get("Value", [])]


def indexed(site) -> list[str]:
    """SOP Instance UIDs in the index."""
    with site.context.database.transaction() as connection:
        return [r["sop_instance_uid"] for r in connection.execute("SELECT sop_instance_uid FROM instance ORDER BY id")]


def quarantined(site) -> int:
    """Number of objects in quarantine."""
    with site.context.database.transaction() as connection:
        row = connection.execute("SELECT count(*) AS n FROM quarantine").fetchone()
        return row["n"]


def test_stored_objects_are_byte_for_byte_those_sent_and_answered_200(site, make):
    image = make(1)
    file = site.file(image)
    response = site.store(file)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/dicom+json"
    document = response.json()
    (item,) = document[REFERENCED]["Value"]
    url = f"{site.url}/dicom-web/studies/1.2.3/series/1.2.3.4/instances/{image.SOPInstanceUID}"
    assert item["00081155"]["Value"] == [image.SOPInstanceUID]
    assert item["00081150"]["Value"] == [image.SOPClassUID]
    assert item["00081190"] == {"vr": "UR", "Value": [url]}
    assert document["00081190"]["Value"] == [f"{site.url}/dicom-web/studies/1.2.3"]
    got = site.get(url.removeprefix(f"{site.url}/dicom-web"), headers={"Accept": "application/dicom"})
    assert hashlib.sha256(got.content).digest() == hashlib.sha256(file).digest()


def test_the_same_object_twice_is_a_success_and_changes_nothing(site, make):
    file = site.file(make(1))
    assert site.store(file, file).status_code == 200
    assert site.store(file).status_code == 200
    assert len(indexed(site)) == 1


def test_mixed_parts_are_answered_202_each_on_its_own(site, make):
    good, late = make(1), make(2)
    nameless = make(3)
    del nameless.SeriesInstanceUID
    cut = site.file(make(4))[:-20]
    response = site.store(site.file(good), b"just a text file", site.file(nameless), cut, site.file(late))
    assert response.status_code == 202
    document = response.json()
    assert len(document[REFERENCED]["Value"]) == 2
    assert set(reasons(document, FAILED) + reasons(document, OTHER)) == {0xC000}
    assert len(reasons(document, FAILED) + reasons(document, OTHER)) == 3
    assert len(reasons(document, OTHER)) >= 1  # a text file has no UID to fail under
    assert sorted(indexed(site)) == sorted([good.SOPInstanceUID, late.SOPInstanceUID])
    assert quarantined(site) == 3


def test_when_nothing_could_be_stored_the_answer_is_409(site):
    response = site.store(b"just a text file")
    assert response.status_code == 409
    assert reasons(response.json(), OTHER) == [0xC000]
    assert indexed(site) == []


def test_a_part_that_says_it_is_text_is_refused(site, make):
    response = site.store(site.file(make(1)), content_type="text/plain")
    assert response.status_code == 409
    assert indexed(site) == []


def test_an_object_of_another_study_is_refused_where_the_address_names_one(site, make):
    right, wrong = make(1), make(2, StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1")
    response = site.store(site.file(right), site.file(wrong), path="/studies/1.2.3")
    assert response.status_code == 202
    document = response.json()
    assert reasons(document, FAILED) == [0xA900]
    assert document[FAILED]["Value"][0]["00081155"]["Value"] == [wrong.SOPInstanceUID]
    assert indexed(site) == [right.SOPInstanceUID]


def test_a_series_under_another_study_is_refused(site, make):
    response = site.store(site.file(make(1)), site.file(make(2, StudyInstanceUID="1.2.4")))
    assert response.status_code == 202
    assert len(indexed(site)) == 1


def test_a_body_that_ends_in_the_middle_of_a_part_keeps_the_whole_parts_only(site, make):
    good, half = make(1), make(2)
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + site.file(good)
    body += b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n" + site.file(half)
    response = site.post(body, "b")  # whole object, but no closing delimiter says so
    assert response.status_code == 202
    assert len(response.json()[REFERENCED]["Value"]) == 1
    assert reasons(response.json(), OTHER) == [0xC000]
    assert indexed(site) == [good.SOPInstanceUID]
    assert quarantined(site) == 0


@pytest.mark.parametrize("body", [b"", b"no delimiter at all", b"--other\r\n\r\n\r\n--other--"])
def test_a_body_without_parts_is_a_bad_request(site, body):
    response = site.post(body, "b")
    assert response.status_code == 400
    assert response.json()["type"] == "urn:insitu:problem:bad-request"


def test_other_bodies_are_refused_before_they_are_read(site, make):
    url = f"{site.url}/dicom-web/studies"
    for kind, status in (
        ("application/dicom", 415),
        ('multipart/related; type="text/html"; boundary=b', 415),
        ("multipart/form-data; boundary=b", 415),
        ('multipart/related; type="application/dicom"', 400),
    ):
        response = httpx.post(
            url, content=site.file(make(1)), headers=site.headers | {"Content-Type": kind}, timeout=60
        )
        assert response.status_code == status, kind
    with site.context.database.transaction() as connection:
        assert connection.execute("SELECT 1 FROM receipt").fetchone() is None


def test_a_client_that_leaves_in_mid_object_leaves_no_trace(site, make):
    whole = site.file(make(1))
    start = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + whole[: len(whole) // 2]
    host, port = site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = (
            "POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
            f"Authorization: {site.headers['Authorization']}\r\n"
            'Content-Type: multipart/related; type="application/dicom"; boundary=b\r\n\r\n'
        )
        connection.sendall(head.encode() + start)
        wait_until(lambda: receipts(site) == (1, 0))
    wait_until(lambda: receipts(site) == (1, 1))
    assert indexed(site) == []
    assert [b.key for b in site.context.archive.blobs.list("objects")] == []
    assert site.store(whole).status_code == 200


def test_the_project_can_be_named_by_header(site, make):
    site.project("heart")
    body = b"--b\r\n\r\n" + site.file(make(1)) + b"\r\n--b--"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b', "X-Insitu-Project": "heart"}
    url = f"{site.url}/dicom-web/studies"
    response = httpx.post(url, content=body, headers=site.headers | headers, timeout=60)
    assert response.status_code == 200
    with site.context.database.transaction() as connection:
        assert [r["project"] for r in connection.execute("SELECT project FROM series_project")] == ["heart"]


def receipts(site) -> tuple[int, int]:
    """Number of receipts, and of those that are closed."""
    with site.context.database.transaction() as connection:
        row = connection.execute("SELECT count(*) AS n, count(closed_at) AS closed FROM association").fetchone()
        return row["n"], row["closed"]


def wait_until(condition, seconds: float = 60.0) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_many_objects_in_one_request_do_not_fill_the_memory(site, make):
    """The body of 600 objects (180 MB) comes in pieces; the test's own process is the server."""
    template = site.file(make(1, PixelData=bytes(300_000), Rows=375, Columns=400, SOPInstanceUID="1." + "2" * 30))
    pieces = 600

    def body():
        for number in range(pieces):
            file = template.replace(b"1." + b"2" * 30, b"1.1%029d" % number)
            yield b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n"
        yield b"--b--\r\n"

    headers = site.headers | {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    tracemalloc.start()
    try:
        response = httpx.post(f"{site.url}/dicom-web/studies", content=body(), headers=headers, timeout=280)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.status_code == 200
    assert len(indexed(site)) == pieces
    assert peak < 40 << 20
