"""Reading beside Orthanc over DICOMweb: WADO-RS of a CT series of 150 slices, its metadata, and STOW-RS of as many in one request.

Run with `python -m tests.bench.bench_read [--slices N] [--rounds N] [--home DIR]`; both servers in turns, ratios printed.
Not here: searches (bench_search), C-STORE (bench_peers).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import time
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from insitu.archive.examine import file_meta
from insitu.database import Database
from insitu.identity import accounts, tokens
from tests.peers.orthanc import orthanc

from . import site
from .bench_store import CT, EXPLICIT, data_set

WAIT_SECONDS = 120.0
BOUNDARY = "insitu-bench"
RETRIEVE = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass
class Peer:
    """A DICOMweb server under measurement."""

    name: str
    url: str  # of its DICOMweb service
    headers: dict[str, str]
    cpu: Callable[[], float]
    found: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> tuple[float, float]:
        """Seconds to the first byte of the body, and to its end."""
        parts = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)
        connection.connect()
        began = time.perf_counter()
        connection.request(method, parts.path + path, body, self.headers | headers)
        response = connection.getresponse()
        response.read(1)
        first = time.perf_counter() - began
        taken = bytearray(1 << 20)  # one for all: what a client does with the bytes is not measured here
        while response.readinto(taken):
            pass
        seconds = time.perf_counter() - began
        connection.close()
        if response.status != 200:
            raise SystemExit(f"{self.name}: {method} answered {response.status}")
        return first, seconds

    def measure(self, what: str, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> None:
        """Ask, and keep first byte, end and CPU seconds of the server."""
        before = self.cpu()
        first, seconds = self.ask(method, path, headers, body)
        self.found.setdefault(what, []).append((first, seconds, self.cpu() - before))


def request_of(study: str, series: str, slices: int) -> bytes:
    """A STOW-RS body with the slices of a new series."""
    parts = []
    placeholder = "1." + "2" * 40
    template = data_set(placeholder, series, study, 1)
    for _ in range(slices):
        sop = f"1.{uuid.uuid4().int:039d}9"[:42]
        content = file_meta(EXPLICIT, CT, sop, None) + template.replace(placeholder.encode(), sop.encode(), 1)
        parts.append(f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def store(peer: Peer, slices: int) -> tuple[str, str]:
    """Store a new series; its study's and its own UID."""
    study, series = f"2.25.{uuid.uuid4().int}", f"2.25.{uuid.uuid4().int}"
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}',
        "Accept": "application/dicom+json",
    }
    peer.measure("STOW", "POST", "/studies", headers, request_of(study, series, slices))
    return study, series


def wait_for_metadata(dsn: str, instances: int) -> None:
    """Return when the dispatcher has read every object."""
    deadline = time.monotonic() + WAIT_SECONDS
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute("SELECT count(*) FROM instance_metadata").fetchone()
            if row and row[0] >= instances:
                return
            time.sleep(0.2)
    raise SystemExit("the dispatcher did not read the objects")


def token(dsn: str) -> str:
    """A token of a site admin."""
    database = Database(dsn)
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('inbox') ON CONFLICT DO NOTHING")
        accounts.create(connection, "bench", uuid.uuid4().hex, site_admin=True)
        made = tokens.create(connection, "bench", "bench")
    database.close()
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--home", type=Path, help="folder on the disk to measure")
    options = parser.parse_args()
    with (
        site.folder(options.home) as home,
        site.database(home) as postgres,
        site.api(home, postgres.dsn) as (api, url),
        site.dispatcher(home, postgres.dsn),
        orthanc(home / "orthanc") as other,
    ):
        peers = [
            Peer(
                "insitu", f"{url}/dicom-web", {"Authorization": f"Bearer {token(postgres.dsn)}"},
                lambda: site.cpu_seconds(api) + site.cpu_seconds(postgres.pid),
            ),
            Peer("orthanc", other.dicomweb, {}, lambda: site.cpu_seconds(other.pid)),
        ]  # fmt: skip
        for number in range(options.rounds + 1):
            for peer in peers:
                os.sync()
                study, series = store(peer, options.slices)
                if peer.name == "insitu":
                    wait_for_metadata(postgres.dsn, options.slices * (number + 1))
                path = f"/studies/{study}/series/{series}"
                peer.measure("WADO", "GET", path, {"Accept": RETRIEVE})
                peer.measure("metadata", "GET", f"{path}/metadata", {"Accept": "application/dicom+json"})
        print(f"{options.slices} CT slices of 512x512x16, {os.cpu_count()} cores, medians of {options.rounds} rounds")
        medians: dict[tuple[str, str], list[float]] = {}
        for peer in peers:
            for what, found in peer.found.items():
                values = [statistics.median(column) for column in zip(*found[1:], strict=True)]  # the first warms up
                medians[peer.name, what] = values
                print(
                    f"{peer.name:8} {what:9} first byte {values[0] * 1000:6.0f} ms, all {values[1] * 1000:6.0f} ms,"
                    f" CPU {values[2] * 1000:6.0f} ms"
                )
        for what in ("STOW", "WADO", "metadata"):
            ratio = medians["insitu", what][1] / medians["orthanc", what][1]
            print(
                f"{what}: {ratio:.2f} times Orthanc's time"
                + (f", {1 / ratio:.2f} times its rate" if what == "STOW" else "")
            )
        print(json.dumps({f"{name} {what}": values for (name, what), values in medians.items()}))


if __name__ == "__main__":
    main()
