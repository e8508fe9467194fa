"""Fixtures of all tests: a real PostgreSQL per test session, a fresh migrated database per test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from insitu import postgres
from insitu.database import Database, migrate

from .skips import SkipReport

SHARE_A_PLATFORM = ("cluster", "system")  # folders whose tests share one that takes a while to start


def pytest_configure(config: pytest.Config) -> None:
    """Report skipped tests, and refuse unexpected ones in CI."""
    config.pluginmanager.register(SkipReport(), "skip-report")


def group(file: str) -> str:
    """What must run in one process with the tests of a file: the file itself, or all of a folder whose tests share a platform."""
    folder = file.removeprefix("tests/").partition("/")[0]
    return folder if folder in SHARE_A_PLATFORM else file


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the tests, begin with those folders: they are what the others wait for at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: group(item.nodeid.partition("::")[0]) not in SHARE_A_PLATFORM)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests by group."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0])

    return ByGroup(config, log)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[tuple[Path, str]]:
    """A PostgreSQL server on a unix socket: (folder of the socket, password). Unsafe settings, tests do not need durability."""
    root = Path(tempfile.mkdtemp(prefix="insitu-pg-"))
    root.chmod(0o755)
    data, socket, password = root / "data", root / "socket", uuid.uuid4().hex
    postgres.prepare(data, socket, root, password)
    log = (root / "log").open("w")
    line = postgres.command(
        data, socket, root, fsync="off", synchronous_commit="off", full_page_writes="off", max_connections="200",
    )  # fmt: skip
    process = subprocess.Popen(line, stdout=log, stderr=log, **postgres.identity())
    try:
        postgres.wait_ready(socket, password)
        admin = f"host={socket} user=postgres password={password}"
        with psycopg.connect(f"{admin} dbname=postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE template_insitu")
        migrate(f"{admin} dbname=template_insitu")
        yield socket, password
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def database_dsn(postgres_server: tuple[Path, str]) -> Iterator[str]:
    """Connection string of a fresh, migrated database."""
    socket, password = postgres_server
    name = f"t{uuid.uuid4().hex}"
    admin = f"host={socket} user=postgres password={password}"
    with psycopg.connect(f"{admin} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_insitu")
    yield f"{admin} dbname={name}"
    with psycopg.connect(f"{admin} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(database_dsn: str) -> Iterator[Database]:
    """A pool on a fresh, migrated database."""
    pool = Database(database_dsn, minimum=1, maximum=8)
    yield pool
    pool.close()
