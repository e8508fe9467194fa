"""The PostgreSQL server of a cluster as a process, reached over TCP, for all tests of this folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from insitu.settings import Settings
from tests.tcp_database import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that runs."""
    root = tmp_path_factory.mktemp("pg", numbered=True)
    made = ServerProcess(root / "home")
    try:
        made.start()
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.stop()


@pytest.fixture
def fresh(server: ServerProcess) -> Settings:
    """Settings of a platform that has nothing on the server yet."""
    return server.settings(database_name=f"t{uuid.uuid4().hex}", launcher="kubernetes")
