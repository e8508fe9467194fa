"""Kinds of failure of a run, told apart (RUN-5), and the sentence a person reads. Pure decisions.

Not here: how a job is carried out and watched (insitu.runs.launch).
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum


class Failure(StrEnum):
    """Why a run failed."""

    INPUT_UNUSABLE = "input-unusable"  # the series cannot be given to the algorithm
    FETCH_FAILED = "fetch-failed"
    ENVIRONMENT_MISSING = "environment-missing"  # package or its virtual environment is not there
    NOT_ISOLATED = "not-isolated"  # refused: this machine cannot isolate it and it is not trusted
    IMAGE_NOT_FOUND = "image-not-found"
    IMAGE_NOT_ALLOWED = "image-not-allowed"  # refused: the cluster's policy does not know this image
    POD_REFUSED = "pod-refused"  # the cluster refuses the pod for another reason
    UNSCHEDULABLE = "unschedulable"  # no node has room for it
    EVICTED = "evicted"  # taken off its node, which lacked something or was emptied
    PREEMPTED = "preempted"  # taken off its node for a pod of higher priority
    NODE_LOST = "node-lost"
    ALGORITHM_FAILED = "algorithm-failed"
    OUT_OF_MEMORY = "out-of-memory"
    DEADLINE_EXCEEDED = "deadline-exceeded"
    OUTPUT_MISSING = "output-missing"
    OUTPUT_MALFORMED = "output-malformed"
    OUTPUT_GEOMETRY = "output-geometry"
    OUTPUT_TOO_LARGE = "output-too-large"
    RESULT_CHECK_FAILED = "result-check-failed"
    PUBLISH_FAILED = "publish-failed"
    RUNNER_LOST = "runner-lost"
    ENGINE_LOST = "engine-lost"
    CANCELLED = "cancelled"


# The same attempt again can end otherwise only where something outside the algorithm failed.
RETRYABLE = frozenset(
    {
        Failure.FETCH_FAILED,
        Failure.PUBLISH_FAILED,
        Failure.RUNNER_LOST,
        Failure.ENGINE_LOST,
        Failure.EVICTED,
        Failure.PREEMPTED,
        Failure.NODE_LOST,
    }
)


def can_retry(failure: str | None) -> bool:
    """Whether another attempt can help."""
    return failure in RETRYABLE


class Ended(StrEnum):
    """How the process of a step came to its end."""

    BY_ITSELF = "by-itself"
    AT_DEADLINE = "at-deadline"
    OVER_MEMORY = "over-memory"
    OVER_OUTPUT = "over-output"
    OVER_PROCESSES = "over-processes"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Verdict:
    """A failure and its sentence."""

    failure: Failure
    reason: str


def judge_algorithm(
    ended: Ended,
    exit_code: int,
    *,
    seconds: float,
    memory_bytes: int,
    output_bytes: int,
    peak_memory_bytes: int,
    log_tail: str,
) -> Verdict | None:
    """What became of the algorithm step; None where it succeeded.

    Parameters
    ----------
    ended : Ended
        Who ended it.
    exit_code : int
        Of the process; negative or above 128 where a signal ended it.
    seconds, memory_bytes, output_bytes : float, int, int
        The limits.
    peak_memory_bytes : int
        Most memory seen in use.
    log_tail : str
        End of its log.
    """
    if ended is Ended.CANCELLED:
        return Verdict(Failure.CANCELLED, "The run was cancelled while the algorithm ran")
    if ended is Ended.AT_DEADLINE:
        return Verdict(
            Failure.DEADLINE_EXCEEDED, f"The algorithm did not end within its limit of {seconds:g} s and was stopped"
        )
    if ended is Ended.OVER_MEMORY:
        return Verdict(
            Failure.OUT_OF_MEMORY,
            f"The algorithm used {megabytes(peak_memory_bytes)} of memory, its limit is {megabytes(memory_bytes)},"
            " and was stopped",
        )
    if ended is Ended.OVER_OUTPUT:
        return Verdict(
            Failure.OUTPUT_TOO_LARGE,
            f"The algorithm wrote more than its limit of {megabytes(output_bytes)} and was stopped",
        )
    if ended is Ended.OVER_PROCESSES:
        return Verdict(Failure.ALGORITHM_FAILED, "The algorithm started too many processes and was stopped")
    if exit_code == 0:
        return None
    number = signal_of(exit_code)
    if number == signal.SIGKILL and peak_memory_bytes > memory_bytes // 2:
        return Verdict(
            Failure.OUT_OF_MEMORY,
            f"The system killed the algorithm, most likely for lack of memory (it used {megabytes(peak_memory_bytes)})",
        )
    if number == signal.SIGXFSZ:
        return Verdict(
            Failure.OUTPUT_TOO_LARGE, f"The algorithm wrote a file larger than its limit of {megabytes(output_bytes)}"
        )
    how = f"ended with status {exit_code}" if number is None else f"was ended by the signal {signal_name(number)}"
    last = last_lines(log_tail)
    return Verdict(Failure.ALGORITHM_FAILED, f"The algorithm {how}" + (f"; its log ends: {last}" if last else ""))


def judge_step(
    step: str, ended: Ended, exit_code: int, report: dict[str, object] | None, log_tail: str
) -> Verdict | None:
    """What became of one of the platform's own steps, from what it reported; None where it succeeded."""
    other = Failure.FETCH_FAILED if step == "fetch" else Failure.PUBLISH_FAILED
    if ended is Ended.CANCELLED:
        return Verdict(Failure.CANCELLED, f"The run was cancelled during {step}")
    if ended is Ended.AT_DEADLINE:
        return Verdict(other, f"The step {step} did not end in time; is the platform's API answering?")
    if exit_code == 0 and report is not None and report.get("failure") is None:
        return None
    if report is not None and report.get("failure") in set(Failure):
        return Verdict(Failure(str(report["failure"])), str(report.get("reason") or f"The step {step} failed"))
    last = last_lines(log_tail)
    return Verdict(
        other, f"The step {step} ended with status {exit_code}" + (f"; its log ends: {last}" if last else "")
    )


def signal_of(exit_code: int) -> int | None:
    """The signal behind an exit code, as subprocess (negative) or a shell (above 128) tells it."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    return number if 0 < number < signal.NSIG else None


def signal_name(number: int) -> str:
    """Name of a signal, such as SIGSEGV."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def last_lines(text: str, lines: int = 3, characters: int = 400) -> str:
    """The last lines that say something, joined by ` | `, at most so many characters of their end."""
    wanted = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    return " | ".join(wanted)[-characters:]


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 2**20:.0f} MiB"
