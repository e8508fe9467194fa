"""The C-STORE sub-operations of a C-GET or C-MOVE: how many are left, done and failed, and what the responses say (PS3.4 C.4.2, C.4.3).

Not here: sending an object (outgoing, retrieve, destination).
"""

from __future__ import annotations

from enum import StrEnum

from . import answers, command
from .dialogue import CANCELLED, PENDING, SUB_OPERATIONS_WITH_FAILURES, SUCCESS, Dialogue, Request

UNABLE_TO_PERFORM = 0xA702
FAILED_SOP_INSTANCES = "00080058"
MOST_FAILED_UIDS = 10_000  # that are listed


class Outcome(StrEnum):
    """How a sub-operation ended."""

    COMPLETED = "completed"
    WARNING = "warning"
    FAILED = "failed"


def outcome_of(status: int | None) -> Outcome:
    """What the status of a C-STORE response means (PS3.7 annex C); None: there was no response."""
    if status == SUCCESS:
        return Outcome.COMPLETED
    if status is not None and (status & 0xF000 == 0xB000 or status in (0x0001, 0x0107, 0x0116)):
        return Outcome.WARNING
    return Outcome.FAILED


class Suboperations:
    """The count.

    Parameters
    ----------
    total : int
        Number of objects to send.
    """

    def __init__(self, total: int) -> None:
        self.remaining = total
        self.counts = dict.fromkeys(Outcome, 0)
        self.failed: list[str] = []

    def note(self, sop_instance: str, outcome: Outcome) -> None:
        """One more has ended."""
        self.remaining -= 1
        self.counts[outcome] += 1
        if outcome is Outcome.FAILED and sop_instance and len(self.failed) < MOST_FAILED_UIDS:
            self.failed.append(sop_instance)

    def numbers(self, *, remaining: bool) -> dict[int, int]:
        """The counts as elements of a response; how many remain stands in pending and cancelled ones only."""
        numbers = {
            command.COMPLETED: self.counts[Outcome.COMPLETED],
            command.FAILED: self.counts[Outcome.FAILED],
            command.WARNING: self.counts[Outcome.WARNING],
        }
        return ({command.REMAINING: self.remaining} | numbers) if remaining else numbers

    @property
    def status(self) -> int:
        """Status of the final response."""
        if self.counts[Outcome.FAILED] and not (self.counts[Outcome.COMPLETED] or self.counts[Outcome.WARNING]):
            return UNABLE_TO_PERFORM
        if self.counts[Outcome.FAILED] or self.counts[Outcome.WARNING]:
            return SUB_OPERATIONS_WITH_FAILURES
        return SUCCESS

    def tell(self, dialogue: Dialogue, request: Request) -> None:
        """Send a pending response with the counts."""
        dialogue.respond(request, PENDING, numbers=self.numbers(remaining=True))
        dialogue.flush()

    def conclude(self, dialogue: Dialogue, request: Request, *, cancelled: bool, comment: str | None = None) -> None:
        """Send the final response, with the UIDs of what failed."""
        status = CANCELLED if cancelled else self.status
        data_set = None
        if status != SUCCESS and self.failed:
            data_set = answers.uid_list(FAILED_SOP_INSTANCES, self.failed, request.transfer_syntax)
        dialogue.respond(request, status, comment, numbers=self.numbers(remaining=cancelled), data_set=data_set)
