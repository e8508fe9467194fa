"""Fixtures of the archive's tests: an archive on a real database and real files, and builders of real DICOM objects."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive, Receipt, Stored
from insitu.database import Database
from insitu.settings import Settings

Build = Callable[..., bytes]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, quiet_time=0)


@pytest.fixture
def blobs(settings: Settings) -> FileBlobStore:
    return FileBlobStore(settings.blobs)


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
