"""One multi-frame object of 2 GB: received by C-STORE and by STOW-RS, served frame by frame, and the memory of every process meanwhile.

Run with `python -m tests.bench.bench_large [--frames N] [--home DIR]`. Every frame served is compared with the one that was sent; an
object comes once with native pixel data and once with encapsulated. Not here: many small objects (bench_peers, bench_read).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import os
import struct
import subprocess
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from insitu.archive.examine import file_meta

from . import site
from .bench_read import BOUNDARY, token, wait_for_metadata

EXPLICIT = "1.2.840.10008.1.2.1"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
GRAYSCALE_WORD = "1.2.840.10008.5.1.4.1.1.7.3"  # Multi-frame Grayscale Word Secondary Capture
GRAYSCALE_BYTE = "1.2.840.10008.5.1.4.1.1.7.2"
SIDE = 512
FRAME = SIDE * SIDE * 2  # bytes
WAIT_SECONDS = 600.0


@dataclass(frozen=True)
class Large:
    """A large object in a file."""

    path: Path
    syntax: str
    study: str
    series: str
    instance: str

    @property
    def frames(self) -> str:
        """Path of its frames below the DICOMweb service."""
        return f"/studies/{self.study}/series/{self.series}/instances/{self.instance}/frames"


def frame(number: int) -> bytes:
    """The bytes of a frame, counted from 1: the same each time, and no two frames alike."""
    return hashlib.shake_128(str(number).encode()).digest(4096) * (FRAME // 4096)


def write(path: Path, frames: int, *, encapsulated: bool) -> Large:
    """Write an object of so many frames of 512 kB, without holding it."""
    study, series, instance = (f"2.25.{uuid.uuid4().int}" for _ in range(3))
    sop_class, syntax, bits = (
        (GRAYSCALE_BYTE, JPEG_BASELINE, 8) if encapsulated else (GRAYSCALE_WORD, EXPLICIT, 16)
    )  # fmt: skip

    def element(tag: int, vr: str, value: str | int) -> bytes:
        raw = struct.pack("<H", value) if isinstance(value, int) else value.encode()
        raw += (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(raw)) + raw

    elements: list[tuple[int, str, str | int]] = [
        (0x00080016, "UI", sop_class), (0x00080018, "UI", instance), (0x00080060, "CS", "OT"),
        (0x00100010, "PN", "Doe^Jane"), (0x00100020, "LO", "4711"), (0x0020000D, "UI", study), (0x0020000E, "UI", series),
        (0x00280002, "US", 1), (0x00280004, "CS", "MONOCHROME2"), (0x00280008, "IS", str(frames)),
        (0x00280010, "US", SIDE), (0x00280011, "US", SIDE), (0x00280100, "US", bits), (0x00280101, "US", bits),
        (0x00280102, "US", bits - 1), (0x00280103, "US", 0),
    ]  # fmt: skip
    with path.open("wb") as stream:
        stream.write(file_meta(syntax, sop_class, instance, None))
        stream.writelines(element(*each) for each in elements)
        head = struct.pack("<HH2sH", 0x7FE0, 0x0010, b"OB" if encapsulated else b"OW", 0)
        stream.write(head + struct.pack("<I", 0xFFFFFFFF if encapsulated else frames * FRAME))
        if encapsulated:
            stream.write(
                struct.pack("<HHI", 0xFFFE, 0xE000, 0)
            )  # an empty basic offset table: the frames must be looked for
        for number in range(1, frames + 1):
            if encapsulated:
                stream.write(struct.pack("<HHI", 0xFFFE, 0xE000, FRAME))
            stream.write(frame(number))
        if encapsulated:
            stream.write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    return Large(path, syntax, study, series, instance)


class Watch:
    """The largest proportional set size of each process below some, in bytes."""

    def __init__(self, roots: dict[str, int]) -> None:
        self._roots = roots
        self._ended = threading.Event()
        self.largest: dict[str, int] = {}

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            for name, pid in self._roots.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    root = psutil.Process(pid)
                    for process in (root, *root.children(recursive=True)):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            size = process.memory_full_info().pss
                            self.largest[name] = max(size, self.largest.get(name, 0))

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Look five times a second in this block."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


class Client:
    """Asks the api over one connection."""

    def __init__(self, url: str, bearer: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WAIT_SECONDS)
        self._headers = {"Authorization": f"Bearer {bearer}"}

    def stow(self, large: Large) -> None:
        """Store it in one request, read from its file."""
        head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{BOUNDARY}--\r\n".encode()

        def body() -> Iterator[bytes]:
            yield head
            with large.path.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    yield chunk
            yield tail

        length = len(head) + large.path.stat().st_size + len(tail)
        self._connection.request(
            "POST", "/dicom-web/studies", body(),
            self._headers | {
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}',
                "Accept": "application/dicom+json", "Content-Length": str(length),
            },
        )  # fmt: skip
        self._read(200)

    def frame(self, large: Large, number: int) -> bytes:
        """One frame as it is stored."""
        kind = "application/octet-stream" if large.syntax == EXPLICIT else "image/jpeg"
        accept = f'multipart/related; type="{kind}"; transfer-syntax={large.syntax}'
        self._connection.request(
            "GET", f"/dicom-web{large.frames}/{number}", headers=self._headers | {"Accept": accept}
        )
        body = self._read(200)
        start = body.index(b"\r\n\r\n") + 4
        return body[start : start + FRAME]

    def whole(self, large: Large) -> tuple[int, str]:
        """Bytes and SHA-256 of the answer to a retrieval of the instance as stored, without the part's borders."""
        path = large.frames.removesuffix("/frames")
        self._connection.request(
            "GET", f"/dicom-web{path}",
            headers=self._headers | {"Accept": "application/dicom; transfer-syntax=*"},
        )  # fmt: skip
        response = self._connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"answered {response.status}: {response.read(500)!r}")
        digest, size = hashlib.sha256(), 0
        while chunk := response.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
        return size, digest.hexdigest()

    def _read(self, status: int) -> bytes:
        response = self._connection.getresponse()
        body = response.read()
        if response.status != status:
            raise SystemExit(f"answered {response.status}: {body[:500]!r}")
        return body


def digest_of(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file."""
    with path.open("rb") as stream:
        return path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=4095, help="of 512 kB")
    parser.add_argument(
        "--home", type=Path, help="folder on the disk to use; three times the object's size must be free"
    )
    options = parser.parse_args()
    with (
        site.folder(options.home) as home,
        site.database(home) as postgres,
        site.receiver(home, postgres.dsn) as (receiver, port),
        site.api(home, postgres.dsn) as (api, url),
        site.dispatcher(home, postgres.dsn) as dispatcher,
    ):
        client = Client(url, token(postgres.dsn))
        for number, encapsulated in enumerate((False, True), 1):
            large = write(home / "large.dcm", options.frames, encapsulated=encapsulated)
            size = large.path.stat().st_size
            print(
                f"{'encapsulated' if encapsulated else 'native'}: {size} bytes in {options.frames} frames", flush=True
            )
            watch = Watch({"receiver": receiver, "api": api, "dispatcher": dispatcher, "postgresql": postgres.pid})
            with watch.looking():
                began = time.monotonic()
                if encapsulated:
                    client.stow(large)
                else:
                    subprocess.run(
                        ["storescu", "-xe", "-R", "-aec", "INSITU", "127.0.0.1", str(port), str(large.path)],
                        check=True, env={"PATH": os.environ["PATH"], "TCP_NODELAY": "1"},
                    )  # fmt: skip
                print(f"  {'STOW-RS' if encapsulated else 'C-STORE'}: {time.monotonic() - began:.1f} s", flush=True)
                wait_for_metadata(postgres.dsn, number)
                began = time.monotonic()
                client.frame(large, options.frames)
                print(f"  the last frame, asked for first: {time.monotonic() - began:.3f} s", flush=True)
                began = time.monotonic()
                for each in range(1, options.frames + 1):
                    if client.frame(large, each) != frame(each):
                        raise SystemExit(f"frame {each} is another one")
                print(
                    f"  every frame by itself: {(time.monotonic() - began) / options.frames * 1000:.1f} ms each",
                    flush=True,
                )
                began = time.monotonic()
                found = client.whole(large)
                seconds = time.monotonic() - began
            sent = digest_of(large.path)
            if encapsulated and found != sent:
                raise SystemExit("the whole object is another one")
            print(f"  the whole object: {found[0]} bytes in {seconds:.1f} s")
            print(
                "  largest process (PSS, MiB): "
                + ", ".join(f"{name} {largest / 2**20:.0f}" for name, largest in sorted(watch.largest.items())),
                flush=True,
            )


if __name__ == "__main__":
    main()
