"""Peers that wear a receiver out: slow ones, silent ones by the hundred, thousands of objects at a stretch. Others are still served."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from insitu_services.receiver import command, pdu

from .conftest import Receiver
from .test_hostile_pdus import answered
from .test_receiver import data_set, made, objects, p_data, read_pdu, rq, scripted_store, store_command

OBJECTS = 10_000
WARM = 2_000
IDLE = 500


def memory(receiver: Receiver) -> int:
    """Memory of all workers, shared pages in proportion, in bytes."""
    return sum(worker.memory_full_info().pss for worker in receiver.workers())


def drip(connection: socket.socket, data: bytes, ended: threading.Event) -> None:
    """Send one byte after the other, slowly, until the connection is ended."""
    with contextlib.suppress(OSError):
        for byte in data:
            connection.sendall(bytes([byte]))
            if ended.wait(0.1):
                return


@pytest.mark.parametrize("where", ["in its request", "in an object", "in its last words"])
def test_a_peer_that_sends_a_byte_now_and_then_is_ended(
    where: str, start: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = start(association_timeout="2", idle_timeout="2", receiver_processes="1")
    ended = threading.Event()
    with receiver.connect() as connection:
        if where == "in its request":
            slow, expected = rq(), (pdu.ABORT, 2)
        else:
            connection.sendall(rq())
            assert read_pdu(connection)[0] == pdu.ASSOCIATE_AC
            slow, expected = bytes(100_000), (pdu.ABORT, 2)
            if where == "in an object":
                said = p_data(store_command("1.2.3.4"), 3) + p_data(bytes(100_000), 0)[:300]
                connection.sendall(said)
            else:
                connection.sendall(bytes([pdu.RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
                assert read_pdu(connection)[0] == pdu.RELEASE_RP
                expected = (0, 0)
        dripping = threading.Thread(target=drip, args=(connection, slow, ended))
        dripping.start()
        kind, body = read_pdu(connection)
        assert (kind, body[2] if body else 0) == expected
        receiver.until("it is ended", lambda: '"association ' in receiver.log.read_text())
        ended.set()
        dripping.join(60)
    assert ("released" if where == "in its last words" else "nothing came in time") in receiver.log.read_text()
    assert objects(receiver) == []
    file = made(tmp_path, 1)[0]
    assert scripted_store(receiver, data_set(file), str(dcmread(file).SOPInstanceUID)) == (0, "")


def test_hundreds_of_idle_associations_cost_little_and_those_beyond_the_limit_are_told_to_wait(
    start: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = start(idle_timeout="600")
    file = made(tmp_path, 1)[0]
    content, uid = data_set(file), str(dcmread(file).SOPInstanceUID)
    assert scripted_store(receiver, content, uid) == (0, "")
    before = memory(receiver)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(receiver.connect()) for _ in range(IDLE)]
        for connection in idle:
            connection.sendall(rq())
        answers = [answered(connection) for connection in idle]
        accepted = answers.count("accept")
        assert accepted == 250  # over both workers
        # transient, by the presentation service: local limit exceeded
        assert answers.count("reject 2 3 2") == IDLE - 250
        grown = memory(receiver) - before
        assert grown < 100 * 1024 * IDLE, f"{grown / IDLE / 1024:.0f} KiB for each of them"
        with receiver.connect() as another:
            another.sendall(rq())
            assert answered(another) == "reject 2 3 2"
        idle[answers.index("accept")].sendall(p_data(store_command(uid), 3) + p_data(content, 2))
        kind, body = read_pdu(idle[answers.index("accept")])  # who is in is served among the idle
        assert kind == pdu.P_DATA_TF
        assert command.decode(body[6:]).number(command.STATUS) == 0
    receiver.until("all have gone", lambda: receiver.log.read_text().count('"association ') >= IDLE)
    assert scripted_store(receiver, content, uid) == (0, "")
    assert len(receiver.workers()) == 2


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: an fsync of every object on a shared disk takes minutes, and is tested elsewhere."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def test_ten_thousand_objects_in_one_association_leave_memory_flat(
    start: Callable[..., Receiver], tmp_path: Path, quick_folder: Path
) -> None:
    file = made(tmp_path, 1)[0]
    content, uid = data_set(file), dcmread(file).SOPInstanceUID.encode()
    assert content.count(uid) == 1
    before, after = content.split(uid)
    said = store_command(uid.decode())
    receiver = start(folder=quick_folder, receiver_processes="1")
    with receiver.connect() as connection:
        connection.sendall(rq())
        assert read_pdu(connection)[0] == pdu.ASSOCIATE_AC
        warm = 0
        for number in range(OBJECTS):
            name = uid[:-6] + b"%06d" % number
            connection.sendall(p_data(said.replace(uid, name), 3) + p_data(before + name + after, 2))
            kind, body = read_pdu(connection)
            assert kind == pdu.P_DATA_TF
            assert command.decode(body[6:]).number(command.STATUS) == 0, number
            if number == WARM:
                warm = memory(receiver)
        grown = memory(receiver) - warm
        connection.sendall(bytes([pdu.RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
        assert answered(connection) == "release"
    assert receiver.count("instance") == OBJECTS == len(objects(receiver))
    assert receiver.count("receipt") == 1
    assert grown < 4 << 20, f"{grown / 2**20:.1f} MiB more after {OBJECTS - WARM} objects"
