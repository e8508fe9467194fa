"""How failures are told apart, as a pure decision."""

from __future__ import annotations

from typing import Any

import pytest

from insitu.runs.outcomes import Ended, Failure, can_retry, judge_algorithm, judge_step

LIMITS: dict[str, Any] = {"seconds": 60.0, "memory_bytes": 2**30, "output_bytes": 2**30}


@pytest.mark.parametrize(
    ("ended", "exit_code", "peak", "failure"),
    [
        (Ended.BY_ITSELF, 0, 0, None),
        (Ended.BY_ITSELF, 1, 0, Failure.ALGORITHM_FAILED),
        (Ended.BY_ITSELF, -11, 0, Failure.ALGORITHM_FAILED),
        (Ended.BY_ITSELF, 139, 0, Failure.ALGORITHM_FAILED),
        (Ended.BY_ITSELF, 137, 2**28, Failure.ALGORITHM_FAILED),
        (Ended.BY_ITSELF, 137, 2**30 - 1, Failure.OUT_OF_MEMORY),
        (Ended.BY_ITSELF, -9, 2**30 - 1, Failure.OUT_OF_MEMORY),
        (Ended.BY_ITSELF, 153, 0, Failure.OUTPUT_TOO_LARGE),
        (Ended.OVER_MEMORY, -9, 2**31, Failure.OUT_OF_MEMORY),
        (Ended.OVER_OUTPUT, -9, 0, Failure.OUTPUT_TOO_LARGE),
        (Ended.AT_DEADLINE, 0, 0, Failure.DEADLINE_EXCEEDED),
        (Ended.CANCELLED, -9, 0, Failure.CANCELLED),
    ],
)
def test_the_end_of_an_algorithm_is_told_apart(
    ended: Ended, exit_code: int, peak: int, failure: Failure | None
) -> None:
    verdict = judge_algorithm(ended, exit_code, peak_memory_bytes=peak, log_tail="", **LIMITS)
    assert (verdict and verdict.failure) == failure


def test_the_reason_names_signal_and_last_words() -> None:
    verdict = judge_algorithm(Ended.BY_ITSELF, 139, peak_memory_bytes=0, log_tail="one\n\ntwo\n", **LIMITS)
    assert verdict is not None
    assert verdict.reason == "The algorithm was ended by the signal SIGSEGV; its log ends: one | two"


def test_a_step_that_reports_nothing_has_failed() -> None:
    verdict = judge_step("publish", Ended.BY_ITSELF, 0, None, "")
    assert verdict is not None
    assert verdict.failure is Failure.PUBLISH_FAILED
    assert judge_step("publish", Ended.BY_ITSELF, 0, {"failure": None}, "") is None


def test_a_report_names_the_failure_of_a_step() -> None:
    report = {"failure": "output-missing", "reason": "No mask"}
    verdict = judge_step("publish", Ended.BY_ITSELF, 1, report, "")
    assert verdict is not None
    assert (verdict.failure, verdict.reason) == (Failure.OUTPUT_MISSING, "No mask")


def test_only_what_can_end_otherwise_is_retried() -> None:
    assert can_retry("runner-lost")
    assert not can_retry("algorithm-failed")
    assert not can_retry("out-of-memory")
    assert not can_retry(None)
