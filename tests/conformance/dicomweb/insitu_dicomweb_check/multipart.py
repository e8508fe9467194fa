"""multipart/related bodies (RFC 2387, RFC 2046 5.1, PS3.18 8.6.1.2): taken apart with what is wrong about them, and put together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message

import httpx

from .check import Broken

LEGAL_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")


@dataclass(frozen=True)
class Part:
    """One part: headers with names in lower case, and its bytes."""

    headers: dict[str, str]
    content: bytes

    @property
    def media_type(self) -> str:
        """Media type without parameters."""
        return media_type(self.headers.get("content-type", ""))[0]


@dataclass(frozen=True)
class Body:
    """A multipart body. `closed`: it ends with the closing delimiter."""

    type: str | None
    boundary: str
    parts: list[Part] = field(default_factory=list)
    closed: bool = False


def media_type(text: str) -> tuple[str, dict[str, str]]:
    """Name and parameters of a media type, both in lower case except the values."""
    message = Message()
    message["Content-Type"] = text
    parameters = message.get_params(header="Content-Type") or [("", "")]
    name = parameters[0][0].strip().lower()
    return name, {key.lower(): value for key, value in parameters[1:]}


def take_apart(response: httpx.Response) -> Body:
    """The parts of an answer.

    Raises
    ------
    Broken
        It is not multipart/related, names no boundary, or the boundary is not in it.
    """
    content_type = response.headers.get("content-type", "")
    name, parameters = media_type(content_type)
    if name != "multipart/related":
        raise Broken(f"{response.status_code} with Content-Type {content_type or 'absent'}, not multipart/related")
    boundary = parameters.get("boundary")
    if not boundary:
        raise Broken(f"no boundary in {content_type}")
    delimiter = b"--" + boundary.encode("utf-8")
    data = b"\r\n" + response.content
    pieces = data.split(b"\r\n" + delimiter)
    if len(pieces) < 2:
        raise Broken("the boundary of the header does not occur in the body")
    parts, closed = [], False
    for piece in pieces[1:]:
        if piece.startswith(b"--"):
            closed = True
            break
        head, found, content = piece.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not found:
            raise Broken("the headers of a part do not end with an empty line")
        headers = {}
        for line in head.decode("latin-1").split("\r\n"):
            key, _, value = line.partition(":")
            headers[key.strip().lower()] = value.strip()
        parts.append(Part(headers, content))
    return Body(parameters.get("type"), boundary, parts, closed)


def put_together(
    parts: Iterable[bytes], boundary: str = "conformance", headers: Mapping[str, str] | None = None
) -> bytes:
    """A body of application/dicom parts; `headers` are added to each part's Content-Type."""
    body = b""
    for part in parts:
        lines = {"Content-Type": "application/dicom"} | dict(headers or {})
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        body += f"--{boundary}\r\n{head}\r\n".encode() + part + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def content_type(boundary: str = "conformance", kind: str | None = "application/dicom", *, quoted: bool = False) -> str:
    """The Content-Type of a body that is sent; `kind` None leaves the type parameter out."""
    text = "multipart/related" + (f'; type="{kind}"' if kind else "")
    return text + (f'; boundary="{boundary}"' if quoted else f"; boundary={boundary}")
