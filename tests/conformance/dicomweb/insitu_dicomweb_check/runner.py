"""Carrying out the checks: each on its own, so that a server that breaks one is still asked the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from . import objects
from .check import Broken, Check, Level, NotOffered, Outcome, Result, Skipped
from .server import Server
from .visit import Visit


class Unreachable(Exception):
    """The server could not be asked at all."""


@dataclass
class Report:
    """A finished run.

    Attributes
    ----------
    url : str
    name : str
        What the server calls itself.
    started : datetime
    outcomes : list of Outcome
    left : list of str
        Study Instance UIDs of test objects that are still on the server.
    """

    url: str
    name: str
    started: datetime
    outcomes: list[Outcome] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def of(self, result: Result) -> list[Outcome]:
        """The outcomes with a result."""
        return [outcome for outcome in self.outcomes if outcome.result == result]

    @property
    def conforms(self) -> bool:
        """Whether no "must" is broken."""
        return not self.of(Result.FAILED)


def run(
    server: Server,
    checks: Iterable[Check],
    *,
    read_only: bool = False,
    keep: bool = False,
    settle: Callable[[], None] = lambda: None,
    progress: Callable[[Outcome], None] = lambda _: None,
) -> Report:
    """Ask a server everything.

    Parameters
    ----------
    server : Server
    checks : iterable of Check
    read_only : bool
        Neither store nor delete.
    keep : bool
        Leave the test objects on the server.
    settle : callable
        Called when the test objects are stored, before anything is asked about them: for servers that index later.
    progress : callable
        Told of each outcome.

    Raises
    ------
    Unreachable
        There is no answer, or it wants credentials.
    """
    report = Report(server.url, _greet(server), datetime.now(UTC))
    visit = Visit(server, objects.make(), read_only=read_only)
    try:
        visit.prepare()
        settle()
    except httpx.HTTPError as error:
        raise Unreachable(f"storing the test objects broke off: {_words(error)}") from error
    for check in checks:
        outcome = _carry_out(check, visit)
        report.outcomes.append(outcome)
        progress(outcome)
    if not keep and not read_only:
        report.left = _leave(visit)
    elif keep:
        report.left = list(dict.fromkeys([*visit.samples.studies, *visit.extra]))
    return report


def _greet(server: Server) -> str:
    try:
        response = server.get("/studies", query=[("limit", "1")])
    except httpx.HTTPError as error:
        raise Unreachable(_words(error)) from error
    if response.status_code in (401, 403):
        raise Unreachable(f"it answers {response.status_code}: give credentials with --token, --user or --header")
    return str(response.headers.get("server", "no name"))


def _leave(visit: Visit) -> list[str]:
    try:
        return visit.leave()
    except httpx.HTTPError:
        return list(dict.fromkeys([*visit.samples.studies, *visit.extra]))


def _carry_out(check: Check, visit: Visit) -> Outcome:
    visit.server.exchanges.clear()
    started = time.monotonic()
    broken = Result.FAILED if check.level == Level.MUST else Result.WARNED
    try:
        if check.writes and visit.read_only:
            raise Skipped("nothing is stored or deleted in a read-only visit")
        if check.own:
            visit.own()
        result, came = Result.PASSED, check.function(visit)
    except Broken as error:
        result, came = broken, str(error)
    except NotOffered as error:
        result, came = Result.NOT_OFFERED, str(error)
    except Skipped as error:
        result, came = Result.SKIPPED, str(error)
    except httpx.HTTPError as error:
        result, came = broken, f"no answer: {_words(error)}"
    except Exception as error:  # noqa: BLE001 - an answer of an unforeseen shape is the server's mistake, not the end of the run
        result, came = broken, f"an answer that cannot be read ({type(error).__name__}: {str(error)[:100]})"
    came = came.encode("utf-8", "replace").decode()  # an answer may hold half a surrogate pair
    return Outcome(check, result, came, list(visit.server.exchanges), time.monotonic() - started)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
