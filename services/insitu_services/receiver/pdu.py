"""The upper layer protocol on a socket (PS3.8 9.3): PDU headers, whole small PDUs, and the fragments of P-DATA as they come.

Nothing here holds an object: a fragment is given out in pieces of one buffer. Not here: what the bytes mean.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

ASSOCIATE_RQ = 0x01
ASSOCIATE_AC = 0x02
ASSOCIATE_RJ = 0x03
P_DATA_TF = 0x04
RELEASE_RQ = 0x05
RELEASE_RP = 0x06
ABORT = 0x07

BUFFER = 262_144  # bytes read from the socket at once
LARGEST_SMALL = 1_048_576  # bytes; no A-ASSOCIATE-RQ is longer (128 contexts with every transfer syntax need 130 kB)
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

    Parameters
    ----------
    connection : socket
        Its time-out is the longest wait for the next bytes.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self.received = 0  # bytes so far

    def _fill(self) -> None:
        """Read once into the free part of the buffer; there must be some."""
        count = self._socket.recv_into(self._view[self._end :])
        if count == 0:
            raise PeerGone
        self._end += count
        self.received += count

    def take(self, count: int) -> bytes:
        """The next `count` bytes, at most the buffer's size.

        Raises
        ------
        PeerGone
            The connection ended before.
        """
        if self._start + count > BUFFER:
            kept = self._end - self._start
            self._buffer[:kept] = self._buffer[self._start : self._end]
            self._start, self._end = 0, kept
        while self._end - self._start < count:
            self._fill()
        taken = bytes(self._view[self._start : self._start + count])
        self._start += count
        return taken

    def header(self) -> tuple[int, int]:
        """Type and length in bytes of the next PDU."""
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
        """The next `length` bytes as views of the buffer, as they come; a view is good until the next is asked for."""
        left = length
        while left:
            if self._start == self._end:
                self._start = self._end = 0
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
            The lengths do not fit into one another.
        """
        left = length
        while left:
            if left < 6:
                raise ProtocolError("a presentation data value is shorter than its header", INVALID_PARAMETER)
            size, context, control = struct.unpack(">IBB", self.take(6))
            if size < 2 or size + 4 > left:
                raise ProtocolError("a presentation data value does not fit into its PDU", INVALID_PARAMETER)
            left -= size + 4
            yield context, control, size - 2


def p_data(context: int, command: bytes, largest: int) -> bytes:
    """P-DATA-TF PDUs with a command set for a peer that takes PDUs of `largest` bytes (0: any)."""
    step = max(1, (largest or 16_384) - 6)
    parts = []
    for start in range(0, len(command), step):
        piece = command[start : start + step]
        control = 0x03 if start + step >= len(command) else 0x01
        parts.append(struct.pack(">BxIIBB", P_DATA_TF, len(piece) + 6, len(piece) + 2, context, control) + piece)
    return b"".join(parts)
