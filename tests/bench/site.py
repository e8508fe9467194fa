"""PostgreSQL and our own processes as the product runs them, for measurements: everything durable, on loopback.

Not here: what is measured.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import psycopg

from insitu import postgres
from insitu.database import migrate
from insitu_services.database_server import server as database_server
from tests.peers.orthanc import free_port

START_SECONDS = 60.0


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and all below it that are alive."""
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def memory(pid: int) -> int:
    """Proportional set size of a process and all below it, in bytes."""
    root = psutil.Process(pid)
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


@contextmanager
def folder(parent: Path | None) -> Iterator[Path]:
    """A scratch folder on the disk to measure; PostgreSQL's user can enter it."""
    with tempfile.TemporaryDirectory(prefix="insitu-bench-", dir=parent) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@dataclass(frozen=True)
class Postgres:
    """A running PostgreSQL with our schema."""

    dsn: str
    pid: int


@contextmanager
def database(home: Path) -> Iterator[Postgres]:
    """A PostgreSQL with the settings of the product; the one that was left in `home`, where there is one."""
    data, run, secret = home / "database", home / "run", home / "password"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(uuid.uuid4().hex)
    password = secret.read_text()
    postgres.prepare(data, run, home, password)
    line = postgres.command(data, run, home, **database_server.SERVER)
    with (home / "postgres.log").open("a") as log:
        server = subprocess.Popen(line, stdout=log, stderr=log, **postgres.identity())  # type: ignore[call-overload]
    try:
        postgres.wait_ready(run, password, seconds=600)
        admin = f"host={run} user=postgres password={password}"
        with psycopg.connect(f"{admin} dbname=postgres", autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'insitu'").fetchone():
                connection.execute("CREATE DATABASE insitu")
        dsn = f"{admin} dbname=insitu"
        migrate(dsn)
        yield Postgres(dsn, server.pid)
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown: it waits for no session
        server.wait(timeout=600)


@contextmanager
def service(name: str, home: Path, dsn: str, **settings: object) -> Iterator[int]:
    """One of our processes (`receiver`, `api`, `dispatcher`); its process id. Settings as `receiver_processes=4`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INSITU_")}
    environment |= {"INSITU_DATABASE_DSN": dsn, "INSITU_HOME": str(home), "MALLOC_ARENA_MAX": "2"}
    environment |= {f"INSITU_{key.upper()}": str(value) for key, value in settings.items()}
    with (home / f"{name}.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", f"insitu_services.{name}"], env=environment, stderr=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def receiver(home: Path, dsn: str, *, processes: int = 2, **settings: object) -> Iterator[tuple[int, int]]:
    """The receiver: its process id and port, when it answers."""
    port = free_port()
    with service("receiver", home, dsn, dicom=f"127.0.0.1:{port}", receiver_processes=processes, **settings) as pid:
        _wait(lambda: socket.create_connection(("127.0.0.1", port), timeout=5).close())
        yield pid, port


@contextmanager
def api(home: Path, dsn: str, **settings: object) -> Iterator[tuple[int, str]]:
    """The api: its process id and base URL, when it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with service("api", home, dsn, http=f"127.0.0.1:{port}", **settings) as pid:
        _wait(lambda: httpx.get(f"{url}/healthz", trust_env=False).raise_for_status())
        yield pid, url


def _wait(attempt: object) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            attempt()  # type: ignore[operator]
        except (OSError, httpx.HTTPError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
            continue
        return


@contextmanager
def dispatcher(home: Path, dsn: str, **settings: object) -> Iterator[int]:
    """The dispatcher without an Airflow: it reads objects and completes series, and starts nothing; its process id."""
    secret = home / "secrets" / "airflow-password"
    secret.parent.mkdir(mode=0o700, exist_ok=True)
    secret.write_text("nobody asks")
    with service("dispatcher", home, dsn, airflow_http=f"127.0.0.1:{free_port()}", **settings) as pid:
        yield pid
