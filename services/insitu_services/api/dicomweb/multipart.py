"""multipart/related (RFC 2387, RFC 2046 5.1): a push parser that never holds a part, and the bytes around parts we send.

Not here: what the parts mean (stow, wado).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .negotiation import BadRequest

LINE_END = "\r\n"
HEADER_LIMIT = 16_384  # bytes of one part's headers


@dataclass(frozen=True)
class PartStart:
    """A part begins; header names in lower case."""

    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PartData:
    """Bytes of the part that began last; good until the parser is fed again."""

    data: memoryview


@dataclass(frozen=True)
class PartEnd:
    """The part is complete: its closing delimiter was seen."""


Part = tuple[dict[str, str], Iterable[bytes]]  # headers and content
Event = PartStart | PartData | PartEnd


class Parser:
    """Turns the bytes of a multipart body, in pieces of any size, into events. Keeps less than a delimiter and one part's headers.

    Parameters
    ----------
    boundary : str
        The boundary parameter of the Content-Type, without quotes.
    """

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("utf-8")
        self._data = b"\r\n"  # so that a delimiter at the very start looks like any other
        self._at = 0  # how far it has been read
        self._state = "preamble"
        self.complete = False  # the closing delimiter was seen

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes of the body. They are copied once, however many parts they hold.

        Raises
        ------
        BadRequest
            The headers of a part are malformed or too long.
        """
        self._data = self._data[self._at :] + data
        self._at = 0
        while True:
            if self._state in ("preamble", "body"):
                yield from self._until_delimiter()
                if self._state != "delimiter":
                    return
            if self._state == "delimiter" and not self._after_delimiter():
                return
            if self._state == "headers":
                headers = self._headers()
                if headers is None:
                    return
                self._state = "body"
                yield PartStart(headers)
            if self._state == "epilogue":
                self._at = len(self._data)
                return

    def _until_delimiter(self) -> Iterator[Event]:
        found = self._data.find(self._delimiter, self._at)
        # what could be the start of a delimiter stays for the next call
        end = found if found >= 0 else max(self._at, len(self._data) - len(self._delimiter) + 1)
        if end > self._at and self._state == "body":
            yield PartData(memoryview(self._data)[self._at : end])
        self._at = end
        if found < 0:
            return
        self._at += len(self._delimiter)
        inside = self._state == "body"
        self._state = "delimiter"
        if inside:
            yield PartEnd()

    def _after_delimiter(self) -> bool:
        """Read the rest of a delimiter line; False while it is not all there."""
        left = len(self._data) - self._at
        if left < 2:
            return False
        if self._data.startswith(b"--", self._at):
            self.complete = True
            self._state = "epilogue"
            return True
        line_end = self._data.find(b"\r\n", self._at, self._at + HEADER_LIMIT)
        if line_end < 0:
            if left > HEADER_LIMIT:
                raise BadRequest("The line of a multipart delimiter does not end")
            return False
        if self._data[self._at : line_end].strip():
            raise BadRequest(
                "A line of the multipart body begins with the boundary but is no delimiter",
                remedy="Choose a boundary that does not occur in the parts",
            )
        self._at = line_end  # the line end stays, so that empty headers are found too
        self._state = "headers"
        return True

    def _headers(self) -> dict[str, str] | None:
        end = self._data.find(b"\r\n\r\n", self._at, self._at + HEADER_LIMIT)
        if end < 0:
            if len(self._data) - self._at > HEADER_LIMIT:
                raise BadRequest("The headers of a part are longer than 16 kB", remedy="End them with an empty line")
            return None
        headers = {}
        for line in self._data[self._at : end].decode("latin-1").split("\r\n"):
            if not line:
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise BadRequest("A header of a part has no colon")
            headers[name.strip().lower()] = value.strip()
        self._at = end + 4
        return headers


def new_boundary() -> str:
    """A boundary that does not occur in the parts."""
    return uuid.uuid4().hex


def content_type(media_type: str, boundary: str, transfer_syntax: str | None = None) -> str:
    """The Content-Type of a multipart answer."""
    text = f'multipart/related; type="{media_type}"; boundary={boundary}'
    return text + (f"; transfer-syntax={transfer_syntax}" if transfer_syntax else "")


def part_head(boundary: str, headers: Mapping[str, str], *, first: bool) -> bytes:
    """The bytes in front of a part's content."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{'' if first else LINE_END}--{boundary}\r\n{lines}\r\n".encode("latin-1")


def end(boundary: str) -> bytes:
    """The bytes behind the last part."""
    return f"{LINE_END}--{boundary}--\r\n".encode("latin-1")


def part(media_type: str, url: str, content: bytes) -> Part:
    """A part that is held as a whole."""
    return {"Content-Type": media_type, "Content-Location": url, "Content-Length": str(len(content))}, [content]


def body(boundary: str, parts: Iterable[Part]) -> Iterator[bytes]:
    """The bytes of a multipart body; parts are taken one after the other and streamed."""
    first = True
    for headers, content in parts:
        yield part_head(boundary, headers, first=first)
        first = False
        yield from content
    yield end(boundary)


def gathered(pieces: Iterable[bytes], size: int = 1 << 21) -> Iterator[bytes]:
    """The same bytes in larger pieces, since each of them costs the server a change of threads; the first one comes soon."""
    held: list[bytes] = []
    length, wanted = 0, 1 << 16
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length >= wanted:
            yield b"".join(held) if len(held) > 1 else piece
            held, length, wanted = [], 0, size
    if held:
        yield b"".join(held)
