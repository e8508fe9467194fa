"""One check: what the standard says, where it says it, and how it is found out. And the register of all of them.

Not here: the checks themselves (checks), carrying them out (runner).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .server import Exchange
    from .visit import Visit

EDITION = "PS3.18 2024"  # the edition whose numbering the checks cite


class Level(StrEnum):
    """How strongly the standard asks for it: `shall`, `should` or `is recommended`, `may`."""

    MUST = "must"
    SHOULD = "should"
    MAY = "may"


MUST, SHOULD, MAY = Level.MUST, Level.SHOULD, Level.MAY


class Result(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"  # a "must" is broken
    WARNED = "warned"  # a "should" is not followed, or an optional service does it wrongly
    NOT_OFFERED = "not offered"  # the server says so by the status the standard has for it
    SKIPPED = "skipped"  # could not be found out


class Broken(Exception):
    """The server did something else than expected; the text says what came."""


class NotOffered(Exception):
    """The server does not have this service and says so in the way the standard provides."""


class Skipped(Exception):
    """What the check needs is not there."""


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes
    ----------
    name : str
        Group and what is looked at, for example `search.limit`.
    level : Level
    paragraph : str
        Where the standard says it, for example `10.6.3.1`; another document than PS3.18 is named.
    expects : str
        What is expected, in one sentence.
    function : callable
        Takes the visit, returns in a few words what came; raises Broken, NotOffered or Skipped.
    own : bool
        Needs the objects the suite stores.
    writes : bool
        Stores or deletes.
    """

    name: str
    level: Level
    paragraph: str
    expects: str
    function: Callable[[Visit], str]
    own: bool
    writes: bool

    @property
    def group(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]

    @property
    def citation(self) -> str:
        """The paragraph with the document it is in."""
        return self.paragraph if self.paragraph.startswith(("PS3", "RFC")) else f"PS3.18 {self.paragraph}"


@dataclass
class Outcome:
    """How a check ended against one server, what came, and the requests that were sent for it."""

    check: Check
    result: Result
    came: str
    exchanges: list[Exchange] = field(default_factory=list)
    seconds: float = 0.0


OPTIONAL = frozenset({"thumbnail", "delete"})  # groups of services a server need not have
REGISTER: dict[str, Check] = {}


def check(
    name: str, level: Level, paragraph: str, expects: str, *, own: bool = False, writes: bool = False
) -> Callable[[Callable[[Visit], str]], Callable[[Visit], str]]:
    """Register a function as a check; the parameters are those of Check."""

    def register(function: Callable[[Visit], str]) -> Callable[[Visit], str]:
        one = Check(name, level, paragraph, expects, function, own, writes)
        function.__doc__ = f"{expects} ({level}, {one.citation})."
        add(one)
        return function

    return register


def add(one: Check) -> None:
    """Register a check that was made from a table.

    Raises
    ------
    ValueError
        There is one of this name.
    """
    if one.name in REGISTER:
        raise ValueError(f"two checks are called {one.name}")
    REGISTER[one.name] = one
