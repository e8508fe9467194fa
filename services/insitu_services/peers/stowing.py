"""STOW-RS to a node: objects as they are stored, some in one request, and what the answer says of each (PS3.18 10.5).

Bodies are streamed from the blobs. Not here: the session (web) and the queue (insitu.nodes.transfers).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from insitu.archive.blobs import BlobStore
from insitu.database import Row
from insitu.nodes.registry import Node

from . import web
from .storing import Answer

CHUNK = 1 << 18
MOST_OBJECTS = 16  # of one request; what is lost with it is sent again
MOST_BYTES = 1 << 25

REFERENCED, FAILED = "00081199", "00081198"
SOP_INSTANCE, WARNING_REASON, FAILURE_REASON = "00081155", "00081196", "00081197"
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


def store(node: Node, session: httpx.Client, blobs: BlobStore, items: Sequence[Row]) -> list[Answer]:
    """Send objects in one request; what became of each.

    Parameters
    ----------
    node : Node
    session : httpx.Client
        From `web.client`.
    blobs : BlobStore
    items : sequence of dict
        The instances: `sop_instance_uid`, `transfer_syntax_uid`, `blob_key`, `size`.

    Raises
    ------
    Unavailable
        The service does not answer, or refuses us.
    NotFound
        A blob is missing.
    """
    boundary = (
        uuid.uuid4().hex
    )  # Orthanc 1.10 finds no part behind a boundary with a hyphen, and answers 200 all the same
    heads = [_head(boundary, first=number == 0) for number in range(len(items))]
    tail = f"\r\n--{boundary}--\r\n".encode()
    sizes = [_size(blobs, item) for item in items]
    length = sum(map(len, heads)) + sum(sizes) + len(tail)

    def body() -> Iterator[bytes]:
        for head, item in zip(heads, items, strict=True):
            yield head
            with blobs.open(item["blob_key"]) as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk
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
    return answers(response.status_code, _document(response), [item["sop_instance_uid"] for item in items])


def answers(status: int, document: dict[str, Any], uids: Sequence[str]) -> list[Answer]:
    """What a response says of each object, in the order of `uids`. Pure."""
    told: dict[str, Answer] = {}
    for item in _items(document, REFERENCED):
        told[str(_value(item, SOP_INSTANCE))] = Answer(int(_value(item, WARNING_REASON) or 0))
    for item in _items(document, FAILED):
        told[str(_value(item, SOP_INSTANCE))] = Answer(int(_value(item, FAILURE_REASON) or 0x0110))
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


def _size(blobs: BlobStore, item: Row) -> int:
    with blobs.open(item["blob_key"]) as stream:
        return stream.seek(0, 2)


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
