"""Two receivers and two dispatchers on one archive: a study that comes over four associations to both arrives whole and triggers once."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from psycopg.types.json import Jsonb
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from insitu.database import Database
from insitu.dicom.wrap import wrap_volume
from insitu.health import dispatcher_state, receiver_state
from insitu.life import signs
from insitu.routing import model, store

PATIENCE = 120.0  # seconds a loaded machine may take
MANIFEST = Path(__file__).parents[3] / "extensions" / "ct-tissue" / "algorithm.yaml"


def until(what: str, done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


class Replicas:
    """Processes of one installation, each as a pod would have it."""

    def __init__(self, home: Path, dsn: str) -> None:
        self.home = home
        (home / "secrets").mkdir()
        (home / "secrets" / "airflow-password").write_text("nobody asks")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("INSITU_")} | {
            "INSITU_DATABASE_DSN": dsn, "INSITU_HOME": str(home), "INSITU_QUIET_TIME": "2",
            "INSITU_AIRFLOW_URL": "http://127.0.0.1:1",
        }  # fmt: skip
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start one."""
        environment = self.environment | {f"INSITU_{key.upper()}": value for key, value in settings.items()}
        with (self.home / f"{name}-{len(self.running)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"insitu_services.{name}"], env=environment, stdout=log, stderr=log
            )
        self.running.append(process)
        return process

    def receiver(self) -> int:
        """Start a receiver; its port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        self.start("receiver", dicom=f"127.0.0.1:{port}", receiver_processes="1")
        return port


@pytest.fixture
def replicas(tmp_path: Path, database_dsn: str) -> Iterator[Replicas]:
    """None yet; those that were started are ended."""
    made = Replicas(tmp_path, database_dsn)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in made.running:
        process.wait(timeout=60)


def send(port: int, files: list[Path]) -> int:
    """Send files over one association; how many were taken."""
    entity = AE(ae_title="CT1")
    entity.add_requested_context(CTImageStorage)
    deadline = time.monotonic() + PATIENCE
    while not (association := entity.associate("127.0.0.1", port)).is_established:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    taken = sum(association.send_c_store(dcmread(file)).Status == 0 for file in files)
    association.release()
    return taken


def test_study_over_four_associations_to_two_receivers_triggers_one_run(
    replicas: Replicas, database: Database, tmp_path: Path
) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('inbox')")
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES (%s, 'ct-tissue', '1.0.0', %s, '/nowhere', 'test')",
            ("sha256:" + "a" * 64, Jsonb(yaml.safe_load(MANIFEST.read_text()))),
        )
        then = {"project": "inbox", "algorithms": [{"name": "ct-tissue"}]}
        rules = model.RuleSet.model_validate({"version": 1, "rules": [{"name": "every", "then": then}]})
        store.save(connection, rules, "test")
    (tmp_path / "files").mkdir()
    files = wrap_volume(
        np.zeros((8, 8, 40)), np.diag([-1.0, -1, 1, 1]), "CT", tmp_path / "files", patient_id="P", patient_name="P",
        study_description="S", series_description="S", salt=uuid.uuid4().hex,
    )  # fmt: skip
    ports = [replicas.receiver(), replicas.receiver()]
    dispatchers = [replicas.start("dispatcher"), replicas.start("dispatcher")]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(send, ports[n % 2], files[n::4]) for n in range(4)]
        assert sum(each.result() for each in taken) == len(files)

    def executions() -> int:
        with database.transaction() as connection:
            row = connection.execute("SELECT count(*) AS n FROM execution").fetchone()
        assert row is not None
        return int(row["n"])

    until("the run is asked for", executions)
    time.sleep(6)  # a second revision, or a second dispatcher's run, would come by now
    with database.transaction() as connection:
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM instance) AS instances, (SELECT max(revision) FROM series) AS revision,"
            " (SELECT count(*) FROM execution) AS executions,"
            " (SELECT count(*) FROM audit_event) - (SELECT count(*) FROM audit_seal) AS unsealed"
        ).fetchone()
        links = connection.execute("SELECT sequence FROM audit_seal ORDER BY sequence").fetchall()
        alive = signs(connection)
    assert counts == {"instances": len(files), "revision": 1, "executions": 1, "unsealed": 0}
    assert [row["sequence"] for row in links] == list(range(1, len(links) + 1))
    assert sorted(life.process for life in alive) == ["dispatcher", "dispatcher", "receiver", "receiver"]
    # One of each goes, as in a rolling update: nobody is missed.
    for process in (replicas.running[0], dispatchers[0]):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    with database.transaction() as connection:
        alive = signs(connection)
    assert sorted(life.process for life in alive) == ["dispatcher", "receiver"]
    assert receiver_state(alive).state == "ok"
    assert dispatcher_state(0, alive).state == "ok"
