"""Sending files to the client by the kernel (sendfile), without their bytes passing through Python: an extension of the ASGI server.

A response whose body is made of segments, some of them parts of files, is written to the socket by one thread, while the event
loop serves others; where the server cannot (TLS, another server, too many at once) the same segments are streamed the usual way.
Not here: which segments (dicomweb).
"""

from __future__ import annotations

import functools
import io
import logging
import os
import select
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from anyio import to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .head import ONLY_HEAD, Streamed

logger = logging.getLogger(__name__)

EXTENSION = "insitu.segments"
AT_ONCE = 16  # responses that have a thread of their own
PEER_SECONDS = 60.0  # a client that takes nothing for so long is gone
STEP = 1 << 20  # bytes read at once where the kernel cannot send
SENDFILE_STEP = 1 << 24


@dataclass(frozen=True)
class FilePart:
    """`count` bytes from `offset` of what `open` opens; opened when its turn comes, so that few files are open at once."""

    open: Callable[[], Any]
    offset: int
    count: int


Segment = bytes | FilePart
_free = threading.BoundedSemaphore(AT_ONCE)


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with the extension offered to the application."""

    def on_headers_complete(self) -> None:
        """Offer the extension to the request that begins."""
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        super().on_headers_complete()
        cycle = self.cycle
        if self.scheme == "http" and cycle is not None and cycle.scope is scope:
            extensions: dict[str, Any] = scope.setdefault("extensions", {})
            extensions[EXTENSION] = functools.partial(_send, cycle)


class SegmentResponse(Response):
    """A response made of segments whose total length is known.

    Parameters
    ----------
    segments : iterable of bytes or FilePart
        Taken in order, in a thread.
    length : int
        Bytes of all of them.
    media_type : str
    headers : dict of str
    """

    def __init__(
        self, segments: Iterable[Segment], length: int, *, media_type: str, headers: dict[str, str] | None = None
    ) -> None:
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        self.init_headers((headers or {}) | {"Content-Length": str(length)})
        self._segments = segments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, by the kernel where that is possible."""
        extension: Callable[[Iterable[Segment]], Awaitable[None]] | None = (scope.get("extensions") or {}).get(
            EXTENSION
        )
        if extension is None or ONLY_HEAD in scope or not _free.acquire(blocking=False):
            streamed = Streamed(streamed_bytes(self._segments))
            streamed.raw_headers = self.raw_headers
            await streamed(scope, receive, send)
            return
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await extension(self._segments)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            _free.release()


def streamed_bytes(segments: Iterable[Segment], size: int = 1 << 21) -> Iterator[bytes]:
    """The bytes of segments in pieces of about `size`; the first one comes soon."""
    held: list[bytes] = []
    length, wanted = 0, 1 << 16
    for piece in _pieces(segments):
        held.append(piece)
        length += len(piece)
        if length >= wanted:
            yield b"".join(held) if len(held) > 1 else piece
            held, length, wanted = [], 0, size
    if held:
        yield b"".join(held)


def _pieces(segments: Iterable[Segment]) -> Iterator[bytes]:
    for segment in segments:
        if isinstance(segment, bytes):
            yield segment
            continue
        with segment.open() as stream:
            yield from _pieces_of(stream, segment)


def _pieces_of(stream: BinaryIO, part: FilePart) -> Iterator[bytes]:
    stream.seek(part.offset)
    left = part.count
    while left:
        piece = stream.read(min(STEP, left))
        if not piece:
            raise EOFError("a blob is shorter than the index says")
        left -= len(piece)
        yield piece


def _descriptor(stream: BinaryIO) -> int | None:
    """The descriptor of a file; None for what is fetched from an object store."""
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None


async def _send(cycle: RequestResponseCycle, segments: Iterable[Segment]) -> None:
    """Write segments to the client of `cycle`, after everything that was written before.

    Raises
    ------
    OSError
        The client is gone, or takes nothing any more.
    """
    transport = cycle.transport
    transport.set_write_buffer_limits(high=0)  # so that "below the limit" means "all is sent"
    try:
        await cycle.flow.drain()
        if cycle.disconnected:
            return
        connection = transport.get_extra_info("socket")
        with socket.socket(fileno=os.dup(connection.fileno())) as own:
            sent = await to_thread.run_sync(_write, own, segments)
    except OSError as error:
        logger.info("a client left while an answer was sent: %s", error.strerror)
        cycle.disconnected = True
        transport.abort()
        return
    finally:
        if not transport.is_closing():
            transport.set_write_buffer_limits()
    cycle.expected_content_length -= sent


def _write(own: socket.socket, segments: Iterable[Segment]) -> int:
    poll = select.poll()
    poll.register(own, select.POLLOUT)
    sent = 0
    held = b""
    for segment in segments:
        if isinstance(segment, bytes):
            held += segment
            continue
        with segment.open() as stream:
            # What is small goes out together with what follows at once; what nothing follows must not wait in the kernel.
            sent += _write_bytes(own, poll, held, socket.MSG_MORE)
            held = b""
            descriptor = _descriptor(stream)
            if descriptor is None:
                sent += sum(_write_bytes(own, poll, piece, 0) for piece in _pieces_of(stream, segment))
                continue
            at, end = segment.offset, segment.offset + segment.count
            while at < end:
                try:
                    count = os.sendfile(own.fileno(), descriptor, at, min(SENDFILE_STEP, end - at))
                except BlockingIOError:
                    _wait(poll)
                    continue
                if count == 0:
                    raise EOFError("a blob is shorter than the index says")
                at += count
            sent += segment.count
    return sent + _write_bytes(own, poll, held, 0)


def _write_bytes(own: socket.socket, poll: select.poll, data: bytes, flags: int) -> int:
    view = memoryview(data)
    while view:
        try:
            view = view[own.send(view, flags) :]
        except BlockingIOError:
            _wait(poll)
    return len(data)


def _wait(poll: select.poll) -> None:
    if not poll.poll(PEER_SECONDS * 1000):
        raise TimeoutError(None, "it took nothing for a minute")
