"""STOW-RS to a node: objects as they are stored, some in one request, and what the answer says of each (PS3.18 10.5).

An object whose transfer syntax the service refuses goes again, uncompressed. Bodies are streamed. Not here: the session (web)
and the queue (insitu.nodes.transfers).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO

import httpx

from insitu.archive.blobs import BlobStore
from insitu.archive.examine import file_meta
from insitu.database import Row
from insitu.errors import InsituError, Unavailable
from insitu.nodes.registry import Node
from insitu.nodes.verdicts import TRANSFER_SYNTAX_NOT_SUPPORTED
from insitu_services import outgoing
from insitu_services.receiver.sop_classes import PLAIN_SYNTAXES

from . import web
from .storing import Answer

MOST_OBJECTS = 16  # of one request; what is lost with it is sent again
MOST_BYTES = 1 << 25

REFERENCED, FAILED = "00081199", "00081198"
SOP_INSTANCE, WARNING_REASON, FAILURE_REASON = "00081155", "00081196", "00081197"
UNSUPPORTED_MEDIA_TYPE = 415
OF_THE_SERVICE = (401, 403, 404, 405, 408, 429)  # statuses that tell nothing about the objects


def requests(items: Sequence[Row]) -> Iterator[list[Row]]:
    """Objects in the groups that go into one request. Pure."""
    group: list[Row] = []
    size = 0
    for item in items:
        if group and (len(group) == MOST_OBJECTS or size + item["size"] > MOST_BYTES):
            yield group
            group, size = [], 0
        group.append(item)
        size += item["size"]
    if group:
        yield group


def deliver(node: Node, session: httpx.Client, blobs: BlobStore, items: Sequence[Row]) -> list[Answer]:
    """Send objects in one request, those it did not settle in requests of their own; what became of each.

    Parameters
    ----------
    node : Node
    session : httpx.Client
        From `web.client`.
    blobs : BlobStore
    items : sequence of dict
        The instances: `sop_class_uid`, `sop_instance_uid`, `transfer_syntax_uid`, `blob_key`, `dataset_offset`.

    Raises
    ------
    Unavailable
        The service does not answer, or refuses us.
    """
    found = _stored(node, session, blobs, items)
    if len(items) > 1 and all(answer.status is None for answer in found):
        # the whole request was refused, perhaps for one object's sake
        found = [_stored(node, session, blobs, [item])[0] for item in items]
    return [
        _decoded(node, session, blobs, item) or answer if answer.status == TRANSFER_SYNTAX_NOT_SUPPORTED else answer
        for item, answer in zip(items, found, strict=True)
    ]


def _stored(node: Node, session: httpx.Client, blobs: BlobStore, items: Sequence[Row]) -> list[Answer]:
    """Send objects as they are stored, byte for byte."""
    with ExitStack() as stack:
        files: list[BinaryIO] = []
        for item in items:
            try:
                files.append(stack.enter_context(blobs.open(item["blob_key"])))
            except InsituError as error:
                if len(items) == 1:
                    return [Answer(None, sentence=str(error), refused=True)]
                return [Answer(None, sentence="it went with another object that is missing here")] * len(items)
        parts = [(file.seek(0, os.SEEK_END) + file.seek(0), outgoing.chunks(file)) for file in files]
        return _post(node, session, parts, [item["sop_instance_uid"] for item in items])


def _decoded(node: Node, session: httpx.Client, blobs: BlobStore, item: Row) -> Answer | None:
    """Send an object uncompressed; None where it is, or cannot be decoded."""
    stored = item["transfer_syntax_uid"]
    syntax = next((each for each in PLAIN_SYNTAXES if each != stored and outgoing.can_be_sent_in(stored, each)), None)
    if syntax is None:
        return None
    try:
        with outgoing.opened(blobs, item, syntax) as data_set:
            meta = file_meta(syntax, item["sop_class_uid"], item["sop_instance_uid"], None)
            length = len(meta) + data_set.seek(0, os.SEEK_END) + data_set.seek(0)
            part = (length, _behind(meta, data_set))
            return _post(node, session, [part], [item["sop_instance_uid"]])[0]
    except Unavailable:
        raise
    except InsituError as error:
        return Answer(None, sentence=str(error), refused=True)


def _behind(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield head
    yield from outgoing.chunks(file)


def _post(
    node: Node, session: httpx.Client, parts: Sequence[tuple[int, Iterable[bytes]]], uids: Sequence[str]
) -> list[Answer]:
    """One request with these files, each as its length and its bytes."""
    # Orthanc 1.10 finds no part behind a boundary with a hyphen, and answers 200 all the same
    boundary = uuid.uuid4().hex
    heads = [_head(boundary, first=number == 0) for number in range(len(parts))]
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(map(len, heads)) + sum(size for size, _ in parts) + len(tail)

    def body() -> Iterator[bytes]:
        for head, (_, content) in zip(heads, parts, strict=True):
            yield head
            yield from content
        yield tail

    with web.explained(node):
        response = session.post(
            "/studies",
            content=body(),
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Content-Length": str(length),
                "Accept": "application/dicom+json",
            },
        )
    if response.status_code in OF_THE_SERVICE or response.status_code >= 500:
        web.check(node, response)
    return answers(response.status_code, _document(response), uids)


def answers(status: int, document: dict[str, Any], uids: Sequence[str]) -> list[Answer]:
    """What a response says of each object, in the order of `uids`. Pure."""
    told: dict[str, Answer] = {}
    for item in _items(document, REFERENCED):
        told[str(_value(item, SOP_INSTANCE))] = Answer(int(_value(item, WARNING_REASON) or 0))
    for item in _items(document, FAILED):
        told[str(_value(item, SOP_INSTANCE))] = Answer(int(_value(item, FAILURE_REASON) or 0x0110))
    if len(uids) == 1 and status == UNSUPPORTED_MEDIA_TYPE:
        told.setdefault(uids[0], Answer(TRANSFER_SYNTAX_NOT_SUPPORTED))
    # Only what the service names is stored: also 200 is no word on an object that its answer leaves out.
    if len(uids) == 1 and status not in (200, 202, 503):
        silent = Answer(None, sentence=f"the service answered HTTP {status} and no reason", refused=True)
    else:
        silent = Answer(None, sentence=f"the service answered HTTP {status} and did not name this object")
    return [told.get(uid, silent) for uid in uids]


def _head(boundary: str, *, first: bool) -> bytes:
    # Without the transfer syntax, which the file tells: Orthanc 1.10 passes over a part that names it, and answers 200.
    lead = "" if first else "\r\n"
    return f"{lead}--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _items(document: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    element = document.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [value for value in values or [] if isinstance(value, dict)]


def _value(item: dict[str, Any], tag: str) -> Any:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if values else None
