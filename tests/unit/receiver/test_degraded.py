"""The receiver while a part it needs is away: senders get an answer in time, nothing grows, it heals by itself (OPS-6)."""

from __future__ import annotations

import concurrent.futures
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from insitu.database import Database
from tests.database_server import Server
from tests.disks import small_disk
from tests.tools import needs_program

from .conftest import Receiver

OBJECT = str(get_testdata_file("CT_small.dcm"))

pytestmark = needs_program("storescu", "dcmtk")


@pytest.fixture
def server() -> Iterator[Server]:
    """One that runs."""
    root = Path(tempfile.mkdtemp(prefix="insitu-pg-"))
    server = Server(root)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.signal(signal.SIGCONT)
            server.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Iterator[Receiver]:
    """A receiver on that server, which is not patient."""
    home = tmp_path / "home"
    home.mkdir()
    database = Database(server.dsn)
    receiver = Receiver(server.dsn, home, database, database_patience="2", receiver_processes="1")
    try:
        yield receiver
    finally:
        receiver.stop()
        database.close()


def another(folder: Path) -> str:
    """A file with another object."""
    dataset = dcmread(OBJECT)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file = folder / f"{dataset.SOPInstanceUID}.dcm"
    dataset.save_as(file)
    return str(file)


def stored(site: Receiver, file: str) -> bool:
    """Whether an object is taken just now; where not, the sender must be told to try again."""
    sent = site.storescu(file)
    said = sent.stdout + sent.stderr
    if "0x0000" in said or "Success" in said:
        return True
    assert "Refused: OutOfResources" in said or "0xa700" in said.lower(), said
    return False


def memory(site: Receiver) -> int:
    """Proportional set size of the worker, in bytes."""
    return int(site.workers()[0].memory_full_info().pss)


def test_a_silent_database_makes_senders_try_again_and_nothing_grows(
    site: Receiver, server: Server, tmp_path: Path
) -> None:
    assert stored(site, another(tmp_path))
    server.signal(signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        files = [another(tmp_path) for _ in range(8)]
        assert not any(pool.map(lambda file: stored(site, file), files))
        before = memory(site)
        assert not any(pool.map(lambda file: stored(site, file), files))
        assert memory(site) - before < 20_000_000
    server.signal(signal.SIGCONT)
    site.until("objects are taken again", lambda: stored(site, files[0]), seconds=120)


def test_a_database_that_is_gone_makes_senders_try_again(site: Receiver, server: Server, tmp_path: Path) -> None:
    file = another(tmp_path)
    server.stop()
    assert not stored(site, file)
    server.start()
    site.until("objects are taken again", lambda: stored(site, file), seconds=120)


def test_a_statement_that_waits_for_a_lock_ends_in_time(site: Receiver, server: Server, tmp_path: Path) -> None:
    file = another(tmp_path)
    with psycopg.connect(server.dsn) as blocker:
        blocker.execute("LOCK TABLE instance IN ACCESS EXCLUSIVE MODE")
        assert not stored(site, file)
    assert stored(site, file)


def test_no_object_is_taken_below_the_reserve_of_the_disk(start: Callable[..., Receiver]) -> None:
    receiver = start(disk_reserve=str(1 << 60))
    assert not stored(receiver, OBJECT)
    assert receiver.count("instance") == 0
    assert "The disk is nearly full" in receiver.log.read_text()


def test_a_read_only_and_a_full_disk_make_senders_try_again(
    database_dsn: str, database: Database, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with small_disk(home / "blobs") as disk:
        receiver = Receiver(database_dsn, home, database, disk_reserve="0")
        try:
            assert stored(receiver, another(tmp_path))
            for begin, end in (
                (disk.read_only, disk.writable),
                (disk.fill, disk.free),
            ):
                file = another(tmp_path)
                before = receiver.count("instance")
                begin()
                assert not stored(receiver, file)
                assert receiver.count("instance") == before
                end()
                assert stored(receiver, file)
        finally:
            receiver.stop()
