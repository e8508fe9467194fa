"""An object far larger than what a process may hold goes out piece by piece, byte for byte."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage

from tests.peers.dcmtk import storescp
from tests.tools import needs_program

from .conftest import Site, encoded, image

SIZE = 200 << 20  # bytes of pixel data
PIECE = bytes(range(256)) * 4096  # 1 MiB


@contextmanager
def most_memory(found: list[int]) -> Iterator[None]:
    """Note the largest resident size (bytes) of this process in the block, beyond that at its beginning."""
    process, ended = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        most = before
        while not ended.wait(0.01):
            most = max(most, process.memory_info().rss)
        found.append(most - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def store_large(site: Site) -> tuple[str, bytes]:
    """Store a multiframe object in pieces; its study and the SHA-256 of its data set."""
    made = image(
        SOPClassUID=MultiFrameGrayscaleWordSecondaryCaptureImageStorage, Rows=1024, Columns=1024,
        NumberOfFrames=SIZE // (2 << 20), PixelData=b"",
    )  # fmt: skip
    head = encoded(made)[:-4] + SIZE.to_bytes(4, "little")  # pixel data is the last element
    digest = hashlib.sha256(head[head.index(b"\x08\x00\x16\x00UI") :])
    receipt = site.archive.open_receipt(channel="import", project="alpha")
    incoming = site.archive.begin(receipt)
    incoming.write(head)
    for _ in range(SIZE // len(PIECE)):
        incoming.write(PIECE)
        digest.update(PIECE)
    stored = incoming.commit()
    assert stored.success, stored.reason
    site.archive.close_receipt(receipt)
    return str(made.StudyInstanceUID), digest.digest()


@needs_program("storescp", "dcmtk")
def test_a_large_object_fills_the_memory_of_the_dispatcher_on_its_way_out(site: Site, tmp_path: Path) -> None:
    study, expected = store_large(site)
    grown: list[int] = []
    with storescp(tmp_path / "out", ["-B"]) as peer, site.exchanging():
        site.node(ae_title="STORE", host="127.0.0.1", port=peer.port)
        with most_memory(grown):
            row = site.ended(site.send(study))
        (arrived,) = (tmp_path / "out").iterdir()
        with arrived.open("rb") as file:
            file.seek(
                144 + int.from_bytes(file.read(144)[140:], "little")
            )  # behind the file meta information (PS3.10 7.1)
            found = hashlib.file_digest(file, "sha256").digest()
    assert (row["state"], row["sent"]) == ("done", 1), row
    assert found == expected
    assert grown[0] < 60_000_000, f"{grown[0]} bytes more while it sent {SIZE}"
