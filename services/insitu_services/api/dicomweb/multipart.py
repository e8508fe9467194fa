"""multipart/related (RFC 2387, RFC 2046 5.1): a push parser that never holds a part, and the bytes around parts we send.

Not here: what the parts mean (stow, wado).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .negotiation import BadRequest

HEADER_LIMIT = 16_384  # bytes of one part's headers


@dataclass(frozen=True)
class PartStart:
    """A part begins; header names in lower case."""

    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PartData:
    """Bytes of the part that began last."""

    data: bytes


@dataclass(frozen=True)
class PartEnd:
    """The part is complete: its closing delimiter was seen."""


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
        self._buffer = bytearray(b"\r\n")  # so that a delimiter at the very start looks like any other
        self._state = "preamble"
        self.complete = False  # the closing delimiter was seen

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes of the body.

        Raises
        ------
        BadRequest
            The headers of a part are malformed or too long.
        """
        self._buffer += data
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
                self._buffer.clear()
                return

    def _until_delimiter(self) -> Iterator[Event]:
        found = self._buffer.find(self._delimiter)
        # what could be the start of a delimiter stays for the next call
        end = found if found >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if end and self._state == "body":
            yield PartData(bytes(memoryview(self._buffer)[:end]))
        if found < 0:
            del self._buffer[:end]
            return
        del self._buffer[: end + len(self._delimiter)]
        inside = self._state == "body"
        self._state = "delimiter"
        if inside:
            yield PartEnd()

    def _after_delimiter(self) -> bool:
        """Read the rest of a delimiter line; False while it is not all there."""
        if len(self._buffer) < 2:
            return False
        if self._buffer.startswith(b"--"):
            self.complete = True
            self._state = "epilogue"
            return True
        line_end = self._buffer.find(b"\r\n")
        if line_end < 0:
            if len(self._buffer) > HEADER_LIMIT:
                raise BadRequest("The line of a multipart delimiter does not end")
            return False
        if self._buffer[:line_end].strip():
            raise BadRequest(
                "A line of the multipart body begins with the boundary but is no delimiter",
                remedy="Choose a boundary that does not occur in the parts",
            )
        del self._buffer[:line_end]  # the line end stays, so that empty headers are found too
        self._state = "headers"
        return True

    def _headers(self) -> dict[str, str] | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > HEADER_LIMIT:
            if len(self._buffer) > HEADER_LIMIT:
                raise BadRequest("The headers of a part are longer than 16 kB", remedy="End them with an empty line")
            return None
        headers = {}
        for line in bytes(self._buffer[:end]).decode("latin-1").split("\r\n"):
            if not line:
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise BadRequest("A header of a part has no colon")
            headers[name.strip().lower()] = value.strip()
        del self._buffer[: end + 4]
        return headers


def new_boundary() -> str:
    """A boundary that does not occur in the parts."""
    return uuid.uuid4().hex


def content_type(media_type: str, boundary: str, transfer_syntax: str | None = None) -> str:
    """The Content-Type of a multipart answer."""
    text = f'multipart/related; type="{media_type}"; boundary={boundary}'
    return text + (f"; transfer-syntax={transfer_syntax}" if transfer_syntax else "")


def body(boundary: str, parts: Iterable[tuple[dict[str, str], Iterable[bytes]]]) -> Iterator[bytes]:
    """The bytes of a multipart body; parts are taken one after the other and streamed."""
    line_end = ""
    for headers, content in parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        yield f"{line_end}--{boundary}\r\n{lines}\r\n".encode("latin-1")
        line_end = "\r\n"
        yield from content
    yield f"\r\n--{boundary}--\r\n".encode("latin-1")
