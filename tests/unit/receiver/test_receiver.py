"""What a peer, the index and the blobs say after a push: everything acknowledged is there, byte for byte, and nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification

from insitu.archive.blobs import FileBlobStore
from insitu.dicom.wrap import wrap_volume
from insitu_services.receiver import pdu
from tests.tools import need_program

from .conftest import Receiver

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def made(folder: Path, slices: int = 3) -> list[Path]:
    """A CT series of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return wrap_volume(
        np.zeros((8, 8, slices)), np.diag([-1.0, -1, 1, 1]), "CT", folder, patient_id="P", patient_name="P",
        study_description="S", series_description="S", salt=uuid.uuid4().hex,
    )  # fmt: skip


def data_set(file: Path) -> bytes:
    """The bytes after the file meta information."""
    content = file.read_bytes()
    length = struct.unpack_from("<I", content, 140)[0]
    return content[144 + length :]


def assert_archived(receiver: Receiver, file: Path) -> None:
    """The object of this file is in the index with its digest, and its blob holds the same data set."""
    uid = str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)
    with receiver.database.transaction() as connection:
        row = connection.execute("SELECT * FROM instance WHERE sop_instance_uid = %s", (uid,)).fetchone()
    assert row is not None, uid
    sent = data_set(file)
    assert bytes(row["digest"]) == hashlib.sha256(sent).digest()
    blob = receiver.home / "blobs" / row["blob_key"]
    assert data_set(blob) == sent
    assert blob.stat().st_size == row["size"]


def objects(receiver: Receiver) -> list[str]:
    """Keys of every object blob, also of unfinished ones."""
    store = FileBlobStore(receiver.home / "blobs")
    return [info.key for info in store.list("objects/")]


def test_echo(receiver: Receiver) -> None:
    need_program("echoscu", "dcmtk")
    said = receiver.run("echoscu", "-v", "-aec", "INSITU", "127.0.0.1", str(receiver.port))
    assert said.returncode == 0, said.stderr
    assert receiver.count("receipt") == 0


def test_objects_arrive_byte_for_byte_and_a_repeat_changes_nothing(receiver: Receiver, tmp_path: Path) -> None:
    need_program("dcmsend", "dcmtk")
    files = made(tmp_path)
    for _ in range(2):
        said = receiver.run("dcmsend", "-v", "-aec", "INSITU", "127.0.0.1", str(receiver.port), *map(str, files))
        assert said.returncode == 0, said.stderr
    for file in files:
        assert_archived(receiver, file)
    assert receiver.count("instance") == len(files)
    assert len(objects(receiver)) == len(files)
    assert receiver.count("receipt") == 2


def test_every_transfer_syntax_is_stored_as_received(receiver: Receiver) -> None:
    names = ("CT_small.dcm", "MR_small_bigendian.dcm", "rtplan.dcm", "JPEG2000.dcm", "image_dfl.dcm", "JPEG-lossy.dcm")
    files = [Path(path) for name in names if (path := get_testdata_file(name, download=False))]
    assert len(files) > 3
    entity = AE()
    for file in files:
        header = dcmread(file, stop_before_pixels=True)
        entity.requested_contexts = []
        entity.add_requested_context(header.SOPClassUID, header.file_meta.TransferSyntaxUID)
        association = entity.associate("127.0.0.1", receiver.port, ae_title="INSITU")
        assert association.is_established
        context = association.accepted_contexts[0]
        assert context.transfer_syntax == [header.file_meta.TransferSyntaxUID]
        association.release()
        said = receiver.run(
            str(Path(sys.executable).parent / "insitu"),
            "send",
            f"INSITU@127.0.0.1:{receiver.port}",
            str(file),
        )
        assert said.returncode == 0, (file.name, said.stderr, receiver.log.read_text())
        with receiver.database.transaction() as connection:
            row = connection.execute(
                "SELECT * FROM instance WHERE sop_instance_uid = %s", (str(header.SOPInstanceUID),)
            ).fetchone()
        assert row is not None
        assert row["transfer_syntax_uid"] == header.file_meta.TransferSyntaxUID


def test_other_bytes_under_a_known_uid_are_kept_apart(receiver: Receiver, tmp_path: Path) -> None:
    need_program("storescu", "dcmtk")
    file = made(tmp_path, 1)[0]
    assert receiver.storescu(str(file)).returncode == 0
    changed = dcmread(file)
    changed.SeriesDescription = "other"
    other = tmp_path / "other.dcm"
    changed.save_as(other)
    assert receiver.storescu(str(other)).returncode == 0
    assert_archived(receiver, file)
    assert receiver.count("conflict") == 1
    assert receiver.count("instance") == 1


def test_by_policy_other_bytes_under_a_known_uid_are_refused(start: Callable[..., Receiver], tmp_path: Path) -> None:
    need_program("storescu", "dcmtk")
    receiver = start(known_uid_policy="refuse")
    file = made(tmp_path, 1)[0]
    assert receiver.storescu(str(file)).returncode == 0
    changed = dcmread(file)
    changed.SeriesDescription = "other"
    other = tmp_path / "other.dcm"
    changed.save_as(other)
    said = receiver.storescu(str(other))
    assert "0x111" in (said.stdout + said.stderr).replace("0x0111", "0x111")
    assert_archived(receiver, file)
    assert receiver.count("conflict") == 0


def rq(calling: str = "SCRIPT", called: str = "INSITU", abstract: str = CT, syntax: str = EXPLICIT) -> bytes:
    """An A-ASSOCIATE-RQ with one context."""
    from pynetdicom.presentation import build_context

    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    context = build_context(abstract, syntax)
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16384
    implementation.implementation_class_uid = "1.2.3"
    primitive.user_information = [length, implementation]
    request = A_ASSOCIATE_RQ()
    request.from_primitive(primitive)
    encoded: bytes = request.encode()
    return encoded


def element(number: int, raw: bytes) -> bytes:
    """An element of a command set."""
    return struct.pack("<HHI", 0, number, len(raw)) + raw


def store_command(sop_instance: str, sop_class: str = CT) -> bytes:
    """The command set of a C-STORE-RQ."""

    def uid(text: str) -> bytes:
        return text.encode() + b"\0" * (len(text) % 2)

    body = (
        element(0x0002, uid(sop_class)) + element(0x0100, b"\x01\x00") + element(0x0110, b"\x01\x00")
        + element(0x0700, b"\0\0") + element(0x0800, b"\0\0") + element(0x1000, uid(sop_instance))
    )  # fmt: skip
    return element(0, struct.pack("<I", len(body))) + body


def p_data(payload: bytes, control: int, context: int = 1) -> bytes:
    """A P-DATA-TF with one fragment."""
    return struct.pack(">BxIIBB", 4, len(payload) + 6, len(payload) + 2, context, control) + payload


def read_pdu(connection: object) -> tuple[int, bytes]:
    """The next PDU; type 0 where the connection has ended."""
    import socket

    assert isinstance(connection, socket.socket)

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                piece = connection.recv(count - len(data))
            except ConnectionResetError:
                return b""
            if not piece:
                return b""
            data += piece
        return data

    header = exactly(6)
    if not header:
        return 0, b""
    return header[0], exactly(struct.unpack(">I", header[2:])[0])


def scripted_store(
    receiver: Receiver, payload: bytes, sop_instance: str, abstract: str = CT, syntax: str = EXPLICIT
) -> tuple[int, str]:
    """Send these bytes as the data set of a C-STORE; status and error comment."""
    with receiver.connect() as connection:
        connection.sendall(rq(abstract=abstract, syntax=syntax))
        assert read_pdu(connection)[0] == pdu.ASSOCIATE_AC
        connection.sendall(p_data(store_command(sop_instance, abstract), 3))
        for start in range(0, len(payload), 16_000):
            piece = payload[start : start + 16_000]
            connection.sendall(p_data(piece, 2 if start + 16_000 >= len(payload) else 0))
        kind, body = read_pdu(connection)
        assert kind == pdu.P_DATA_TF, kind
        from insitu_services.receiver import command

        answer = command.decode(body[6:])
        connection.sendall(bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
        assert read_pdu(connection)[0] == pdu.RELEASE_RP
        return answer.number(command.STATUS) or 0, answer.uid(command.ERROR_COMMENT)


def test_a_scripted_store_that_is_right_succeeds(receiver: Receiver, tmp_path: Path) -> None:
    file = made(tmp_path, 1)[0]
    assert scripted_store(receiver, data_set(file), str(dcmread(file).SOPInstanceUID)) == (0, "")
    assert_archived(receiver, file)


def test_a_truncated_object_is_refused_and_quarantined(receiver: Receiver, tmp_path: Path) -> None:
    file = made(tmp_path, 1)[0]
    status, comment = scripted_store(receiver, data_set(file)[:-40], str(dcmread(file).SOPInstanceUID))
    assert status & 0xF000 in (0xC000, 0xA000), hex(status)
    assert comment
    assert receiver.count("instance") == 0
    assert receiver.count("quarantine") == 1
    assert objects(receiver) == []


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_an_object_without_a_uid_is_quarantined(receiver: Receiver, tmp_path: Path, missing: str) -> None:
    file = made(tmp_path, 1)[0]
    broken: Dataset = dcmread(file)
    uid = str(broken.SOPInstanceUID)
    delattr(broken, missing)
    other = tmp_path / "broken.dcm"
    broken.save_as(other)
    status, _ = scripted_store(receiver, data_set(other), uid)
    assert status != 0
    assert receiver.count("instance") == 0
    assert receiver.count("quarantine") == 1


def test_text_is_quarantined(receiver: Receiver) -> None:
    status, _ = scripted_store(
        receiver, b"This is a text and no DICOM object at all, not even a little.", generate_uid()
    )
    assert status != 0
    assert receiver.count("instance") == 0


def test_another_uid_in_the_command_than_in_the_data_set_is_refused(receiver: Receiver, tmp_path: Path) -> None:
    file = made(tmp_path, 1)[0]
    status, _ = scripted_store(receiver, data_set(file), generate_uid())
    assert status == 0xA900
    assert receiver.count("instance") == 0


def test_an_unlisted_calling_ae_is_rejected(start: Callable[..., Receiver]) -> None:
    need_program("echoscu", "dcmtk")
    receiver = start(calling_ae_allowed="SCANNER,PACS")
    refused = receiver.run("echoscu", "-v", "-aet", "STRANGER", "127.0.0.1", str(receiver.port))
    assert refused.returncode != 0
    assert "Calling AE Title Not Recognized" in refused.stdout + refused.stderr
    assert receiver.run("echoscu", "-aet", "PACS", "127.0.0.1", str(receiver.port)).returncode == 0


def test_another_called_ae_is_rejected_where_the_site_says_so(start: Callable[..., Receiver]) -> None:
    need_program("echoscu", "dcmtk")
    receiver = start(accept_any_called_ae="false")
    refused = receiver.run("echoscu", "-v", "-aec", "OTHER", "127.0.0.1", str(receiver.port))
    assert "Called AE Title Not Recognized" in refused.stdout + refused.stderr
    assert receiver.run("echoscu", "-aec", "INSITU", "127.0.0.1", str(receiver.port)).returncode == 0


def test_a_peer_outside_the_allowed_networks_is_rejected(start: Callable[..., Receiver]) -> None:
    receiver = start(peers_allowed="192.0.2.0/24")
    with receiver.connect() as connection:
        connection.sendall(rq())
        assert read_pdu(connection)[0] == pdu.ASSOCIATE_RJ


def test_an_unknown_storage_class_is_taken_only_by_switch(start: Callable[..., Receiver], tmp_path: Path) -> None:
    private = "1.2.826.0.1.3680043.2.1143.99.1"
    for switch, result in (("false", 3), ("true", 0)):
        receiver = start(accept_unknown_sop_classes=switch)
        with receiver.connect() as connection:
            connection.sendall(rq(abstract=private))
            kind, body = read_pdu(connection)
        assert kind == pdu.ASSOCIATE_AC
        context = body.index(b"\x21\x00", 68)
        assert body[context + 6] == result


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (bytes([0x09, 0, 0, 0, 0, 4, 0, 0, 0, 0]), pdu.UNRECOGNIZED_PDU),
        (bytes([pdu.ASSOCIATE_AC, 0, 0, 0, 0, 4, 0, 0, 0, 0]), pdu.UNEXPECTED_PDU),
        (struct.pack(">BxI", 4, 0xFFFFFFFF), pdu.INVALID_PARAMETER),
        (p_data(b"x" * 10, 3, context=99), pdu.INVALID_PARAMETER),
        (p_data(b"x" * 10, 3), pdu.INVALID_PARAMETER),
        (p_data(b"x" * 10, 2), pdu.UNEXPECTED_PDU),
        (struct.pack(">BxIIBB", 4, 6, 0xFFFF, 1, 3), pdu.INVALID_PARAMETER),
        (struct.pack(">BxIIBB", 4, 6, 1, 1, 3), pdu.INVALID_PARAMETER),
    ],
)
def test_a_malformed_pdu_is_answered_by_an_abort_that_says_why(receiver: Receiver, sent: bytes, reason: int) -> None:
    with receiver.connect() as connection:
        connection.sendall(rq())
        assert read_pdu(connection)[0] == pdu.ASSOCIATE_AC
        connection.sendall(sent)
        kind, body = read_pdu(connection)
    assert (kind, body[2], body[3]) == (pdu.ABORT, 2, reason)


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        p_data(b"x" * 20, 3),
        bytes([1, 0, 0, 0, 0, 4, 0, 1, 0, 0]),
        struct.pack(">BxI", 1, 0xFFFFFFF0),
    ],
)
def test_whatever_comes_first_the_receiver_stays_up(receiver: Receiver, first: bytes) -> None:
    with receiver.connect() as connection:
        connection.sendall(first)
        assert read_pdu(connection)[0] in (0, pdu.ABORT, pdu.ASSOCIATE_RJ)
    with receiver.connect() as connection:
        connection.sendall(rq())
        assert read_pdu(connection)[0] == pdu.ASSOCIATE_AC
    assert len(receiver.workers()) == 2


def test_an_abort_in_the_middle_of_an_object_leaves_no_trace(receiver: Receiver, tmp_path: Path) -> None:
    file = made(tmp_path, 1)[0]
    with receiver.connect() as connection:
        connection.sendall(rq())
        read_pdu(connection)
        connection.sendall(
            p_data(store_command(str(dcmread(file).SOPInstanceUID)), 3) + p_data(data_set(file)[:300], 0)
        )
        receiver.until("the object has begun", lambda: receiver.count("receipt") == 1)
        connection.sendall(pdu.abort(0, source=0))
    receiver.until("the association has ended", lambda: "aborted by the peer" in receiver.log.read_text())
    assert receiver.count("instance") == 0
    assert objects(receiver) == []
    left = [path for path in (receiver.home / "blobs").rglob("*") if path.is_file() and "receipts" not in path.parts]
    assert left == []


def test_a_killed_worker_loses_nothing_acknowledged_and_is_replaced(
    start: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = start(receiver_processes="1")
    files = made(tmp_path, 2)
    uids = [str(dcmread(file).SOPInstanceUID) for file in files]
    first = receiver.workers()[0].pid
    with receiver.connect() as connection:
        connection.sendall(rq())
        read_pdu(connection)
        connection.sendall(p_data(store_command(uids[0]), 3) + p_data(data_set(files[0]), 2))
        assert read_pdu(connection)[0] == pdu.P_DATA_TF
        connection.sendall(p_data(store_command(uids[1]), 3) + p_data(data_set(files[1])[:300], 0))
        os.kill(first, signal.SIGKILL)
        assert read_pdu(connection)[0] == 0
    assert_archived(receiver, files[0])
    assert receiver.count("instance") == 1
    receiver.until("another worker serves", lambda: [w.pid for w in receiver.workers()] not in ([], [first]))
    assert scripted_store(receiver, data_set(files[1]), uids[1]) == (0, "")
    assert_archived(receiver, files[1])


def test_four_senders_at_once_lose_nothing(receiver: Receiver, tmp_path: Path) -> None:
    need_program("storescu", "dcmtk")
    series = [made(tmp_path / str(number), 20) for number in range(4)]
    codes: list[int] = []

    def send(files: list[Path]) -> None:
        done = receiver.run("storescu", "-aec", "INSITU", "127.0.0.1", str(receiver.port), *map(str, files))
        codes.append(done.returncode)

    threads = [threading.Thread(target=send, args=(files,)) for files in series]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0, 0, 0]
    assert receiver.count("instance") == 80
    for files in series:
        assert_archived(receiver, files[-1])


def test_memory_stays_flat_for_a_large_object(start: Callable[..., Receiver], tmp_path: Path) -> None:
    need_program("storescu", "dcmtk")
    receiver = start(receiver_processes="1")
    file = made(tmp_path, 1)[0]
    large = dcmread(file)
    frames = 300
    large.Rows = large.Columns = 512
    large.NumberOfFrames = frames
    large.PixelData = bytes(512 * 512 * 2) * frames
    path = tmp_path / "large.dcm"
    large.save_as(path)
    assert receiver.storescu(str(file)).returncode == 0
    worker = psutil.Process(receiver.workers()[0].pid)
    before = worker.memory_info().rss
    peak = before
    large.SOPInstanceUID = generate_uid()
    large.file_meta.MediaStorageSOPInstanceUID = large.SOPInstanceUID
    large.save_as(path)
    sender = subprocess.Popen(["storescu", "-aec", "INSITU", "127.0.0.1", str(receiver.port), str(path)])
    while sender.poll() is None:
        peak = max(peak, worker.memory_info().rss)
        try:
            sender.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
    assert sender.returncode == 0
    assert peak - before < 40_000_000, (
        f"{(peak - before) / 1e6:.0f} MB for an object of {path.stat().st_size / 1e6:.0f} MB"
    )


def test_sigterm_ends_every_process_and_open_associations_are_told(receiver: Receiver) -> None:
    workers = receiver.workers()
    with receiver.connect() as connection:
        connection.sendall(rq())
        assert read_pdu(connection)[0] == pdu.ASSOCIATE_AC
        assert receiver.stop() == 0
        assert read_pdu(connection)[0] == pdu.ABORT
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []


def test_workers_end_when_their_parent_is_killed(receiver: Receiver) -> None:
    workers = receiver.workers()
    receiver.process.send_signal(signal.SIGKILL)
    receiver.process.wait(timeout=30)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def test_no_patient_data_stands_in_the_log(receiver: Receiver, tmp_path: Path) -> None:
    need_program("storescu", "dcmtk")
    folder = tmp_path / "named"
    folder.mkdir()
    files = wrap_volume(
        np.zeros((8, 8, 2)), np.diag([-1.0, -1, 1, 1]), "CT", folder, patient_id="SECRETID77", patient_name="Secretname^X",
        study_description="Secretstudy", series_description="S",
    )  # fmt: skip
    assert receiver.storescu(str(files[0])).returncode == 0
    scripted_store(receiver, data_set(files[1])[:-40], str(dcmread(files[1]).SOPInstanceUID))
    shutil.copy(files[0], tmp_path / "again.dcm")
    assert "secret" not in receiver.log.read_text().lower()
