"""Whatever bytes come, an association ends: by an answer and the end of the connection, never by a mistake of ours or a hang.

The bytes are recorded exchanges and proper ones, mutated. The examples of an ordinary run are always the same;
INSITU_FUZZ=N tries N of them, new ones each time.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.settings import Settings
from insitu_services.receiver import pdu
from insitu_services.receiver.association import Association

from .test_hostile_pdus import answered, opening, recorded
from .test_receiver import p_data, rq, store_command

LONG = int(os.environ.get("INSITU_FUZZ", "0"))
RELEASE = bytes([pdu.RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0])
STATES = ("new", "associated", "in a command", "awaiting data", "in an object")
# Whole PDUs from which conversations are made before bytes are changed.
PIECES = [case.send for case in recorded() if case.send] + [
    rq(), p_data(store_command("1.2.3"), 3), p_data(b"\x08\0\x05\0CS\x0a\0ISO_IR 192", 0), p_data(b"", 2), RELEASE,
]  # fmt: skip


@pytest.fixture(scope="module")
def archive(module_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """The archive that the associations store into."""
    home = tmp_path_factory.mktemp("home")
    database = Database(module_dsn, minimum=1, maximum=4)
    here = Archive(database, FileBlobStore(home / "blobs"), Settings(home=home))
    yield here
    here.close()
    database.close()


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=120)
        theirs, _ = listener.accept()
    return ours, theirs


@st.composite
def hostile_bytes(draw: st.DrawFn) -> bytes:
    """Pieces of conversations in any order, with bytes changed, cut out, doubled, or lengths overwritten."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(PIECES), min_size=0, max_size=4))))
    for _ in range(draw(st.integers(0, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        change = draw(st.sampled_from(("byte", "cut", "length", "short length", "insert")))
        if change == "byte":
            data[at] = draw(st.integers(0, 255))
        elif change == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif change == "length":
            data[at : at + 4] = struct.pack(">I", draw(st.sampled_from((0, 1, 2, 3, 5, 0x7FFFFFFF, 0xFFFFFFFF))))
        elif change == "short length":
            data[at : at + 2] = struct.pack(">H", draw(st.sampled_from((0, 1, 3, 0x7FFF, 0xFFFF))))
        else:
            data[at:at] = draw(st.binary(max_size=20))
    return bytes(data)


def converse(archive: Archive, state: str, sent: bytes) -> list[str]:
    """What an association in this state answers to these bytes, followed by the end of the connection."""
    ours, theirs = connected()
    association = Association(theirs, "127.0.0.1", archive.settings, archive)
    thread = threading.Thread(target=association.run, daemon=True)
    thread.start()
    try:
        for number, piece in enumerate(opening(state)):
            ours.sendall(piece)
            if number == 0:
                assert answered(ours) == "accept"
        try:
            ours.sendall(sent)
            ours.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it had enough before the end
        answers = []
        while (answer := answered(ours)) != "close":
            answers.append(answer)
        thread.join(120)
        assert not thread.is_alive()
    finally:
        ours.close()
    return answers


@settings(
    max_examples=LONG or 200, deadline=None, derandomize=not LONG, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(state=st.sampled_from(STATES), sent=hostile_bytes())
def test_every_association_ends_and_the_next_is_served(archive: Archive, state: str, sent: bytes) -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler(logging.DEBUG)  # who sends nothing is told at this level
    handler.emit = said.append  # type: ignore[method-assign]
    logger = logging.getLogger("insitu.receiver")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        answers = converse(archive, state, sent)
        assert [record.getMessage() for record in said if record.exc_info] == []
        assert sum(record.getMessage().startswith("association ") for record in said) == 1
        ends = [answer for answer in answers if answer.startswith(("abort", "reject", "release"))]
        assert len(ends) <= 1
        assert not ends or answers[-1] == ends[0]  # nothing is said after the last word
        assert converse(archive, "new", rq() + RELEASE) == ["accept", "release"]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
