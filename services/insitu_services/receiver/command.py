"""Command sets of DIMSE messages (PS3.7 6.3 and annex E): always implicit VR little endian, group 0000.

Not here: what a request leads to (storage, association).
"""

from __future__ import annotations

import struct

C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
C_CANCEL_RQ = 0x0FFF
RESPONSE = 0x8000  # added to the command field of a request
NO_DATA_SET = 0x0101

AFFECTED_SOP_CLASS = 0x0002
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_RESPONDED_TO = 0x0120
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE = 0x1000

LONGEST = 65_536  # bytes of a command set
LONGEST_COMMENT = 64  # characters of an LO


class BadCommand(ValueError):
    """The command set cannot be read."""


class Command:
    """A request as received: raw values by element number of group 0000."""

    def __init__(self, elements: dict[int, bytes]) -> None:
        self._elements = elements

    def number(self, element: int) -> int | None:
        """Value of a US element; None where it is absent."""
        raw = self._elements.get(element)
        if raw is None:
            return None
        if len(raw) != 2:
            raise BadCommand(f"element (0000,{element:04x}) has {len(raw)} bytes")
        return int.from_bytes(raw, "little")

    def uid(self, element: int) -> str:
        """Value of a UI element; empty where it is absent."""
        return self._elements.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")

    @property
    def field(self) -> int:
        """The command field: which message this is.

        Raises
        ------
        BadCommand
            There is none.
        """
        value = self.number(COMMAND_FIELD)
        if value is None:
            raise BadCommand("there is no command field")
        return value

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows."""
        return self.number(DATA_SET_TYPE) not in (None, NO_DATA_SET)


def decode(data: bytes) -> Command:
    """Read a command set.

    Raises
    ------
    BadCommand
        An element does not fit, or is not of group 0000.
    """
    elements = {}
    position = 0
    while position < len(data):
        if position + 8 > len(data):
            raise BadCommand("an element is cut off")
        group, element, length = struct.unpack_from("<HHI", data, position)
        position += 8
        if group != 0:
            raise BadCommand(f"an element of group {group:04x}")
        if position + length > len(data):
            raise BadCommand(f"element (0000,{element:04x}) is cut off")
        elements[element] = data[position : position + length]
        position += length
    return Command(elements)


def respond(request: Command, status: int, *, comment: str | None = None, data_set_type: int = NO_DATA_SET) -> bytes:
    """The response to a request with a status (PS3.7 annex C), and an error comment where there is something to say."""
    elements = {
        COMMAND_FIELD: _us(request.field | RESPONSE),
        MESSAGE_ID_RESPONDED_TO: _us(request.number(MESSAGE_ID) or 0),
        DATA_SET_TYPE: _us(data_set_type),
        STATUS: _us(status),
    }
    for element in (AFFECTED_SOP_CLASS, AFFECTED_SOP_INSTANCE):
        if value := request.uid(element):
            elements[element] = _padded(value.encode("ascii", "replace"), b"\0")
    if comment:
        elements[ERROR_COMMENT] = _padded(comment.encode("ascii", "replace")[:LONGEST_COMMENT], b" ")
    body = b"".join(struct.pack("<HHI", 0, element, len(raw)) + raw for element, raw in sorted(elements.items()))
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _us(value: int) -> bytes:
    return struct.pack("<H", value)


def _padded(raw: bytes, pad: bytes) -> bytes:
    return raw + pad if len(raw) % 2 else raw
