"""A real DICOMweb server on an ephemeral port over a real archive, and small DICOM objects to put into it."""

from __future__ import annotations

import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from insitu.archive import metadata
from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.identity import tokens
from insitu.projects import projects
from insitu.projects.permissions import Role
from insitu.settings import Settings
from insitu_services.api.__main__ import listen, server
from insitu_services.api.context import Context

PATIENCE = 60  # seconds a loaded machine may take


class Site:
    """The server and what it serves. The next requests come from whom `become` or `be_admin` named last."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.headers: dict[str, str] = {}
        self.url = ""
        self.be_admin()

    def be_admin(self) -> None:
        """Be the site admin."""
        self._log_in(site_admin=True)

    def become(self, **roles: str) -> None:
        """Be a new account with these roles by project."""
        self._log_in(**roles)

    def _log_in(self, *, site_admin: bool = False, **roles: str) -> None:
        with self.context.database.transaction() as connection:
            name = f"account-{uuid.uuid4().hex[:8]}"
            connection.execute(
                "INSERT INTO account (name, password_hash, site_admin) VALUES (%s, 'none', %s)", (name, site_admin)
            )
            for project, role in roles.items():
                projects.set_member(connection, project, name, Role(role))
            token = tokens.create(connection, name, "test")
        self.name, self.headers = name, {"Authorization": f"Bearer {token}"}

    @property
    def client(self) -> DICOMwebClient:
        """A new client of the package dicomweb-client."""
        return DICOMwebClient(f"{self.url}/dicom-web", headers=self.headers)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET below /dicom-web, with patience."""
        options["headers"] = self.headers | options.get("headers", {})
        return httpx.get(f"{self.url}/dicom-web{path}", timeout=PATIENCE, **options)

    def found(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """The results of a search that must succeed."""
        response = self.get(path, params=parameters)
        assert response.status_code == 200, response.text
        results: list[dict[str, Any]] = response.json()
        return results

    def store(
        self, *files: bytes, path: str = "/studies", content_type: str = "application/dicom", **options: Any
    ) -> httpx.Response:
        """POST files as multipart/related."""
        boundary = "the-boundary"
        body = b"".join(
            f"--{boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode() + file + b"\r\n" for file in files
        )
        return self.post(body + f"--{boundary}--\r\n".encode(), boundary, path, **options)

    def post(
        self, body: bytes, boundary: str = "the-boundary", path: str = "/studies", **options: Any
    ) -> httpx.Response:
        """POST a multipart/related body as it is."""
        headers = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'}
        headers |= self.headers | options.pop("headers", {})
        return httpx.post(f"{self.url}/dicom-web{path}", content=body, headers=headers, timeout=PATIENCE, **options)

    def take(self, *datasets: pydicom.Dataset, project: str | None = None, with_metadata: bool = True) -> None:
        """Put data sets into the archive by its own write path, without HTTP."""
        archive = self.context.archive
        receipt = archive.open_receipt(channel="import", project=project)
        for dataset in datasets:
            incoming = archive.begin(receipt)
            incoming.write(encoded(dataset))
            stored = incoming.commit()
            assert stored.success, stored.reason
        archive.close_receipt(receipt)
        if with_metadata:
            with self.context.database.transaction() as connection:
                for row in connection.execute("SELECT id FROM series").fetchall():
                    metadata.project_series(connection, archive.blobs, row["id"])

    @staticmethod
    def file(dataset: pydicom.Dataset) -> bytes:
        """The data set as a DICOM file."""
        return encoded(dataset)

    def project(self, name: str) -> None:
        """Make a project."""
        with self.context.database.transaction() as connection:
            connection.execute("INSERT INTO project (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))


def encoded(dataset: pydicom.Dataset) -> bytes:
    """The data set as a DICOM file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Iterator[Site]:
    """A DICOMweb server over an empty archive."""
    settings = Settings(home=tmp_path, http="127.0.0.1:0")
    archive = Archive(database, FileBlobStore(settings.blobs), settings)
    site = Site(Context(settings=settings, database=database, archive=archive))
    site.project("inbox")
    listener = listen(settings.http)
    serving = server(site.context)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not serving.started and thread.is_alive():
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    site.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield site
    serving.should_exit = True
    thread.join(PATIENCE)
    listener.close()
    archive.close()


Make = Callable[..., pydicom.Dataset]


@pytest.fixture
def make() -> Make:
    """Builder of small CT images; keyword arguments set attributes."""

    def build(number: int = 1, **attributes: Any) -> pydicom.Dataset:
        dataset = pydicom.Dataset()
        dataset.preamble = b"\0" * 128
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = generate_uid()
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "P1"
        dataset.PatientBirthDate, dataset.PatientSex = "19500102", "F"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
        dataset.StudyDate, dataset.StudyTime = "20240131", "103000"
        dataset.AccessionNumber, dataset.StudyID, dataset.ReferringPhysicianName = "A1", "S1", ""
        dataset.StudyDescription, dataset.SeriesDescription = "Head", "Axial thin"
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 2, number
        dataset.SliceThickness = "1.25"
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 6, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = (np.arange(24, dtype="<i2") + 100 * number).tobytes()
        for name, value in attributes.items():
            setattr(dataset, name, value)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        return dataset

    return build


@pytest.fixture
def sample() -> Callable[[str], pydicom.Dataset]:
    """Reader of the files inside the pydicom package; gives them UIDs of their own, as some lack and some share them."""

    def read(name: str) -> pydicom.Dataset:
        path = get_testdata_file(name, download=False)
        assert path is not None, name
        dataset = pydicom.dcmread(str(path))
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(dataset, keyword, generate_uid())
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        return dataset

    return read
