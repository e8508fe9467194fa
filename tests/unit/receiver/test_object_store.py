"""The receiver with its archive in a bucket: what it acknowledges is there, byte for byte, also while the bucket's server is away."""

from __future__ import annotations

import copy
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage

from insitu.archive.leftovers import GRACE
from insitu.archive.scrub import scrub
from insitu.database import Database
from tests.object_store import ObjectStore

from .conftest import Receiver

SENDERS = 6
SILENT_SECONDS = 20.0
PATIENCE = 4.0  # seconds, so that the silence is longer than that
OUT_OF_RESOURCES = 0xA700


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ObjectStore]:
    """The bucket's server."""
    with ObjectStore(tmp_path / "server") as server:
        yield server


@pytest.fixture
def site(database_dsn: str, database: Database, server: ObjectStore, tmp_path: Path) -> Iterator[Receiver]:
    """A receiver of two processes that keeps objects in the bucket."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(server.secrets, home / "secrets")
    receiver = Receiver(database_dsn, home, database, object_store=server.url, database_patience=str(PATIENCE))
    try:
        yield receiver
    finally:
        if receiver.process.poll() is None:
            receiver.stop()


@dataclass
class Sender(threading.Thread):
    """A modality with one association at a time: it sends new objects, and sends again what was refused."""

    port: int
    number: int
    acknowledged: dict[str, str] = field(
        default_factory=dict
    )  # SOP Instance UID to SHA-256 of the data set that was sent
    refused: set[str] = field(default_factory=set)
    longest: float = 0.0  # seconds until an answer
    strange: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.ending = threading.Event()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        template = dcmread(str(get_testdata_file("CT_small.dcm")))
        template.SeriesInstanceUID, template.StudyInstanceUID = generate_uid(), generate_uid()
        entity = AE(ae_title=f"CT{self.number}")
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        entity.dimse_timeout = entity.acse_timeout = 60
        waiting: Dataset | None = None
        while waiting is not None or not self.ending.is_set():
            association = entity.associate("127.0.0.1", self.port)
            if not association.is_established:
                time.sleep(0.2)
                continue
            while association.is_established and (waiting is not None or not self.ending.is_set()):
                dataset = waiting or self.another(template)
                began = time.monotonic()
                status = association.send_c_store(dataset)
                self.longest = max(self.longest, time.monotonic() - began)
                waiting = dataset
                if not status:
                    break  # no answer: the association is gone, and nothing was acknowledged
                if status.Status == 0:
                    content = encode(dataset, False, True)
                    assert content is not None
                    self.acknowledged[dataset.SOPInstanceUID] = hashlib.sha256(content).hexdigest()
                    waiting = None
                elif status.Status == OUT_OF_RESOURCES:
                    self.refused.add(dataset.SOPInstanceUID)
                    time.sleep(0.2)
                else:
                    self.strange.append(status.Status)
                    return
            if association.is_established:
                association.release()

    def another(self, template: Dataset) -> Dataset:
        """A new object of the series."""
        dataset = copy.deepcopy(template)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        return dataset


def sending(site: Receiver, harm: Callable[[], None]) -> list[Sender]:
    """What the senders have to tell after `harm` was done while they sent."""
    senders = [Sender(site.port, number) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    site.until("objects come", lambda: all(sender.acknowledged for sender in senders))
    harm()
    before = [len(sender.acknowledged) for sender in senders]
    site.until(
        "objects come again",
        lambda: all(len(sender.acknowledged) > count for sender, count in zip(senders, before, strict=True)),
    )
    for sender in senders:
        sender.ending.set()
    for sender in senders:
        sender.join(120)
        assert not sender.is_alive()
        assert sender.strange == []
    return senders


def check(site: Receiver, server: ObjectStore, senders: list[Sender]) -> None:
    """Everything acknowledged is in index and bucket, byte for byte; what was refused was taken afterwards; nothing else counts."""
    blobs = server.blobs(site.home / "spool")
    with site.database.transaction() as connection:
        rows = connection.execute("SELECT sop_instance_uid, blob_key, dataset_offset, digest FROM instance").fetchall()
    known = {row["sop_instance_uid"]: row for row in rows}
    acknowledged = {uid: digest for sender in senders for uid, digest in sender.acknowledged.items()}
    assert acknowledged.keys() <= known.keys()
    files = server.files()
    for uid, digest in acknowledged.items():
        row = known[uid]
        assert bytes(row["digest"]).hex() == digest
        assert hashlib.sha256(files[row["blob_key"]].read_bytes()[row["dataset_offset"] :]).hexdigest() == digest
    assert {uid for sender in senders for uid in sender.refused} <= acknowledged.keys()
    assert scrub(site.database, blobs, now=time.time() + GRACE + 3600).healthy
    left = {key for key in server.files() if key.startswith("objects/")}
    assert left == {row["blob_key"] for row in rows}, "a scrub leaves what belongs to nobody"
    for word in server.keys:
        assert word not in site.log.read_text()
    print(
        f"{len(acknowledged)} acknowledged, {sum(len(sender.refused) for sender in senders)} refused at first, the longest"
        f" answer took {max(sender.longest for sender in senders):.1f} s"
    )


def test_a_server_that_is_silent_for_20_s_under_load_loses_nothing_acknowledged(
    site: Receiver, server: ObjectStore
) -> None:
    def silent() -> None:
        server.stop()
        time.sleep(SILENT_SECONDS)
        server.go_on()

    senders = sending(site, silent)
    assert all(sender.refused for sender in senders), "nobody was told to try again"
    assert max(sender.longest for sender in senders) < 3 * PATIENCE
    check(site, server, senders)


def test_a_server_that_is_killed_and_started_again_under_load_loses_nothing_acknowledged(
    site: Receiver, server: ObjectStore
) -> None:
    def killed() -> None:
        for _ in range(3):
            server.kill()
            time.sleep(1)
            server.start()
            time.sleep(1)

    senders = sending(site, killed)
    assert any(sender.refused for sender in senders)
    check(site, server, senders)


def test_a_receiver_whose_bucket_is_not_there_tells_senders_to_try_again_and_why(
    database_dsn: str, database: Database, server: ObjectStore, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(server.secrets, home / "secrets")
    receiver = Receiver(database_dsn, home, database, object_store=f"{server.server}/elsewhere")
    try:
        sender = Sender(receiver.port, 1)
        sender.start()
        receiver.until("it is refused", lambda: sender.refused or sender.strange)
        assert (sender.strange, sender.acknowledged) == ([], {})
        assert "no such bucket" in receiver.log.read_text()
        (server.root / "elsewhere").mkdir()
        receiver.until("it is taken", lambda: sender.acknowledged)
        sender.ending.set()
        sender.join(60)
    finally:
        receiver.stop()
