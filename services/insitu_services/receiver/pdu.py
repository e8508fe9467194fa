"""The upper layer protocol on a socket (PS3.8 9.3): PDU headers, whole small PDUs, and the fragments of P-DATA as they come.

Nothing here holds an object: a fragment is given out in pieces of one buffer. Not here: what the bytes mean.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator

from .secure import SecureSocket

ASSOCIATE_RQ = 0x01
ASSOCIATE_AC = 0x02
ASSOCIATE_RJ = 0x03
P_DATA_TF = 0x04
RELEASE_RQ = 0x05
RELEASE_RP = 0x06
ABORT = 0x07

GATHERED = 131_072  # bytes that are waited for, where as many are to come, before they are handed on
BUFFER = 262_144  # bytes read from the socket at once
FIRST_BUFFER = 8_192  # bytes, until a large PDU comes: hundreds of idle associations cost little
LARGEST_SMALL = 262_144  # bytes; no A-ASSOCIATE-RQ is longer (128 contexts with every transfer syntax need 130 kB)
LEAST_PACE = 64  # bytes a second, below which a peer in the middle of something counts as silent
RELEASE_REPLY = bytes([RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0])

# Reasons of an A-ABORT by the service provider (PS3.8 9.3.8)
UNRECOGNIZED_PDU = 1
UNEXPECTED_PDU = 2
INVALID_PARAMETER = 6


class PeerGone(Exception):  # an end, not an error
    """The connection ended without a release."""


class ProtocolError(Exception):
    """The peer broke the protocol; `reason` is that of the A-ABORT it gets."""

    def __init__(self, what: str, reason: int) -> None:
        super().__init__(what)
        self.reason = reason


def abort(reason: int, *, source: int = 2) -> bytes:
    """An A-ABORT PDU; source 2 is the service provider, 0 the service user (then the reason does not count)."""
    return bytes([ABORT, 0, 0, 0, 0, 4, 0, 0, source, reason])


class Reader:
    """Reads PDUs from a socket through one buffer.

    Who is in the middle of a PDU or a message must go on at a pace of `LEAST_PACE`: else a peer that sends one byte now and
    then would hold the association for ever, as no single wait is long.

    Parameters
    ----------
    connection : socket
        Its time-out is the longest wait for the next bytes.
    patience : float, optional
        Seconds over which the pace is measured; None where it does not matter.
    """

    def __init__(self, connection: socket.socket | SecureSocket, patience: float | None = None) -> None:
        self._socket = connection
        self._patience = patience
        self._buffer = bytearray(FIRST_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._until: float | None = None  # when everything must be here, by the monotonic clock
        self._since: float | None = None  # when the pace was measured first, None while nothing is under way
        self._since_bytes = 0
        self._message_open = False
        self.received = 0  # bytes so far

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """What is read in this block must be here within some seconds, altogether; else TimeoutError is raised."""
        before = self._socket.gettimeout()
        self._until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = None
            self._socket.settimeout(before)

    def _fill(self) -> None:
        """Read once into the free part of the buffer; there must be some."""
        if self._until is not None:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
        count = self._socket.recv_into(self._view[self._end :])
        if count == 0:
            raise PeerGone
        self._end += count
        self.received += count
        if self._patience is not None:
            self._check_pace(self._patience)

    def _check_pace(self, patience: float) -> None:
        """Compare what came since the last look with the least pace."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._since_bytes = now, self.received
            return
        elapsed = now - self._since
        if elapsed > patience:
            if self.received - self._since_bytes < LEAST_PACE * elapsed:
                raise TimeoutError
            self._since, self._since_bytes = now, self.received

    def _grow(self) -> None:
        """Go over to the large buffer."""
        buffer = bytearray(BUFFER)
        kept = self._end - self._start
        buffer[:kept] = self._view[self._start : self._end]
        self._buffer, self._view = buffer, memoryview(buffer)
        self._start, self._end = 0, kept

    def ready(self, seconds: float = 0.0) -> bool:
        """Whether bytes, or the end of the connection, are here, or come within some seconds."""
        if self._start < self._end:
            return True
        pending = getattr(self._socket, "pending", None)  # TLS holds bytes that are decrypted already
        if pending is not None and pending():
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def take(self, count: int) -> bytes:
        """The next `count` bytes, at most `FIRST_BUFFER`.

        Raises
        ------
        PeerGone
            The connection ended before.
        """
        self._make_room(count)
        while self._end - self._start < count:
            self._fill()
        taken = bytes(self._view[self._start : self._start + count])
        self._start += count
        return taken

    def _make_room(self, count: int) -> None:
        """See that `count` bytes from the start fit into the buffer."""
        if self._start + count > len(self._buffer):
            kept = self._end - self._start
            self._buffer[:kept] = self._buffer[self._start : self._end]
            self._start, self._end = 0, kept

    def header(self) -> tuple[int, int]:
        """Type and length in bytes of the next PDU."""
        if not self._message_open and self._start == self._end:
            self._since = None  # nothing is under way: the peer may think as long as the time-out lets it
        kind, length = struct.unpack(">BxI", self.take(6))
        return kind, length

    def body(self, length: int) -> bytes:
        """A whole PDU body that is not P-DATA.

        Raises
        ------
        ProtocolError
            It is longer than any such PDU can be.
        """
        if length > LARGEST_SMALL:
            raise ProtocolError(f"a PDU of {length} bytes that is not P-DATA", INVALID_PARAMETER)
        return b"".join(bytes(piece) for piece in self.pieces(length))

    def pieces(self, length: int) -> Iterator[memoryview]:
        """The next `length` bytes as views of the buffer, gathered so that what is done with each costs little.

        A view is good until the next is asked for.
        """
        left = length
        if length > len(self._buffer):
            self._grow()
        while left:
            gathered = min(left, GATHERED)
            if self._start == self._end:
                self._start = self._end = 0
            self._make_room(gathered)
            while self._end - self._start < gathered:
                self._fill()
            size = min(left, self._end - self._start)
            piece = self._view[self._start : self._start + size]
            self._start += size
            left -= size
            yield piece

    def fragments(self, length: int) -> Iterator[tuple[int, int, int]]:
        """The presentation data values of a P-DATA-TF of `length` bytes: context, control header, size of the fragment.

        After each the caller reads its bytes by `pieces(size)`.

        Raises
        ------
        ProtocolError
            The lengths do not fit into one another, or there is none.
        """
        left = length
        if not length:
            raise ProtocolError("a P-DATA-TF without a presentation data value", INVALID_PARAMETER)
        while left:
            if left < 6:
                raise ProtocolError("a presentation data value is shorter than its header", INVALID_PARAMETER)
            size, context, control = struct.unpack(">IBB", self.take(6))
            if size < 2 or size + 4 > left:
                raise ProtocolError("a presentation data value does not fit into its PDU", INVALID_PARAMETER)
            left -= size + 4
            self._message_open = not control & 2
            yield context, control, size - 2


LARGEST_OURS = 131_072  # bytes of a PDU of ours, where the peer takes as much


def p_data(context: int, command: bytes, largest: int) -> bytes:
    """P-DATA-TF PDUs with a command set for a peer that takes PDUs of `largest` bytes (0: any)."""
    return b"".join(_p_data(context, *each) for each in split([command], largest, 0x01))


def data_set(context: int, chunks: Iterable[bytes], largest: int) -> Iterator[bytes]:
    """P-DATA-TF PDUs with a data set for a peer that takes PDUs of `largest` bytes (0: any), one by one."""
    return (_p_data(context, *each) for each in split(chunks, largest, 0x00))


def split(chunks: Iterable[bytes], largest: int, kind: int) -> Iterator[tuple[int, bytes | memoryview]]:
    """Fragments of a message for a peer that takes PDUs of `largest` bytes (0: any): control header and bytes.

    `kind` is 1 for a command, 0 for a data set.
    """
    step = max(1, min(largest or LARGEST_OURS, LARGEST_OURS) - 6)
    held: bytes | memoryview = b""  # the last fragment is marked as such, so one is held back until the next is known
    for chunk in chunks:
        if len(held) + len(chunk) <= step:
            held = bytes(held) + chunk if held else chunk
            continue
        view = memoryview(bytes(held) + chunk if held else chunk)
        start = 0
        while len(view) - start > step:
            yield kind, view[start : start + step]
            start += step
        held = view[start:]
    yield kind | 0x02, held


def _p_data(context: int, control: int, piece: bytes | memoryview) -> bytes:
    return struct.pack(">BxIIBB", P_DATA_TF, len(piece) + 6, len(piece) + 2, context, control) + piece
