"""A real api server on an ephemeral port, with real accounts, tokens, a series, a run and rules in project `alpha`."""

from __future__ import annotations

import io
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
import yaml
from fastapi import FastAPI
from psycopg.types.json import Jsonb
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from typer.testing import CliRunner

from insitu.archive import completeness, index, metadata
from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.cli import app
from insitu.database import Database
from insitu.errors import InsituError
from insitu.identity import accounts, tokens
from insitu.projects import projects
from insitu.projects.permissions import Role
from insitu.runs import executions, preparation
from insitu.runs.identity import RunInput
from insitu.settings import Settings
from insitu_services.api.__main__ import listen, server
from insitu_services.api.app import create_app, create_gateway
from insitu_services.api.context import Context

PATIENCE = 60  # seconds a loaded machine may take
PASSWORD = "correct horse battery"
MANIFEST = Path(__file__).parents[3] / "extensions" / "ct-tissue" / "algorithm.yaml"
DIGEST = "sha256:" + "a" * 64


@dataclass
class House:
    """The server and what is in it."""

    context: Context
    url: str = ""
    uids: dict[str, str] = field(default_factory=dict)
    executions: dict[str, str] = field(default_factory=dict)  # by project

    def account(self, name: str, *, password: str | None = None, site_admin: bool = False, **roles: str) -> str:
        """Make an account with roles by project; its API token. Without a password nobody can log in with one."""
        with self.context.database.transaction() as connection:
            if password is None:
                connection.execute(
                    "INSERT INTO account (name, password_hash, site_admin) VALUES (%s, 'none', %s)", (name, site_admin)
                )
            else:
                accounts.create(connection, name, password, site_admin=site_admin)
            for project, role in roles.items():
                projects.set_member(connection, project, name, Role(role))
            return tokens.create(connection, name, "test")

    def client(self, token: str | None = None, **headers: str) -> httpx.Client:
        """A client that sends the token, follows no redirect and keeps cookies."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE, trust_env=False)

    def browser(self) -> httpx.Client:
        """A client that says it is one of our own pages."""
        return self.client(origin=self.url)


def image(**attributes: str) -> pydicom.Dataset:
    """A small CT image with an unmistakable patient."""
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientName, made.PatientID = "Geheim^Anna", "SECRET-4711"
    made.StudyDate, made.StudyTime, made.Modality, made.InstanceNumber = "20240131", "103000", "CT", 1
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 32, 32, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.PixelData = np.arange(1024, dtype="<i2").tobytes()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def encoded(dataset: pydicom.Dataset) -> bytes:
    """The data set as a DICOM file."""
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


@pytest.fixture
def new_file() -> Callable[..., bytes]:
    """Builder of DICOM files; keyword arguments set attributes."""
    return lambda **attributes: encoded(image(**attributes))


@contextmanager
def served(context: Context, application: Callable[[Context], FastAPI] = create_app) -> Iterator[str]:
    """Serve an application on a port of its own; its URL."""
    listener = listen("127.0.0.1:0")
    serving = server(context, application)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not serving.started and thread.is_alive():
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        serving.should_exit = True
        thread.join(PATIENCE)
        listener.close()


@pytest.fixture
def house(database: Database, tmp_path: Path) -> Iterator[House]:
    """A server with the projects inbox, alpha and beta, and nothing else."""
    settings = Settings(home=tmp_path, http="127.0.0.1:0", quiet_time=0)
    settings.secrets.mkdir(mode=0o700)
    for name in ("engine-token", "step-key"):
        (settings.secrets / name).write_text(secrets.token_hex(32))
    archive = Archive(database, FileBlobStore(settings.blobs), settings)
    house = House(Context(settings=settings, database=database, archive=archive))
    with database.transaction() as connection:
        for name in ("inbox", "alpha", "beta"):
            projects.create(connection, name)
    with served(house.context) as house.url:
        yield house
    archive.close()


@pytest.fixture
def insitu(house: House, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a command as site admin; gives its JSON, or its text without --json."""
    monkeypatch.setenv("INSITU_HOME", str(house.context.settings.home))
    monkeypatch.setenv("INSITU_URL", house.url)
    monkeypatch.setenv("INSITU_TOKEN", house.account("admin", site_admin=True))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, typed: str | None = None, status: int = 0) -> Any:
        result = CliRunner().invoke(app, arguments, input=typed)
        if isinstance(result.exception, InsituError):
            raise result.exception
        assert result.exit_code == status, result.output
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    return run


@pytest.fixture
def furnished(house: House) -> House:
    """The house with a complete series and a run with log and result in alpha, and a run in beta."""
    context, dataset = house.context, image()
    receipt = context.archive.open_receipt(channel="import", project="alpha")
    incoming = context.archive.begin(receipt)
    incoming.write(encoded(dataset))
    stored = incoming.commit()
    assert stored.success, stored.reason
    context.archive.close_receipt(receipt)
    with context.archive.begin(receipt) as incoming:
        incoming.write(b"This is a text and no DICOM object. " * 10)
        assert not incoming.commit().success
    house.uids = {
        "study": dataset.StudyInstanceUID,
        "series": dataset.SeriesInstanceUID,
        "instance": dataset.SOPInstanceUID,
    }
    with context.database.transaction() as connection:
        completeness.absorb(connection, context.settings)
        completeness.complete(connection, dataset.SeriesInstanceUID)
        (series,) = completeness.complete_due(connection, context.settings)
        metadata.project_series(connection, context.archive.blobs, series.series_id)
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES (%s, 'tissue', '1.0.0', %s, %s, 'test')",
            (DIGEST, Jsonb(yaml.safe_load(MANIFEST.read_text())), str(MANIFEST.parent)),
        )
        content = index.content_digest(connection, series.series_id).hex()
        for project in ("alpha", "beta"):
            requested = executions.request(
                connection, project=project, algorithm_digest=DIGEST, publish_version="1", parameters={},
                requested_by="test",
                inputs=[RunInput(
                    name="ct", series_instance_uid=dataset.SeriesInstanceUID, revision=series.revision,
                    content_digest=content,
                )] if project == "alpha" else [],
            )  # fmt: skip
            house.executions[project] = requested.execution
            row = executions.get(connection, requested.execution, lock=True)
            preparation.specification(connection, context.settings, row)
        executions.save_log(connection, house.executions["alpha"], "algorithm", "log of Geheim^Anna")
    return house


@pytest.fixture
def gateway_url(house: House) -> Iterator[str]:
    """URL of the run gateway as a process of its own, over the same database and archive."""
    with served(house.context, create_gateway) as url:
        yield url
