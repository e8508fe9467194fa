"""A real Airflow with the configuration of a cluster: its database over TCP, each process with its own folder and its own secrets."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from insitu.errors import InsituError
from insitu.runs import engine_environment
from insitu.runs.engine import Engine
from insitu_services.airflow_configuration import USER
from insitu_services.prepare import databases
from tests.system.running import free_ports
from tests.tcp_database import ServerProcess

SECONDS = 600.0
ROOT = Path(__file__).parents[2]
# What charts/insitu gives to whom.
SECRETS = {
    "migration": ("database-airflow", "airflow-fernet"),
    "api-server": ("database-airflow", "airflow-password", "airflow-jwt", "airflow-api-key", "airflow-fernet"),
    "scheduler": ("database-airflow", "airflow-jwt", "airflow-fernet"),
    "dag-processor": ("database-airflow", "airflow-jwt", "airflow-fernet"),
}
GIVEN = {
    "database-airflow": "it's 100% @home/x",
    "airflow-password": "a password",
    "airflow-jwt": "4a" * 32,
    "airflow-api-key": "4b" * 32,
    "airflow-fernet": "f0" * 32,
}


class Cluster:
    """Airflow's processes as the chart starts them: a container writes the configuration, another runs with it."""

    def __init__(self, folder: Path, server: ServerProcess) -> None:
        self.folder, self.server = folder, server
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.python = engine_environment.python(server.settings())
        self.running: list[subprocess.Popen[bytes]] = []

    def home(self, name: str) -> Path:
        """AIRFLOW_HOME of a process, configured."""
        folder = self.folder / name
        home = folder / "airflow"
        (folder / "secrets").mkdir(parents=True)
        home.mkdir()
        for secret in SECRETS[name]:
            (folder / "secrets" / secret).write_text(GIVEN[secret])
        environment = {
            "PATH": os.environ["PATH"], "INSITU_HOME": str(folder), "INSITU_LAUNCHER": "kubernetes",
            "INSITU_DATABASE_HOST": "127.0.0.1", "INSITU_DATABASE_PORT": str(self.server.port),
            "INSITU_DATABASE_SSLMODE": "disable", "INSITU_AIRFLOW_URL": self.url,
        }  # fmt: skip
        module = [sys.executable, "-m", "insitu_services.airflow_configuration", str(home)]
        subprocess.run(module, env=environment, check=True)
        shutil.rmtree(folder / "secrets")  # the container that runs Airflow has none
        return home

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a process of Airflow."""
        home = self.home(name)
        environment = {
            "PATH": f"{self.python.parent}:/usr/bin:/bin", "HOME": str(home), "AIRFLOW_HOME": str(home), "LANG": "C.UTF-8",
            "NO_PROXY": "*", "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'operators'}",
        }  # fmt: skip
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(self.python), "-m", "airflow", *arguments],
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.running.append(process)
        return process

    def health(self) -> dict[str, Any]:
        """What Airflow says of its parts; nothing while it does not answer."""
        try:
            parts: dict[str, Any] = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=10, trust_env=False).json()
        except (httpx.HTTPError, ValueError):
            return {}
        return parts

    def logs(self) -> str:
        """The ends of its logs."""
        return "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))


@contextmanager
def cluster(folder: Path, server: ServerProcess) -> Iterator[Cluster]:
    made = Cluster(folder, server)
    try:
        yield made
    finally:
        for process in made.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def until(condition: Callable[[], bool], found: Cluster) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        dead = [process.args for process in found.running if process.poll() not in (None, 0)]
        assert not dead, f"{dead} ended\n{found.logs()}"
        assert time.monotonic() < deadline, found.logs()
        time.sleep(0.5)


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    """A PostgreSQL server over TCP, in a folder with a short name: it has a unix socket too."""
    folder = Path(tempfile.mkdtemp(prefix="insitu-tcp-"))
    folder.chmod(0o755)  # as root, PostgreSQL's user must be able to search it
    made = ServerProcess(folder / "home")
    try:
        made.start()
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_airflow_becomes_healthy_over_tcp_and_begins_a_task(server: ServerProcess, tmp_path: Path) -> None:
    (server.home / "secrets" / "database-airflow").write_text(GIVEN["database-airflow"])
    databases.arrange(server.settings())
    with cluster(tmp_path, server) as airflow:
        assert airflow.start("migration", "db", "migrate").wait(timeout=SECONDS) == 0, airflow.logs()
        airflow.start("api-server", "api-server", "--host", "127.0.0.1", "--port", str(airflow.port), "--workers", "1")
        airflow.start("scheduler", "scheduler", "--skip-serve-logs")
        airflow.start("dag-processor", "dag-processor")
        for part in ("metadatabase", "scheduler", "dag_processor"):
            until(lambda part=part: airflow.health().get(part, {}).get("status") == "healthy", airflow)  # type: ignore[misc]
        engine = Engine(airflow.url, USER, GIVEN["airflow-password"])

        def taken() -> bool:
            try:
                return engine.start("run-1")
            except InsituError:  # the DAG is not parsed yet
                return False

        until(taken, airflow)
        engine.close()

        def begun() -> bool:
            logs = (tmp_path / "scheduler" / "airflow" / "logs").rglob("attempt=*.log")
            return any("INSITU_ENGINE_URL" in log.read_text() for log in logs)

        # It came so far by a token that the API server took; here there is no platform for it to ask.
        until(begun, airflow)
