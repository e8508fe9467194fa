"""Fixtures: the servers to check."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from insitu.database import Database
from tests.peers import orthanc
from tests.tools import need_orthanc

from .servers import Service, our_server

SUITE = Path(__file__).parent / "dicomweb"
if str(SUITE) not in sys.path:
    sys.path.insert(0, str(SUITE))  # the suite of this tree, also where another one is installed


@pytest.fixture(scope="module")
def ours(postgres_server: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Our DICOMweb server over an archive that is empty at first.

    One for all tests of a module: the suite makes UIDs of its own for each run.
    """
    socket, password = postgres_server
    name, admin = f"t{uuid.uuid4().hex}", f"host={socket} user=postgres password={password}"
    with psycopg.connect(f"{admin} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_insitu")
    database = Database(f"{admin} dbname={name}", minimum=1, maximum=8)
    with our_server(database, tmp_path_factory.mktemp("ours")) as service:
        yield service
    database.close()


@pytest.fixture
def orthanc_service(tmp_path: Path) -> Iterator[Service]:
    """Orthanc with its DICOMweb plugin over an empty database; skipped where it is not installed."""
    need_orthanc()
    with orthanc.orthanc(tmp_path / "orthanc") as running:
        yield Service(running.dicomweb)
