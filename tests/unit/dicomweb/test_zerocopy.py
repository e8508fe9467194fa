"""A series that is sent by the kernel arrives whole, and a client that is slow, gone or one of many harms nobody."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import socket
import time
import urllib.parse

import numpy as np
import pytest

from insitu_services.api import zerocopy

SERIES = "/studies/1.2.3/series/1.2.3.4"
ACCEPT = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
SIDE = 1024  # pixels: 2 MB a slice, so that three are more than the sockets of both ends hold
PATIENCE = 120  # seconds a loaded machine may take


@pytest.fixture
def digests(site, make) -> list[str]:
    """A series of large slices; the digests of its files."""
    pixels = np.random.default_rng(7).integers(0, 4096, SIDE * SIDE, dtype="<i2").tobytes()
    slices = [make(number, Rows=SIDE, Columns=SIDE, PixelData=pixels) for number in range(1, 9)]
    site.take(*slices, with_metadata=False)
    return sorted(hashlib.sha256(site.file(each)).hexdigest() for each in slices)


def parts(answer: bytes, content_type: str) -> list[str]:
    """Digests of the parts of a multipart body, taken apart by hand."""
    boundary = b"--" + content_type.partition("boundary=")[2].split(";")[0].encode()
    assert answer.startswith(boundary)
    assert answer.endswith(boundary + b"--\r\n")
    inner = answer[len(boundary) : -len(boundary) - 4].split(b"\r\n" + boundary)
    return sorted(hashlib.sha256(part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")).hexdigest() for part in inner)


def connect(site) -> http.client.HTTPConnection:
    """A connection whose requests are made by hand."""
    address = urllib.parse.urlsplit(site.url)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)


def test_a_series_arrives_byte_for_byte_and_the_connection_goes_on(site, digests):
    connection = connect(site)
    for accept in (ACCEPT, {"Accept": 'multipart/related; type="application/dicom"'}):  # stored in the default syntax
        connection.request("GET", f"/dicom-web{SERIES}", headers=site.headers | accept)
        answer = connection.getresponse()
        assert answer.status == 200
        body = answer.read()
        assert len(body) == int(answer.headers["Content-Length"])
        assert parts(body, answer.headers["Content-Type"]) == digests
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()


def test_more_clients_than_threads_all_get_the_series(site, digests):
    def fetch(_: int) -> list[str]:
        answer = site.get(SERIES, headers=ACCEPT)
        return parts(answer.content, answer.headers["Content-Type"])

    clients = zerocopy.AT_ONCE + 4
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        assert all(found == digests for found in pool.map(fetch, range(clients)))


def test_slow_clients_stop_nobody_and_clients_that_leave_give_their_place_back(site, digests):
    slow = []
    for _ in range(zerocopy.AT_ONCE):
        connection = connect(site)
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.request("GET", f"/dicom-web{SERIES}", headers=site.headers | ACCEPT)
        slow.append((connection, connection.getresponse()))  # reads the headers, and no more
    assert not zerocopy._free.acquire(blocking=False)
    answer = site.get(SERIES, headers=ACCEPT)  # all places are taken: streamed the usual way
    assert parts(answer.content, answer.headers["Content-Type"]) == digests
    for connection, waiting in slow:
        waiting.close()
        connection.close()
    deadline = time.monotonic() + PATIENCE
    for _ in range(zerocopy.AT_ONCE):
        while not zerocopy._free.acquire(blocking=False):
            assert time.monotonic() < deadline, "a client that left keeps its place"
            time.sleep(0.05)
    for _ in range(zerocopy.AT_ONCE):
        zerocopy._free.release()


def test_a_missing_blob_breaks_the_answer_off_instead_of_ending_it_as_if_whole(site, digests):
    with site.context.database.transaction() as connection:
        row = connection.execute("SELECT blob_key FROM instance WHERE instance_number = 5").fetchone()
    site.context.archive.blobs.delete(row["blob_key"])
    connection = connect(site)
    connection.request("GET", f"/dicom-web{SERIES}", headers=site.headers | ACCEPT)
    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()
    connection.close()
    assert site.get("/studies").status_code == 200
