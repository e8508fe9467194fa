"""Senders: C-STORE over a socket and STOW-RS, and what each object was answered.

Scripted by hand, so that a lost connection is exactly that: the object has no answer. Not here: what answers must mean (check).
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from enum import StrEnum

import httpx
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

from .objects import CT, SYNTAXES, Item

PATIENCE = 180.0  # seconds without an answer: longer than anything is stopped here
FRAGMENT = 16_000
CONTEXT = httpx.create_ssl_context()  # made once, as it takes a tenth of a second: nothing here has TLS


class Answer(StrEnum):
    """What the sender knows of one object."""

    ACKNOWLEDGED = "acknowledged"  # C-STORE 0x0000, STOW-RS success: it is safe
    ASIDE = "aside"  # told that the object is not usable: it is in quarantine
    REFUSED = "refused"  # told to send it again later
    UNKNOWN = "unknown"  # the connection was lost before an answer


Report = Callable[[Item, Answer], None]


class Progress:
    """Counts steps (pieces sent, answers) of all senders, and tells when a chosen one is reached."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._count = 0
        self._lock = threading.Lock()
        self.reached = threading.Event()

    def tick(self) -> None:
        """One more step was made."""
        with self._lock:
            self._count += 1
            if self._count >= self._step:
                self.reached.set()


def _request() -> bytes:
    """An A-ASSOCIATE-RQ: CT in each transfer syntax, contexts 1, 3, 5."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "CRASH", "INSITU"
    contexts = []
    for number, syntax in enumerate(SYNTAXES):
        context = build_context(CT, syntax)
        context.context_id = 2 * number + 1
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16_384
    implementation.implementation_class_uid = "1.2.3"
    primitive.user_information = [length, implementation]
    encoder = A_ASSOCIATE_RQ()
    encoder.from_primitive(primitive)
    encoded: bytes = encoder.encode()
    return encoded


REQUEST = _request()
RELEASE = bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])


class Association:
    """The requestor's side of an association.

    Raises
    ------
    OSError
        From every method: the connection is lost or was refused.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(REQUEST)
            if self._pdu()[0] != 2:
                raise ConnectionRefusedError("the association was not accepted")
        except BaseException:
            self._socket.close()
            raise

    def store(self, item: Item, message: int, tick: Callable[[], None]) -> int:
        """Send one object; the status of the response."""
        context = 2 * SYNTAXES.index(item.syntax) + 1
        self._send(context, 3, _command(item.sop, message))
        tick()
        for at in range(0, len(item.data), FRAGMENT):
            piece = item.data[at : at + FRAGMENT]
            self._send(context, 2 if at + FRAGMENT >= len(item.data) else 0, piece)
            tick()
        kind, body = self._pdu()
        if kind != 4:
            raise ConnectionAbortedError(f"PDU type {kind} instead of a response")
        tick()
        return _status(body[6:])

    def release(self) -> None:
        """End it in order."""
        self._socket.sendall(RELEASE)
        self._pdu()
        self._socket.close()

    def close(self) -> None:
        """End it without a word."""
        self._socket.close()

    def _send(self, context: int, control: int, piece: bytes) -> None:
        header = struct.pack(">BxIIBB", 4, len(piece) + 6, len(piece) + 2, context, control)
        self._socket.sendall(header + piece)

    def _pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise ConnectionResetError("the peer closed the connection")
            data += piece
        return data


def _command(sop: str, message: int) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""

    def element(number: int, raw: bytes) -> bytes:
        raw += b"\0" * (len(raw) % 2)
        return struct.pack("<HHI", 0, number, len(raw)) + raw

    body = b"".join(
        (
            element(0x0002, CT.encode()),
            element(0x0100, struct.pack("<H", 1)),
            element(0x0110, struct.pack("<H", message & 0xFFFF)),
            element(0x0700, b"\0\0"),
            element(0x0800, b"\0\0"),
            element(0x1000, sop.encode()),
        )
    )
    return element(0, struct.pack("<I", len(body))) + body


def _status(command: bytes) -> int:
    """Status (0000,0900) of a command set."""
    at = 0
    while at < len(command):
        group, element, length = struct.unpack_from("<HHI", command, at)
        if (group, element) == (0, 0x0900):
            return int(struct.unpack_from("<H", command, at + 8)[0])
        at += 8 + length
    raise ConnectionAbortedError("a response without a status")


def answer_of(status: int) -> Answer:
    """What a C-STORE status means to its sender (docs/dicom.md)."""
    if status == 0:
        return Answer.ACKNOWLEDGED
    if status == 0xA900 or status & 0xF000 == 0xC000:
        return Answer.ASIDE
    return Answer.REFUSED


def store(port: int, items: list[Item], report: Report, tick: Callable[[], None] = lambda: None) -> None:
    """Send objects over one association until the connection is lost; what has no answer then is unknown."""
    at = 0
    try:
        association = Association(port)
    except OSError:
        return  # nothing was sent
    try:
        for at, item in enumerate(items):
            report(item, answer_of(association.store(item, at + 1, tick)))
        association.release()
    except OSError:
        if at < len(items):
            report(items[at], Answer.UNKNOWN)
    finally:
        association.close()


def stow(url: str, token: str, items: list[Item], report: Report, tick: Callable[[], None] = lambda: None) -> None:
    """Send objects in one STOW-RS request; without an answer all are unknown."""
    boundary = "crash-boundary"

    def body() -> list[bytes]:
        parts = []
        for item in items:
            parts.append(f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + item.file() + b"\r\n")
        return [*parts, f"--{boundary}--\r\n".encode()]

    def chunks() -> object:
        for part in body():
            for at in range(0, len(part), FRAGMENT):
                yield part[at : at + FRAGMENT]
                tick()

    try:
        answer = httpx.post(
            f"{url}/dicom-web/studies",
            content=chunks(),  # type: ignore[arg-type]
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Accept": "application/dicom+json",
            },
            timeout=PATIENCE,
            trust_env=False,
            verify=CONTEXT,
        )
        document = answer.json() if answer.status_code in (200, 202, 409) else {}
    except (httpx.HTTPError, OSError, json.JSONDecodeError):
        for item in items:
            report(item, Answer.UNKNOWN)
        return
    tick()
    referenced = _sequence(document, "00081199")
    failed = _sequence(document, "00081198")
    unusable = {uid for uid, reason in failed if reason in (0xA900, 0xC000)}
    acknowledged = {uid for uid, _ in referenced}
    for item in items:
        if item.sop in acknowledged and item.sop not in {uid for uid, _ in failed}:
            report(item, Answer.ACKNOWLEDGED)
        elif item.sop in unusable and item.sop not in acknowledged:
            report(item, Answer.ASIDE)
        elif item.sop in acknowledged:
            report(item, Answer.UNKNOWN)  # several objects under one UID in this request: which one was meant?
        else:
            report(item, Answer.REFUSED)


def _sequence(
    document: dict[str, dict[str, list[dict[str, dict[str, list[object]]]]]], tag: str
) -> list[tuple[str, int]]:
    """SOP Instance UID and failure reason of each item."""
    found = []
    for item in document.get(tag, {}).get("Value", []):
        uid = str(item.get("00081155", {}).get("Value", [""])[0])
        reason = item.get("00081197", {}).get("Value", [0])[0]
        found.append((uid, int(str(reason))))
    return found
