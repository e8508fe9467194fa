"""Many senders on a slow disk or a slow database: they wait, all are served, and no process grows (OPS-6)."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from insitu.database import Database
from insitu.identity import accounts, tokens
from tests.bench import site
from tests.database_server import Server
from tests.disks import SlowDisk
from tests.tools import need_program

SENDERS, CLIENTS, OBJECTS = 16, 8, 3
OBJECT_BYTES = 4 << 20
PATIENCE = 300  # seconds a loaded machine may take
# Of what is sent at the same time, which is 96 MB to the receiver and 96 MB to the api and would be far more if it were kept.
MAY_GROW = 24 << 20
STORE = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}


def objects(folder: Path, count: int) -> list[Path]:
    """Files with one large object each, of one series."""
    dataset = dcmread(str(get_testdata_file("CT_small.dcm")))
    dataset.SeriesInstanceUID = generate_uid()
    dataset.Rows = dataset.Columns = 1448
    dataset.PixelData = bytes(2 * 1448 * 1448)
    folder.mkdir()
    files = []
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        files.append(folder / f"{number}.dcm")
        dataset.save_as(files[-1])
    return files


def send(port: int, files: list[Path]) -> None:
    """With DCMTK's storescu, which must hear of success for each."""
    line = ["storescu", "-aec", "INSITU", "127.0.0.1", str(port), *map(str, files)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


def store(url: str, token: str, files: list[Path]) -> None:
    """In one STOW-RS request, read from the disk as it is sent."""

    def body() -> Iterator[bytes]:
        for file in files:
            yield b"--b\r\nContent-Type: application/dicom\r\n\r\n"
            with file.open("rb") as stream:
                while data := stream.read(65_536):
                    yield data
            yield b"\r\n"
        yield b"--b--\r\n"

    headers = {**STORE, "Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{url}/dicom-web/studies", content=body(), headers=headers, timeout=PATIENCE, trust_env=False)
    assert answer.status_code == 200, answer.text


@contextmanager
def peak(*pids: int) -> Iterator[list[int]]:
    """The most memory of each process with its children while the block goes on, in bytes."""
    most = [site.memory(pid) for pid in pids]
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.3):
            most[:] = [max(before, site.memory(pid)) for before, pid in zip(most, pids, strict=True)]

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield most
    finally:
        ended.set()
        watching.join()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Server, str]]:
    """A database and the token of its administrator."""
    with tempfile.TemporaryDirectory(prefix="insitu-pg-") as folder:
        server = Server(Path(folder))
        database = Database(server.dsn)
        with database.transaction() as connection:
            accounts.create(connection, "admin", "a password for this test", site_admin=True)
            connection.execute("INSERT INTO project (name) VALUES ('inbox') ON CONFLICT DO NOTHING")
            token = tokens.create(connection, "admin", "test")
        database.close()
        yield server, token
        server.stop()


@pytest.mark.parametrize("slow", ["disk", "database"])
def test_many_senders_wait_and_no_process_grows(
    slow: str, server: tuple[Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_program("storescu", "dcmtk")
    postgres, token = server
    disk = SlowDisk(tmp_path)
    for name, value in disk.environment.items():
        monkeypatch.setenv(name, value)
    files = objects(tmp_path / "objects", OBJECTS)
    again = [objects(tmp_path / f"objects-{number}", 2) for number in range(2)]
    with (
        site.receiver(tmp_path, postgres.dsn) as (receiver, port),
        site.api(tmp_path, postgres.dsn) as (api, url),
        psycopg.connect(postgres.dsn) as blocker,
        ThreadPoolExecutor(SENDERS + CLIENTS) as pool,
    ):
        # What all do once, so that it counts for nothing: connections, threads, what is imported late.
        warm = [pool.submit(send, port, again[0]) for _ in range(SENDERS)]
        warm += [pool.submit(store, url, token, again[1]) for _ in range(CLIENTS)]
        for each in warm:
            each.result(PATIENCE)
        before = [site.memory(receiver), site.memory(api)]
        with peak(receiver, api) as most:
            if slow == "disk":
                disk.slow(0.5)
            else:
                blocker.execute("LOCK TABLE instance IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            sent = [pool.submit(send, port, files) for _ in range(SENDERS)]
            sent += [pool.submit(store, url, token, files) for _ in range(CLIENTS)]
            time.sleep(4)
            assert not any(each.done() for each in sent)  # they wait
            blocker.rollback()
            disk.slow(0)
            for each in sent:
                each.result(PATIENCE)
            print(f"all were served after {time.monotonic() - began:.1f} s")
        grown = [after - first for after, first in zip(most, before, strict=True)]
        assert max(grown) < MAY_GROW, [f"{each / 2**20:.1f} MiB" for each in grown]
        print([f"{each / 2**20:.1f} MiB" for each in grown])
