"""The servers that the conformance suite is run against here: ours, and Orthanc as the judge of the judge."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from insitu.archive import metadata
from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.identity import tokens
from insitu.settings import Settings
from insitu_services.api.__main__ import listen, server
from insitu_services.api.context import Context

PATIENCE = 60  # seconds a loaded machine may take


@dataclass(frozen=True)
class Service:
    """A DICOMweb service to check: its base address, where it wants one a token, and what finishes its index."""

    url: str
    token: str | None = None
    settle: Callable[[], None] = lambda: None

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request: the token, and the reason that we want of whoever deletes."""
        if self.token is None:
            return {}
        return {"Authorization": f"Bearer {self.token}", "X-Insitu-Reason": "object of the conformance suite"}


@contextmanager
def our_server(database: Database, folder: Path) -> Iterator[Service]:
    """Our api server on an ephemeral port over an empty archive, and the token of a site admin."""
    settings = Settings(home=folder, http="127.0.0.1:0")
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
    try:
        while not serving.started and thread.is_alive():
            if time.monotonic() > deadline:
                raise TimeoutError("the server did not start")
            time.sleep(0.02)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/dicom-web"
        yield Service(address, token, lambda: _project(database, archive))
    finally:
        serving.should_exit = True
        thread.join(PATIENCE)
        listener.close()
        archive.close()


def _project(database: Database, archive: Archive) -> None:
    """Read the whole metadata of what is stored, as the dispatcher does some seconds after a series has come."""
    with database.transaction() as connection:
        for row in connection.execute("SELECT id FROM series").fetchall():
            metadata.project_series(connection, archive.blobs, row["id"])


def package_version(package: str) -> str:
    """Version of an installed Debian package."""
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=True)
    return done.stdout
