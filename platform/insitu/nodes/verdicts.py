"""What the status a peer gave for an object means: done, done with a note, to be tried again, or refused for good.

Pure. Statuses are those of C-STORE (PS3.4 table B.2-1, PS3.7 annex C); STOW-RS uses the same numbers as failure reasons
(PS3.18 table I.2-2). Not here: the queue (transfers).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DUPLICATE_SOP_INSTANCE = 0x0111
TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122  # of STOW-RS


class Verdict(StrEnum):
    """What follows from a status."""

    SENT = "sent"
    WARNING = "warning"  # the peer has it, and something to say
    RETRY = "retry"  # the peer may take it later
    REFUSED = "refused"  # it would be refused again


@dataclass(frozen=True)
class Judgement:
    """A verdict with its sentence."""

    verdict: Verdict
    sentence: str


_KNOWN = {
    0x0001: (Verdict.WARNING, "stored; the peer does not support an optional attribute"),
    0x0107: (Verdict.WARNING, "stored; the peer left out attributes it does not know"),
    0x0116: (Verdict.WARNING, "stored; the peer changed a value that is out of range"),
    0xB000: (Verdict.WARNING, "stored; the peer changed some values (coercion of data elements)"),
    0xB006: (Verdict.WARNING, "stored; the peer discarded some elements"),
    0xB007: (Verdict.WARNING, "stored; the data set does not match the SOP class"),
    DUPLICATE_SOP_INSTANCE: (Verdict.WARNING, "the peer has an object with this SOP Instance UID already"),
    TRANSFER_SYNTAX_NOT_SUPPORTED: (Verdict.REFUSED, "the peer does not take this transfer syntax"),
    0x0110: (Verdict.RETRY, "processing failure"),
    0x0117: (Verdict.REFUSED, "invalid SOP Instance UID"),
    0x0118: (Verdict.REFUSED, "no such SOP class"),
    0x0122: (Verdict.REFUSED, "SOP class not supported"),
    0x0124: (Verdict.REFUSED, "not authorized"),
    0x0210: (Verdict.RETRY, "duplicate invocation"),
    0x0211: (Verdict.REFUSED, "unrecognized operation"),
    0x0212: (Verdict.REFUSED, "mistyped argument"),
    0x0213: (Verdict.RETRY, "resource limitation"),
}


def judge(status: int, comment: str = "") -> Judgement:
    """The meaning of a status.

    Parameters
    ----------
    status : int
        DIMSE status, or the Warning or Failure Reason of STOW-RS.
    comment : str, optional
        Error Comment of the peer; it may hold patient data, so only its presence is told.
    """
    verdict, words = _meaning(status)
    return Judgement(
        verdict, words + ("; it gave a comment, see its log" if comment and verdict is not Verdict.SENT else "")
    )


def _meaning(status: int) -> tuple[Verdict, str]:
    if status == 0x0000:
        return Verdict.SENT, "stored"
    if status in _KNOWN:
        return _KNOWN[status]
    high = status >> 8
    if high == 0xA7:
        return Verdict.RETRY, "out of resources"
    if high == 0xA9:
        return Verdict.REFUSED, "the data set does not match the SOP class"
    if status >> 12 == 0xB:
        return Verdict.WARNING, "stored with a warning of the peer's own"
    if status >> 12 == 0xC:
        return Verdict.REFUSED, "the peer cannot understand the object"
    return Verdict.REFUSED, "a failure that the standard does not define"


def in_words(status: int | None) -> str:
    """A status as 0xA700, or empty."""
    return "" if status is None else f"0x{status:04X}"
