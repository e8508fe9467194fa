"""An archive with nodes around it: real servers of others, and one peer that follows a script."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt

from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.nodes import registry, transfers
from insitu.nodes.registry import Node
from insitu.projects import projects
from insitu.settings import Settings
from insitu_services.dispatcher.exchange import Exchange
from insitu_services.dispatcher.transfers import TransferCarrier

PATIENCE = 60.0  # seconds a loaded machine may take


def image(**attributes: Any) -> Dataset:
    """A small CT image in explicit VR little endian."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientName, made.PatientID = "Geheim^Anna", "4711"
    made.StudyDate, made.StudyTime, made.AccessionNumber, made.StudyID = "20240131", "103000", "A1", "1"
    made.Modality, made.SeriesNumber, made.InstanceNumber = "CT", 1, 1
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 32, 32, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PixelData = bytes(2048)
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def encoded(dataset: Dataset) -> bytes:
    """The data set as a DICOM file."""
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until `condition` holds; what it returned."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not so: {what}"
        time.sleep(0.05)
    return found


@dataclass
class Site:
    """An archive, and the exchange of its dispatcher."""

    settings: Settings
    database: Database
    archive: Archive

    def store(self, *datasets: Dataset, project: str = "alpha") -> None:
        """Put objects into the archive."""
        receipt = self.archive.open_receipt(channel="import", project=project)
        for dataset in datasets:
            incoming = self.archive.begin(receipt)
            incoming.write(dataset if isinstance(dataset, bytes) else encoded(dataset))
            stored = incoming.commit()
            assert stored.success, stored.reason
        self.archive.close_receipt(receipt)

    def study(self, count: int, **attributes: Any) -> tuple[str, list[str]]:
        """Store a study of one series; its UID and those of its objects."""
        uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()} | attributes
        made = [image(InstanceNumber=number + 1, **uids) for number in range(count)]
        self.store(*made)
        return str(uids["StudyInstanceUID"]), [str(each.SOPInstanceUID) for each in made]

    def node(self, name: str = "peer", **values: Any) -> Node:
        """Enter a node."""
        node = registry.node_of({"name": name, **values})
        with self.database.transaction() as connection:
            registry.save(connection, node)
        return node

    def send(self, study: str, node: str = "peer", **options: Any) -> str:
        """Queue a study; the transfer's id."""
        with self.database.transaction() as connection:
            made = transfers.create(connection, node, study=study, projects=None, requested_by="anna", **options)
        self.archive.wake()
        assert made is not None
        return made

    def transfer(self, identifier: str) -> dict[str, Any]:
        """A transfer with its objects by UID."""
        with self.database.transaction() as connection:
            row = transfers.get(connection, identifier, None)
            items = transfers.objects(connection, identifier)
        return {**row, "objects": {item["sop_instance_uid"]: item for item in items}}

    def ended(self, identifier: str) -> dict[str, Any]:
        """The transfer, once it has ended."""

        def look() -> dict[str, Any] | None:
            row = self.transfer(identifier)
            return None if row["state"] == "queued" else row

        found: dict[str, Any] = until(look, "the transfer has ended")
        return found

    @contextmanager
    def exchanging(self) -> Iterator[Exchange]:
        """The exchange at work, as in the dispatcher."""
        stopping = threading.Event()
        carrier = TransferCarrier(self.settings, self.database, self.archive, stopping)
        exchange = Exchange(self.settings, self.database, {"transfer": carrier.carry}, stopping)
        exchange.start()
        try:
            yield exchange
        finally:
            exchange.stop()


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Iterator[Site]:
    """An archive with a project `alpha`; retries come quickly."""
    settings = Settings(home=tmp_path / "home", quiet_time=0, peer_timeout=20, transfer_retry=0.2, transfer_attempts=50)
    archive = Archive(database, FileBlobStore(settings.blobs), settings)
    with database.transaction() as connection:
        projects.create(connection, "alpha")
    yield Site(settings, database, archive)
    archive.close()


class Scripted:
    """A storage peer whose answers a test decides: `answer(dataset identifier)` gives the status."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.associations = 0
        self.answer: Callable[[str], int] = lambda _: 0x0000
        self.on_data: Callable[[Any], None] = lambda _: None
        self.entity = AE(ae_title="PEER")
        self.port = 0
        self._server: Any = None

    def start(self, contexts: list[Any] | None = None, port: int = 0) -> None:
        """Listen on `port`, or on a free one."""
        self.entity.supported_contexts = contexts or AllStoragePresentationContexts
        self.entity.maximum_pdu_size = 16_384
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._count), (evt.EVT_PDU_RECV, self._pdu)]
        self._server = self.entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.answer(uid)
        if status == 0 or status >> 12 == 0xB:
            self.received.append(uid)
        return status

    def _count(self, _: Any) -> None:
        self.associations += 1

    def _pdu(self, event: Any) -> None:
        if type(event.pdu).__name__ == "P_DATA_TF":
            self.on_data(event)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """A peer that follows a script; not started yet."""
    peer = Scripted()
    yield peer
    peer.stop()


@pytest.fixture
def unused_port() -> int:
    """A port of loopback where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
