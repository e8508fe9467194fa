"""What a service needs of the association it serves: answers, requests of its own, and whether the peer cancelled.

Not here: the association itself (association), which implements this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from insitu.archive.store import Archive
from insitu.settings import Settings

from .callers import Caller
from .command import Command
from .negotiation import Agreement

SUCCESS = 0x0000
NO_SUCH_OBJECT = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
INVALID_ARGUMENT = 0x0115
SOP_CLASS_NOT_SUPPORTED = 0x0122
NO_SUCH_ACTION = 0x0123
UNRECOGNIZED_OPERATION = 0x0211
OUT_OF_RESOURCES = 0xA700
MOVE_DESTINATION_UNKNOWN = 0xA801
DOES_NOT_MATCH_SOP_CLASS = 0xA900
SUB_OPERATIONS_WITH_FAILURES = 0xB000
UNABLE_TO_PROCESS = 0xC000
CANCELLED = 0xFE00
PENDING = 0xFF00
PENDING_UNSUPPORTED_KEYS = 0xFF01

LONGEST_IDENTIFIER = 4_194_304  # bytes; 50,000 UIDs in a list


class Refusal(Exception):  # an answer, not an error of ours
    """A request is answered with this failure.

    Parameters
    ----------
    status : int
    comment : str
        For the peer, up to 64 characters; no values of it.
    offending : tuple of int
        Tags at fault.
    """

    def __init__(self, status: int, comment: str, offending: tuple[int, ...] = ()) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment
        self.offending = offending


class Later(Protocol):
    """Something to tell the peer once the association is quiet."""

    def deliver(self, dialogue: Dialogue) -> None:
        """Tell it on this association."""

    def hand_over(self) -> None:
        """The association has ended; tell it otherwise. Never raises."""


class DataSetBuffer:
    """The data set of a request on its way in; small ones only."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.too_long = False

    def write(self, piece: memoryview) -> None:
        """Take the next bytes; more than there can be are read and dropped."""
        if len(self._bytes) + len(piece) > LONGEST_IDENTIFIER:
            self.too_long = True
        else:
            self._bytes += piece

    def value(self) -> bytes:
        """All bytes.

        Raises
        ------
        Refusal
            There were too many.
        """
        if self.too_long:
            raise Refusal(OUT_OF_RESOURCES, f"A data set of more than {LONGEST_IDENTIFIER} bytes")
        return bytes(self._bytes)


@dataclass(frozen=True)
class Request:
    """A whole request: its context, the syntaxes agreed for that, the command and its data set."""

    context: int
    abstract_syntax: str
    transfer_syntax: str
    command: Command
    buffer: DataSetBuffer

    @property
    def data_set(self) -> bytes:
        """All bytes of the data set.

        Raises
        ------
        Refusal
            There were too many.
        """
        return self.buffer.value()


class Dialogue(Protocol):
    """The association, as the services see it."""

    settings: Settings
    archive: Archive

    @property
    def agreement(self) -> Agreement:
        """What was negotiated."""

    @property
    def caller(self) -> Caller:
        """The node that is calling."""

    def respond(
        self,
        request: Request,
        status: int,
        comment: str | None = None,
        *,
        offending: tuple[int, ...] = (),
        numbers: dict[int, int] | None = None,
        data_set: bytes | None = None,
    ) -> None:
        """Answer; kept back until `flush` where `status` is a pending one."""

    def flush(self) -> None:
        """Send the answers that were kept back."""

    def cancelled(self, request: Request) -> bool:
        """Whether the peer has cancelled this request; reads what has come, does not wait."""

    def ask(
        self,
        context: int,
        field: int,
        sop_class: str,
        sop_instance: str,
        data_set: Iterable[bytes],
        numbers: dict[int, int] | None = None,
    ) -> Command:
        """Send a request with a data set and wait for its response."""

    def report_later(self, report: Later) -> None:
        """Tell something when the association is quiet, or otherwise when it has ended."""
