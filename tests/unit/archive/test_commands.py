"""The archive's commands, run as a user runs them, against a real api and a real database."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive, Receipt, Stored
from insitu.database import Database
from insitu.identity import tokens
from insitu.settings import Settings
from insitu_services.api.__main__ import listen, server
from insitu_services.api.context import Context

from .index_dump import complete

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]
Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(settings: Settings, database_dsn: str) -> Run:
    """Runs `insitu ... --json`; exit status and what it printed."""

    def command(*arguments: str, **environment: str) -> tuple[int, Any]:
        done = subprocess.run(
            [sys.executable, "-c", "from insitu.cli import main; main()", *arguments, "--json"],
            capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "INSITU_HOME": str(settings.home), "INSITU_DATABASE_DSN": database_dsn, **environment},
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, json.loads(done.stdout or done.stderr)

    return command


@pytest.fixture
def api(database: Database, archive: Archive, settings: Settings) -> Iterator[dict[str, str]]:
    """A running api; the environment in which the command line finds it."""
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('inbox'), ('heads') ON CONFLICT DO NOTHING")
        connection.execute("INSERT INTO account (name, password_hash, site_admin) VALUES ('anna', 'none', true)")
        token = tokens.create(connection, "anna", "test")
    listener = listen("127.0.0.1:0")
    serving = server(Context(settings=settings, database=database, archive=archive))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not serving.started and thread.is_alive():
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    yield {"INSITU_URL": f"http://127.0.0.1:{listener.getsockname()[1]}", "INSITU_TOKEN": token}
    serving.should_exit = True
    thread.join(timeout=60)
    listener.close()


def test_import_takes_files_folders_and_zips_and_names_what_it_does_not(
    run: Run, api: dict[str, str], database: Database, tmp_path: Path, make: Make, encode: Encode
) -> None:
    folder = tmp_path / "disc"
    (folder / "series").mkdir(parents=True)
    objects = [encode(make(InstanceNumber=number)) for number in range(4)]
    (folder / "series" / "1").write_bytes(objects[0])
    (folder / "series" / "broken").write_bytes(objects[1][:-20])
    (folder / "readme.txt").write_text("To whom it may concern\n" * 20)
    (folder / "DICOMDIR").write_bytes(objects[1][:200])
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as packed:
        packed.writestr("a/2", objects[2])
        packed.writestr("a/notes", b"nothing")
    (tmp_path / "single.dcm").write_bytes(objects[3])
    status, report = run(
        "import", str(folder), str(tmp_path / "images.zip"), str(tmp_path / "single.dcm"), "--project", "heads", **api
    )
    assert status == 1
    assert (report["stored"], report["skipped"]) == (3, 3)
    (failure,) = report["failed"]
    assert failure["name"].endswith("series/broken")
    assert "truncated" in failure["reason"]
    with database.transaction() as connection:
        linked = connection.execute("SELECT DISTINCT project FROM series_project").fetchall()
        assert linked == [{"project": "heads"}]
        count = connection.execute("SELECT count(*) AS n FROM instance").fetchone()
        assert count == {"n": 3}
    status, report = run("import", str(tmp_path / "single.dcm"), **api)
    assert (status, report["stored"]) == (0, 1)


def test_import_names_the_file_that_the_archive_does_not_take(
    run: Run, api: dict[str, str], tmp_path: Path, make: Make, encode: Encode
) -> None:
    made = make()
    (tmp_path / "first.dcm").write_bytes(encode(made))
    other = make(SeriesInstanceUID=made.SeriesInstanceUID)
    (tmp_path / "second.dcm").write_bytes(encode(other))
    status, report = run("import", str(tmp_path / "first.dcm"), str(tmp_path / "second.dcm"), **api)
    assert (status, report["stored"]) == (1, 1)
    assert report["failed"][0]["name"] == str(tmp_path / "second.dcm")


def test_import_without_a_platform_says_how_to_start_one(run: Run, tmp_path: Path, make: Make, encode: Encode) -> None:
    (tmp_path / "first.dcm").write_bytes(encode(make()))
    with socket.socket() as taken:  # bound, so that nobody else listens there either
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        status, problem = run("import", str(tmp_path / "first.dcm"), INSITU_URL=url, INSITU_TOKEN="none")
    assert status == 1
    assert "insitu up" in problem["remedy"]


def test_the_maintenance_commands_tell_what_they_found(
    run: Run, receipt: Receipt, blobs: FileBlobStore, make: Make, encode: Encode, store: Store
) -> None:
    made = make()
    store(receipt, encode(made))
    store(receipt, b"no DICOM")
    status, rows = run("quarantine", "list")
    assert status == 0
    assert "not a DICOM file" in rows[0]["reason"]
    assert rows[0]["calling_ae"] == "MODALITY"
    status, report = run("reindex")
    assert (status, report["objects"], report["added"]) == (0, 1, 0)
    status, report = run("scrub")
    assert (status, report["healthy"]) == (0, True)
    (blob,) = blobs.list("objects")
    blobs.delete(blob.key)
    status, report = run("scrub", "--keep")
    assert (status, report["missing"]) == (1, [made.SOPInstanceUID])


def test_the_archive_is_cared_for_from_the_command_line(
    run: Run, api: dict[str, str], database: Database, archive: Archive, settings: Settings, receipt: Receipt,
    make: Make, encode: Encode, store: Store,
) -> None:  # fmt: skip
    made, kept = make(), make()
    for item in (made, kept):
        store(receipt, encode(item))
    kept.StationName = "another"
    store(receipt, encode(kept))
    archive.close_receipt(receipt)
    complete(database, settings)
    status, answer = run("archive", "statistics", **api)
    assert (status, answer["archive"]["total"]["instances"]) == (0, 2)
    status, (conflict,) = run("conflict", "list", **api)
    status, answer = run("conflict", "inspect", conflict["id"], **api)
    assert (status, [item["keyword"] for item in answer["differences"]]) == (0, ["StationName"])
    assert run("conflict", "keep", conflict["id"], "--reason", "a test", **api)[0] == 0
    status, answer = run("archive", "hold", made.StudyInstanceUID, "--reason", "court order 7", **api)
    assert status == 0
    delete = ("archive", "delete", "--study", made.StudyInstanceUID, "--reason", "a test")
    status, problem = run(*delete, "--yes", **api)
    assert (status, problem["status"]) == (1, 409)
    assert [hold["reason"] for hold in run("archive", "holds", **api)[1]] == ["court order 7"]
    assert run("archive", "release", made.StudyInstanceUID, "--reason", "case closed", **api)[0] == 0
    status, problem = run(*delete, **api)
    assert (status, "--yes" in problem["remedy"]) == (1, True)
    assert run(*delete, "--dry-run", **api)[1]["instances"] == 1
    assert run(*delete, "--yes", **api)[1] == {
        "studies": 1, "series": 1, "instances": 1, "bytes": len(encode(made)), "unlinked": 0, "deleted": True,
    }  # fmt: skip
    assert [row["reason"] for row in run("archive", "deletions", **api)[1]] == ["a test"]
    assert run("archive", "damage", **api) == (0, [])
    assert run("archive", "retain", **api) == (0, {"series": []})
    (settings.home / "insitu.yaml").write_text("retention: [{name: old, project: inbox, days: 1, age: study-date}]\n")
    status, answer = run("archive", "retain", **api)
    assert (status, [item["rule"] for item in answer["series"]]) == (0, ["old"])
    status, answer = run("archive", "retain", "--apply", **api)
    assert (status, answer["series"], answer["stayed"]) == (0, 1, [])
    assert run("scrub", "--rate", "100")[1]["healthy"] is True
