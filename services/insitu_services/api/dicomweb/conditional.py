"""Requests about what the client holds already: entity tags and ranges of bytes (RFC 9110 8.8.3, 13 and 14).

Not here: the bytes themselves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from importlib.metadata import version

from fastapi import Request, Response

from insitu.database import Row
from insitu.errors import InsituError

_VERSION = version("insitu")


class OutOfRange(InsituError):
    """The range of bytes that is asked for lies outside of the value."""

    status = 416
    slug = "range"


def tag_of_object(row: Row) -> str:
    """The tag of an object as it is stored, and of its values: they are the same for ever, byte for byte."""
    return f'"{row["digest"].hex()}"'


def tag_of(rows: Iterable[Row], *form: object) -> str:
    """The weak tag of a representation made of objects: the same as long as the objects, its form and this program are.

    Parameters
    ----------
    rows : iterable of dict
        The instances, in order.
    form : object
        What else decides how it looks: media type, transfer syntaxes, the address of this server.
    """
    digest = hashlib.blake2b(repr((_VERSION, form)).encode(), digest_size=16)
    for row in rows:
        digest.update(row["digest"])
    return f'W/"{digest.hexdigest()}"'


def headers(tag: str) -> dict[str, str]:
    """The headers of an answer that has a tag; which representation it is of, Accept decides."""
    return {"ETag": tag, "Vary": "Accept"}


def unchanged(request: Request, tag: str) -> Response | None:
    """The answer 304 where the client holds this representation (If-None-Match), else None."""
    known = [text.strip().removeprefix("W/") for text in request.headers.get("if-none-match", "").split(",")]
    if tag.removeprefix("W/") not in known and "*" not in known:
        return None
    return Response(status_code=304, headers=headers(tag))


def byte_range(text: str | None, length: int) -> tuple[int, int] | None:
    """The bytes that a Range header asks for (RFC 9110 14.1.2): begin, and the one behind the last; None: all.

    What is not a single range of bytes is left aside, as the RFC allows.

    Raises
    ------
    OutOfRange
        There is no byte in it.
    """
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (text or "").replace(" ", ""))
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        begin, end = max(0, length - int(found[2])), length
    else:
        begin, end = int(found[1]), min(length, int(found[2]) + 1) if found[2] else length
        if found[2] and int(found[2]) < begin:
            return None
    if begin >= end:
        raise OutOfRange("This range holds no byte of the value", value=text, why=f"it has {length} bytes")
    return begin, end
