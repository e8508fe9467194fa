"""The dispatcher's turns on a real database: one bad series holds nobody up, and why it failed can be asked."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.dicom.wrap import wrap_volume
from insitu.routing import apply as routing
from insitu.runs.launch.process import ProcessLauncher
from insitu.settings import Settings, load
from insitu_services.dispatcher.loop import LOOK_BY_ITSELF, SIGN, Dispatcher


class ScriptedEngine:
    """Takes every run, knows none."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, execution: str) -> bool:
        self.started.append(execution)
        return True

    def state(self, execution: str) -> str | None:
        return None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Series are complete at once."""
    return load(tmp_path, quiet_time=0)


@pytest.fixture
def archive(database: Database, settings: Settings) -> Iterator[Archive]:
    """An empty archive."""
    archive = Archive(database, FileBlobStore(settings.blobs), settings)
    yield archive
    archive.close()


def stored(archive: Archive, folder: Path) -> str:
    """Store a series in a closed receipt; its UID."""
    files = wrap_volume(
        np.zeros((8, 8, 2)), np.diag([-1.0, -1, 1, 1]), "CT", folder, patient_id="P", patient_name="P",
        study_description="S", series_description="S", salt=uuid.uuid4().hex,
    )  # fmt: skip
    receipt = archive.open_receipt(channel="dimse", calling_ae="CT1", called_ae="INSITU", peer="127.0.0.1")
    for file in files:
        incoming = archive.begin(receipt)
        incoming.write(file.read_bytes())
        assert incoming.commit().success
    archive.close_receipt(receipt)
    return str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


def decision_of(database: Database, series: str) -> dict[str, object] | None:
    """The kept decision's body."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT d.body FROM routing_decision d JOIN series s ON s.id = d.series WHERE s.series_instance_uid = %s",
            (series,),
        ).fetchone()
    return None if row is None else dict(row["body"])


def test_a_series_that_cannot_be_routed_says_why_and_holds_nobody_up(
    archive: Archive, database: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = stored(archive, tmp_path / "bad"), stored(archive, tmp_path / "good")
    real = routing.apply

    def fails_for_bad(connection, settings, series):  # type: ignore[no-untyped-def]
        if series.series_instance_uid == bad:
            connection.execute("SELECT 1 / 0")
        return real(connection, settings, series)

    monkeypatch.setattr(routing, "apply", fails_for_bad)
    dispatcher = Dispatcher(settings, database, archive.blobs, ScriptedEngine(), ProcessLauncher(settings.jobs))  # type: ignore[arg-type]
    for _ in range(20):
        dispatcher.turn()
        if decision_of(database, bad) and decision_of(database, good):
            break
    failed, routed = decision_of(database, bad), decision_of(database, good)
    assert failed is not None
    assert "dispatcher's log" in str(failed["failed"])
    assert routed is not None
    assert routed["failed"] is None


def test_metadata_is_made_for_a_complete_series(
    archive: Archive, database: Database, settings: Settings, tmp_path: Path
) -> None:
    series = stored(archive, tmp_path / "series")
    dispatcher = Dispatcher(settings, database, archive.blobs, ScriptedEngine(), ProcessLauncher(settings.jobs))  # type: ignore[arg-type]
    for _ in range(20):
        dispatcher.turn()
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT s.state, count(m.instance) AS made FROM series s JOIN instance i ON i.series = s.id"
            " LEFT JOIN instance_metadata m ON m.instance = i.id WHERE s.series_instance_uid = %s GROUP BY s.state",
            (series,),
        ).fetchone()
    assert row == {"state": "complete", "made": 2}


def admitted(database: Database) -> None:
    """An execution that an earlier dispatcher admitted and may not have handed over."""
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('trial')")
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES ('sha256:0', 'a', '1', '{}', '/nowhere', 'test')"
        )
        connection.execute(
            "INSERT INTO run (identity, project, algorithm, publish_version, inputs, parameters)"
            " VALUES ('abc', 'trial', 'sha256:0', '1', '[]', '{}')"
        )
        connection.execute(
            "INSERT INTO execution (id, run, number, state, requested_by, admitted_at)"
            " VALUES ('abc-1', 'abc', 1, 'submitted', 'test', now())"
        )


def test_a_dispatcher_that_starts_hands_over_what_an_earlier_one_admitted(
    database: Database, archive: Archive, settings: Settings
) -> None:
    admitted(database)
    engine = ScriptedEngine()
    dispatcher = Dispatcher(settings, database, archive.blobs, engine, ProcessLauncher(settings.jobs))  # type: ignore[arg-type]
    dispatcher.adopt()
    dispatcher.turn()
    dispatcher.hand_over()
    assert engine.started == ["abc-1"]


class HangingEngine(ScriptedEngine):
    """Takes nothing and does not answer, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let_go = threading.Event(), threading.Event()

    def start(self, execution: str) -> bool:
        self.asked.set()
        self.let_go.wait(120)
        return super().start(execution)


def test_an_engine_that_does_not_answer_holds_up_no_series(
    database: Database, archive: Archive, settings: Settings, tmp_path: Path
) -> None:
    admitted(database)
    engine = HangingEngine()
    dispatcher = Dispatcher(settings, database, archive.blobs, engine, ProcessLauncher(settings.jobs))  # type: ignore[arg-type]
    running = threading.Thread(target=dispatcher.run)
    running.start()
    try:
        assert engine.asked.wait(120)
        series = stored(archive, tmp_path / "series")
        deadline = time.monotonic() + 120
        while decision_of(database, series) is None:
            assert time.monotonic() < deadline, "the series waits for the engine"
            time.sleep(0.05)
        engine.let_go.set()
        while engine.started != ["abc-1"]:
            assert time.monotonic() < deadline, "the run was not handed over"
            time.sleep(0.05)
    finally:
        engine.let_go.set()
        dispatcher.stop()
        running.join(120)


def test_a_loop_that_hangs_leaves_no_sign_any_more(database: Database, archive: Archive, settings: Settings) -> None:
    """By its sign the one who started it, a kubelet for example, finds out."""
    hangs, let_go = threading.Event(), threading.Event()
    turns = 0

    class Hanging(Dispatcher):
        def turn(self) -> float:
            nonlocal turns
            turns += 1
            if turns == 3:
                hangs.set()
                let_go.wait(120)
            return super().turn()

    dispatcher = Hanging(settings, database, archive.blobs, ScriptedEngine(), ProcessLauncher(settings.jobs))  # type: ignore[arg-type]
    running = threading.Thread(target=dispatcher.run)
    running.start()
    try:
        assert hangs.wait(120)
        sign = settings.home / SIGN
        last = sign.stat().st_mtime_ns
        time.sleep(2 * LOOK_BY_ITSELF)
        assert sign.stat().st_mtime_ns == last
        let_go.set()
        deadline = time.monotonic() + 120
        while sign.stat().st_mtime_ns == last:
            assert time.monotonic() < deadline, "no sign after it went on"
            time.sleep(0.05)
    finally:
        let_go.set()
        dispatcher.stop()
        running.join(120)
