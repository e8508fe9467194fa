"""Malformed PDUs and those out of place, replayed from recorded bytes: the peer is told by the right PDU, nothing stays behind."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from insitu_services.receiver import command, pdu

from .conftest import Receiver
from .test_receiver import objects, p_data, read_pdu, rq, store_command

RECORDED = Path(__file__).with_name("hostile_pdus.txt")
SECRET = "Secretname"  # in what is sent of an object; it may stand in no log


@dataclass
class Case:
    """One recorded exchange."""

    name: str
    state: str = ""
    send: bytes = b""
    answer: str = ""
    log: list[str] = field(default_factory=list)


def recorded() -> list[Case]:
    """The cases of the file."""
    cases: list[Case] = []
    for line in RECORDED.read_text().splitlines():
        key, _, value = line.partition(": ")
        if line.startswith("["):
            cases.append(Case(line.strip("[]")))
        elif key == "send":
            cases[-1].send += bytes.fromhex(value)
        elif key == "log":
            cases[-1].log.append(value)
        elif key in ("state", "answer"):
            setattr(cases[-1], key, value)
    return cases


def opening(state: str) -> list[bytes]:
    """What the peer sends to get into a state, one piece for each answer and a last one without."""
    said = store_command("1.2.3.4")
    rest = {
        "associated": b"",
        "in a command": p_data(said[:30], 1),
        "awaiting data": p_data(said, 3),
        "in an object": p_data(said, 3) + p_data(b"\x08\0\x05\0CS\x0a\0ISO_IR 192" + SECRET.encode(), 0),
    }
    return [] if state == "new" else [rq(), rest[state]]


def answered(connection: socket.socket) -> str:
    """What the receiver said, in the words of the file."""
    kind, body = read_pdu(connection)
    if kind == pdu.ABORT:
        return f"abort {body[2]} {body[3]}"
    if kind == pdu.ASSOCIATE_RJ:
        return f"reject {body[1]} {body[2]} {body[3]}"
    if kind == pdu.P_DATA_TF:
        return f"status {command.decode(body[6:]).number(command.STATUS):04x}"
    return {0: "close", pdu.ASSOCIATE_AC: "accept", pdu.RELEASE_RP: "release"}.get(kind, f"PDU {kind:02x}")


@pytest.fixture(scope="module")
def hostile(module_receiver: Receiver) -> Iterator[Receiver]:
    """One receiver for all cases: the next one is served after each."""
    yield module_receiver
    assert len(module_receiver.workers()) == 2
    said = module_receiver.log.read_text()
    assert "an association failed" not in said
    assert "Traceback" not in said, said
    assert SECRET not in said
    assert "ended (" not in said  # no worker died


@pytest.mark.parametrize("case", recorded(), ids=lambda case: case.name)
def test_the_peer_is_answered_as_recorded(hostile: Receiver, case: Case) -> None:
    mark = len(hostile.log.read_text())
    with hostile.connect() as connection:
        for number, piece in enumerate(opening(case.state)):
            connection.sendall(piece)
            if number == 0:
                assert answered(connection) == "accept"
        connection.sendall(case.send)
        if case.answer != "accept":
            connection.shutdown(socket.SHUT_WR)
        assert answered(connection) == case.answer
    hostile.until("the association has ended", lambda: '"association ' in hostile.log.read_text()[mark:], poll=0.005)
    lines = [json.loads(line) for line in hostile.log.read_text()[mark:].splitlines()]
    (end,) = [line for line in lines if line["message"].startswith("association ")]
    assert end["peer"] == "127.0.0.1"
    said = json.dumps(lines)
    for words in case.log:
        assert words in said
    assert objects(hostile) == []
    with hostile.connect() as connection:
        connection.sendall(rq())
        assert answered(connection) == "accept"
        connection.sendall(bytes([pdu.RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
        assert answered(connection) == "release"
    hostile.until(
        "the next one has ended too", lambda: hostile.log.read_text()[mark:].count('"association ') == 2, poll=0.005
    )
