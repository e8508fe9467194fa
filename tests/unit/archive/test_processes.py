"""Real processes: one that is killed in mid-object leaves nothing, two that store the same object store it once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pydicom.dataset import Dataset

from insitu.archive import receipts
from insitu.archive.blobs import FileBlobStore
from insitu.archive.scrub import scrub
from insitu.archive.store import Receipt
from insitu.database import Database
from insitu.settings import Settings

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]

WRITER = """
import sys
from pathlib import Path
from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.settings import Settings

dsn, home, point = sys.argv[1:4]
files = [Path(name).read_bytes() for name in sys.argv[4:]]
database = Database(dsn)
settings = Settings(home=Path(home))
archive = Archive(database, FileBlobStore(settings.blobs), settings)
receipt = archive.open_receipt(channel="dimse", calling_ae="WRITER")
print("ready", flush=True)
sys.stdin.readline()
for file in files:
    incoming = archive.begin(receipt)
    incoming.write(file[: len(file) // 2])
    if point == "written":
        print("half", flush=True)
        sys.stdin.readline()
    incoming.write(file[len(file) // 2 :])
    if point == "durable":
        incoming.prepare()
        print("half", flush=True)
        sys.stdin.readline()
    print(incoming.commit().outcome.value, flush=True)
archive.close()
database.close()
"""


def start(dsn: str, home: Path, point: str, files: list[Path]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, dsn, str(home), point, *map(str, files)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_kill_in_the_middle_of_an_object_leaves_no_row_and_no_file(
    database: Database, database_dsn: str, settings: Settings, blobs: FileBlobStore, tmp_path: Path, make: Make,
    encode: Encode,
) -> None:  # fmt: skip
    file = tmp_path / "object.dcm"
    file.write_bytes(encode(make()))
    for point in ("written", "durable"):
        with start(database_dsn, settings.home, point, [file]) as process:
            go(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
            process.kill()
        with database.transaction() as connection:
            for table in ("instance", "series", "study", "series_event", "quarantine"):
                assert connection.execute(f"SELECT * FROM {table}").fetchall() == []
        report = scrub(database, blobs)
        assert report.healthy
        assert list((blobs.root / "incoming").iterdir()) == []
        if point == "written":
            assert list(blobs.list("objects")) == []
        else:  # never acknowledged, and kept for a day in case its transaction is still under way
            assert len(report.unreferenced) == 1


def test_two_processes_that_store_the_same_objects_store_each_once(
    database: Database, database_dsn: str, settings: Settings, blobs: FileBlobStore, tmp_path: Path, make: Make,
    encode: Encode,
) -> None:  # fmt: skip
    files = []
    first = make()
    for number in range(30):
        made = make(StudyInstanceUID=first.StudyInstanceUID)
        if number % 3:
            made.SeriesInstanceUID = first.SeriesInstanceUID
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(encode(made))
        files.append(path)
    processes = [start(database_dsn, settings.home, "none", files) for _ in range(2)]
    for process in processes:
        go(process)
    outcomes = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for pair in zip(*outcomes, strict=True):
        assert sorted(pair) == ["duplicate", "stored"]
    with database.transaction() as connection:
        rows = connection.execute("SELECT blob_key FROM instance").fetchall()
        events = connection.execute("SELECT count(*) AS n FROM series_event").fetchone()
    assert len(rows) == 30
    assert events == {"n": 30}
    assert {row["blob_key"] for row in rows} == {blob.key for blob in blobs.list("objects")}


def test_a_receipt_is_durable_before_the_first_object(blobs: FileBlobStore, receipt: Receipt) -> None:
    assert receipts.read(blobs, receipt.key) == receipt
