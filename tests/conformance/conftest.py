"""Servers for the conformance suite: ours on an ephemeral port over a real archive, and Orthanc where it is installed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.identity import tokens
from insitu.settings import Settings
from insitu_services.api.__main__ import listen, server
from insitu_services.api.context import Context
from tests.peers import orthanc

HERE = Path(__file__).parent
if str(HERE / "dicomweb") not in sys.path:
    sys.path.insert(0, str(HERE / "dicomweb"))  # the suite of this tree, also where another one is installed

PATIENCE = 60  # seconds a loaded machine may take


@dataclass(frozen=True)
class Service:
    """A DICOMweb service to check: its base address and, where it wants one, a token."""

    url: str
    token: str | None = None


@pytest.fixture
def ours(database: Database, tmp_path: Path) -> Iterator[Service]:
    """Our DICOMweb server over an empty archive, and the token of a site admin."""
    settings = Settings(home=tmp_path, http="127.0.0.1:0")
    archive = Archive(database, FileBlobStore(settings.blobs), settings)
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('inbox') ON CONFLICT DO NOTHING")
        connection.execute("INSERT INTO account (name, password_hash, site_admin) VALUES ('conformance', 'none', true)")
        token = tokens.create(connection, "conformance", "test")
    listener = listen(settings.http)
    serving = server(Context(settings=settings, database=database, archive=archive))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not serving.started and thread.is_alive():
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    yield Service(f"http://127.0.0.1:{listener.getsockname()[1]}/dicom-web", token)
    serving.should_exit = True
    thread.join(PATIENCE)
    listener.close()
    archive.close()


@pytest.fixture
def orthanc_service(tmp_path: Path) -> Iterator[Service]:
    """Orthanc with its DICOMweb plugin over an empty database; skipped where it is not installed."""
    if not orthanc.installed():
        pytest.skip("needs Orthanc (Debian packages orthanc and orthanc-dicomweb) and a C compiler")
    with orthanc.orthanc(tmp_path / "orthanc") as running:
        yield Service(running.dicomweb)
