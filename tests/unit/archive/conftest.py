"""Fixtures of the archive's tests: an archive on a real database and real files, and builders of real DICOM objects."""

from __future__ import annotations

import io
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from insitu.archive.blobs import FileBlobStore
from insitu.archive.blobs.s3 import S3BlobStore
from insitu.archive.store import Archive, Receipt, Stored
from insitu.database import Database
from insitu.settings import Settings
from tests.object_store import ObjectStore

Build = Callable[..., bytes]


ON_BOTH = ("test_conflicts", "test_deletion", "test_quarantine", "test_rebuild", "test_scrub")  # modules


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what may depend on the kind of store on files and on an object store."""
    if metafunc.module.__name__.rpartition(".")[2] in ON_BOTH and "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", ["files", "object store"], indirect=True)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "files")


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("object-store")) as server:
        yield server


@pytest.fixture
def settings(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    if kind == "files":
        return Settings(home=tmp_path, quiet_time=0)
    server: ObjectStore = request.getfixturevalue("object_store")
    shutil.copytree(server.secrets, tmp_path / "secrets")
    settings = Settings(home=tmp_path, quiet_time=0, object_store=f"{server.server}/b-{uuid.uuid4().hex}")
    VisibleStore(server, settings).make_bucket()
    return settings


@pytest.fixture
def blobs(kind: str, settings: Settings, request: pytest.FixtureRequest) -> FileBlobStore | VisibleStore:
    if kind == "files":
        return FileBlobStore(settings.blobs)
    return VisibleStore(request.getfixturevalue("object_store"), settings)


class VisibleStore(S3BlobStore):
    """A bucket whose objects are seen, and harmed, as the files that its server keeps."""

    def __init__(self, server: ObjectStore, settings: Settings) -> None:
        assert settings.object_store is not None
        super().__init__(settings.object_store, settings.spool, secrets=settings.secrets)
        self.root = server.root / settings.object_store.rpartition("/")[2]

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.root / key


@pytest.fixture
def archive(database: Database, blobs: FileBlobStore, settings: Settings) -> Iterator[Archive]:
    archive = Archive(database, blobs, settings)
    yield archive
    archive.close()


@pytest.fixture
def receipt(archive: Archive) -> Receipt:
    return archive.open_receipt(channel="dimse", calling_ae="MODALITY", called_ae="INSITU", peer="127.0.0.1")


@pytest.fixture
def empty_database(postgres_server: tuple[Path, str]) -> Iterator[Database]:
    """A second fresh database, as after the loss of the first."""
    socket, password = postgres_server
    admin = f"host={socket} user=postgres password={password}"
    name = f"t{generate_uid()[-20:].replace('.', '_')}"
    with psycopg.connect(f"{admin} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_insitu")
    pool = Database(f"{admin} dbname={name}")
    yield pool
    pool.close()
    with psycopg.connect(f"{admin} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def dataset(**values: Any) -> Dataset:
    """A small CT image; `values` replace attributes, None removes one."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    made.SOPInstanceUID = generate_uid()
    made.StudyDate = "20240131"
    made.Modality = "CT"
    made.SeriesDescription = "Kopf nativ"
    made.PatientName = "Müller^Jörg"
    made.PatientID = "4711"
    made.StudyInstanceUID = generate_uid()
    made.SeriesInstanceUID = generate_uid()
    made.SeriesNumber = 3
    made.InstanceNumber = 7
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows = 16
    made.Columns = 8
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit = 15
    made.PixelRepresentation = 0
    made.PixelData = bytes(range(256))
    for keyword, value in values.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


@pytest.fixture
def make() -> Callable[..., Dataset]:
    """Builder of small CT images."""
    return dataset


@pytest.fixture
def encode() -> Build:
    """Builder of DICOM files from a data set, in a transfer syntax."""

    def build(made: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = transfer_syntax
        made.file_meta.MediaStorageSOPClassUID = made.get("SOPClassUID") or "1.2.3"
        made.file_meta.MediaStorageSOPInstanceUID = made.get("SOPInstanceUID") or "1.2.3"
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, made, enforce_file_format=True)
        return stream.getvalue()

    return build


@pytest.fixture
def store(archive: Archive) -> Callable[..., Stored]:
    """Stores one DICOM file in two pieces."""

    def put(receipt: Receipt, file: bytes, **said: str) -> Stored:
        incoming = archive.begin(receipt, **said)
        incoming.write(file[:200])
        incoming.write(memoryview(file)[200:])
        return incoming.commit()

    return put
