"""Skips are said plainly, and under CI=true one that is not on the list fails the run.

The list is tests/allowed_skips.txt: a regular expression and, after ` # `, why this may be skipped.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("allowed_skips.txt")


class SkipReport:
    """Collects the reasons of skipped tests."""

    def __init__(self) -> None:
        self.reasons: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the reason of a skipped test."""
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the session for a skip that nobody allowed, where CI=true."""
        if os.environ.get("CI") == "true" and self.unlisted() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was skipped and why."""
        for reason, count in sorted(self.reasons.items()):
            terminalreporter.write_line(f"skipped {count}: {reason}")
        if os.environ.get("CI") == "true":
            for reason in self.unlisted():
                terminalreporter.write_line(f"ERROR: not on the list of allowed skips: {reason}", red=True)

    def unlisted(self) -> list[str]:
        """Reasons that no line of the list allows."""
        lines = [line.split(" # ")[0].strip() for line in LIST.read_text().splitlines()]
        patterns = [line for line in lines if line and not line.startswith("#")]
        return [reason for reason in self.reasons if not any(re.search(pattern, reason) for pattern in patterns)]
