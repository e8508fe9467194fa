"""A receiver process on a free port of loopback, with a database and a home of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from insitu.database import Database


class Receiver:
    """A running receiver."""

    def __init__(self, dsn: str, home: Path, database: Database, **settings: str) -> None:
        self.home = home
        self.database = database
        self.log = home / "receiver.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INSITU_")}
        environment |= {
            "INSITU_DATABASE_DSN": dsn,
            "INSITU_HOME": str(home),
            "INSITU_DICOM": f"127.0.0.1:{self.port}",
        }
        environment |= {f"INSITU_{name.upper()}": value for name, value in settings.items()}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "insitu_services.receiver"], env=environment, stderr=log
            )
        self.until("the receiver is ready", lambda: '"ready"' in self.log.read_text())

    def until(self, what: str, done: Callable[[], object], seconds: float = 60, poll: float = 0.05) -> None:
        """Wait for something that must happen."""
        deadline = time.monotonic() + seconds
        while not done():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"not in {seconds} s: {what}\n{self.log.read_text()}"
            time.sleep(poll)

    def workers(self) -> list[psutil.Process]:
        """The worker processes that are alive."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            try:
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program against the receiver; what it says is in English."""
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=120, check=False,
            env={**os.environ, "LANG": "C"},
        )  # fmt: skip

    def storescu(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """DCMTK's storescu, verbose."""
        return self.run("storescu", "-v", "-aec", "INSITU", *arguments[:-1], "127.0.0.1", str(self.port), arguments[-1])

    def count(self, table: str) -> int:
        """Rows of a table."""
        with self.database.transaction() as connection:
            row = connection.execute(f"SELECT count(*) AS n FROM {table}").fetchone()
        assert row is not None
        return int(row["n"])

    def connect(self) -> socket.socket:
        """A raw connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def stop(self) -> int:
        """End it as the supervisor does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture
def start(database_dsn: str, database: Database, tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    """Starts a receiver with settings; it is ended after the test."""
    started = []

    def starter(*, folder: Path = tmp_path, **settings: str) -> Receiver:
        home = folder / f"home-{len(started)}"
        home.mkdir()
        receiver = Receiver(database_dsn, home, database, **settings)
        started.append(receiver)
        return receiver

    yield starter
    for receiver in started:
        if receiver.process.poll() is None:
            receiver.stop()


@pytest.fixture(scope="module")
def module_dsn(postgres_server: tuple[Path, str]) -> Iterator[str]:
    """Connection string of a fresh database for all tests of a module."""
    folder, password = postgres_server
    name = f"t{uuid.uuid4().hex}"
    admin = f"host={folder} user=postgres password={password}"
    with psycopg.connect(f"{admin} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_insitu")
    yield f"{admin} dbname={name}"
    with psycopg.connect(f"{admin} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def module_receiver(module_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One receiver for all tests of a module."""
    database = Database(module_dsn, minimum=1, maximum=4)
    receiver = Receiver(module_dsn, tmp_path_factory.mktemp("receiver"), database)
    yield receiver
    if receiver.process.poll() is None:
        receiver.stop()
    database.close()


@pytest.fixture
def receiver(start: Callable[..., Receiver]) -> Receiver:
    """A receiver with default settings."""
    return start()
