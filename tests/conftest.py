"""Fixtures of all tests: a real PostgreSQL per test session, a fresh migrated database per test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from insitu import postgres
from insitu.database import Database, migrate

from .skips import SkipReport

SHARE_A_PLATFORM = ("cluster", "system")  # folders whose tests share one that takes a while to start


def pytest_configure(config: pytest.Config) -> None:
    """Report skipped tests, and refuse unexpected ones in CI."""
    config.pluginmanager.register(SkipReport(), "skip-report")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, give each file to one of them, and each folder whose tests share a platform.

    Those folders come first: they are what the others wait for at the end.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    here = Path(__file__).parent
    groups = {}
    for item in items:
        parts = item.path.relative_to(here).parts
        groups[item] = parts[0] if parts[0] in SHARE_A_PLATFORM else "/".join(parts)
        item.add_marker(pytest.mark.xdist_group(groups[item]))
    items.sort(key=lambda item: groups[item] not in SHARE_A_PLATFORM)


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
