"""Command sets of DIMSE messages (PS3.7 6.3 and annex E): always implicit VR little endian, group 0000.

Not here: what a request leads to (storage, association).
"""

from __future__ import annotations

import struct

C_STORE_RQ = 0x0001
C_GET_RQ = 0x0010
C_FIND_RQ = 0x0020
C_MOVE_RQ = 0x0021
C_ECHO_RQ = 0x0030
N_EVENT_REPORT_RQ = 0x0100
N_ACTION_RQ = 0x0130
C_CANCEL_RQ = 0x0FFF
RESPONSE = 0x8000  # added to the command field of a request
NO_DATA_SET = 0x0101

WITH_DATA_SET = 0x0001

AFFECTED_SOP_CLASS = 0x0002
REQUESTED_SOP_CLASS = 0x0003
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_RESPONDED_TO = 0x0120
MOVE_DESTINATION = 0x0600
PRIORITY = 0x0700
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
OFFENDING_ELEMENT = 0x0901
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE = 0x1000
REQUESTED_SOP_INSTANCE = 0x1001
EVENT_TYPE = 0x1002
ACTION_TYPE = 0x1008
MOVE_ORIGINATOR, MOVE_ORIGINATOR_MESSAGE_ID = 0x1030, 0x1031
REMAINING, COMPLETED, FAILED, WARNING = 0x1020, 0x1021, 0x1022, 0x1023  # numbers of sub-operations

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

    def text(self, element: int) -> str:
        """Value of an AE or LO element without its padding; empty where it is absent."""
        return self._elements.get(element, b"").decode("ascii", "replace").strip(" \0")

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
    request = Command(elements)
    for number in (COMMAND_FIELD, MESSAGE_ID, MESSAGE_ID_RESPONDED_TO, DATA_SET_TYPE, STATUS):
        request.number(number)  # what the answer needs is sound, before anything is done
    return request


def respond(
    request: Command,
    status: int,
    *,
    comment: str | None = None,
    data_set_type: int = NO_DATA_SET,
    offending: tuple[int, ...] = (),
    numbers: dict[int, int] | None = None,
) -> bytes:
    """The response to a request with a status (PS3.7 annex C).

    Parameters
    ----------
    request : Command
    status : int
    comment : str, optional
        Error comment, where there is something to say.
    data_set_type : int
        Whether a data set follows.
    offending : tuple of int
        Tags of the elements at fault.
    numbers : dict, optional
        Further US elements by their number: those of sub-operations, action and event types.
    """
    elements = {
        COMMAND_FIELD: _us(request.field | RESPONSE),
        MESSAGE_ID_RESPONDED_TO: _us(request.number(MESSAGE_ID) or 0),
        DATA_SET_TYPE: _us(data_set_type),
        STATUS: _us(status),
    }
    elements |= {element: _us(min(value, 0xFFFF)) for element, value in (numbers or {}).items()}
    for element, asked in (
        (AFFECTED_SOP_CLASS, REQUESTED_SOP_CLASS),
        (AFFECTED_SOP_INSTANCE, REQUESTED_SOP_INSTANCE),
    ):
        if value := request.uid(element) or request.uid(asked):
            elements[element] = _padded(value.encode("ascii", "replace"), b"\0")
    if comment:
        elements[ERROR_COMMENT] = _padded(comment.encode("ascii", "replace")[:LONGEST_COMMENT], b" ")
    if offending:
        elements[OFFENDING_ELEMENT] = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in offending)
    return _encoded(elements)


def ask(
    field: int,
    message_id: int,
    sop_class: str,
    sop_instance: str,
    *,
    numbers: dict[int, int] | None = None,
    texts: dict[int, str] | None = None,
) -> bytes:
    """A request of ours with a data set: C-STORE or N-EVENT-REPORT (PS3.7 9.3.1, 10.3.1).

    Parameters
    ----------
    field : int
        The command field.
    message_id : int
    sop_class, sop_instance : str
        What is affected.
    numbers, texts : dict, optional
        Further US and AE elements by their number.
    """
    elements = {
        AFFECTED_SOP_CLASS: _padded(sop_class.encode("ascii", "replace"), b"\0"),
        COMMAND_FIELD: _us(field),
        MESSAGE_ID: _us(message_id),
        DATA_SET_TYPE: _us(WITH_DATA_SET),
        AFFECTED_SOP_INSTANCE: _padded(sop_instance.encode("ascii", "replace"), b"\0"),
    }
    elements |= {element: _us(value) for element, value in (numbers or {}).items()}
    elements |= {element: _padded(value.encode("ascii", "replace"), b" ") for element, value in (texts or {}).items()}
    return _encoded(elements)


def _encoded(elements: dict[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHI", 0, element, len(raw)) + raw for element, raw in sorted(elements.items()))
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _us(value: int) -> bytes:
    return struct.pack("<H", value)


def _padded(raw: bytes, pad: bytes) -> bytes:
    return raw + pad if len(raw) % 2 else raw
