"""Which waiting executions may start now, in which order, and why the others wait (RUN-7). Pure.

Between projects: start-time fair queueing (Goyal, Vin and Cheng, 1996) over the seconds for which runs hold their place.
Every admitted execution has a turn, in seconds of use per weight; the next one of a project has its turn where that
project's use has come to, and never before the site's last turn, so nobody saves up what he did not use.
Within a project: short before long, but a run is overtaken only by those asked for soon after it.
Inference and training are two queues that share nothing, so a training takes no place of an inference run.

Not here: reading and writing the run table (admission).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

Purpose = Literal["inference", "training"]

# A run is overtaken by shorter ones of its project that were asked for at most so many seconds after it.
OVERTAKEN_SECONDS = 900.0


@dataclass(frozen=True)
class Share:
    """What a project may use: its weight beside the others', and how many inference runs at once (None: no limit of its own)."""

    weight: float = 1.0
    runs_at_once: int | None = None


@dataclass(frozen=True)
class Started:
    """An execution that was admitted: it is active, or has ended lately. Times in seconds since the epoch.

    `turn` and `expected` are what they were when it was admitted.
    """

    execution: str
    project: str
    purpose: Purpose
    turn: float
    expected: float
    admitted_at: float
    ended_at: float | None = None

    def seconds(self, at: float) -> float:
        """For how long it holds its place, as far as that was known at a time."""
        if self.ended_at is not None and self.ended_at <= at:
            return self.ended_at - self.admitted_at
        return max(self.expected, at - self.admitted_at)


@dataclass(frozen=True)
class Waiting:
    """An execution that waits. `expected` in seconds, `requested_at` in seconds since the epoch."""

    execution: str
    project: str
    purpose: Purpose
    expected: float
    requested_at: float

    @property
    def place(self) -> tuple[float, float, str]:
        """Its place in the queue of its project."""
        return self.requested_at + min(self.expected, OVERTAKEN_SECONDS), self.requested_at, self.execution


@dataclass(frozen=True)
class Situation:
    """Everything that decides: what waits, what was started, the limits of the site by purpose, the shares of projects.

    A project without a share has weight 1 and no limit of its own.
    """

    now: float
    waiting: tuple[Waiting, ...]
    started: tuple[Started, ...]
    at_once: Mapping[Purpose, int]
    shares: Mapping[str, Share] = field(default_factory=dict)

    def share(self, project: str) -> Share:
        """What a project may use."""
        return self.shares.get(project, Share())

    def active(self, purpose: Purpose, project: str | None = None) -> int:
        """How many executions hold a place now, of all projects or of one."""
        return sum(
            1
            for item in self.started
            if item.purpose == purpose and item.ended_at is None and project in (None, item.project)
        )


@dataclass(frozen=True)
class Admission:
    """An execution that may start, with its turn and the seconds it is expected to take."""

    execution: str
    project: str
    turn: float
    expected: float


@dataclass(frozen=True)
class Delay:
    """Why an execution waits: how many go before it, those of its own project among them, and whose limit is reached."""

    before: int
    before_in_project: int
    limit: Literal["site", "project", "trainings"]
    at_once: int

    @property
    def sentence(self) -> str:
        """For a person."""
        noun = "training" if self.limit == "trainings" else "run"
        own, others = self.before_in_project, self.before - self.before_in_project
        parts = [f"{own} of its project"] if own else []
        parts += [f"{others} of other projects"] if others else []
        first = f"before it go {' and '.join(parts)}" if parts else "it is the next"
        whose = "project" if self.limit == "project" else "site"
        if self.at_once == 0:
            return f"Waits: the {whose} carries out no {noun}s"
        return f"Waits: {first}; limit of the {whose}: {_count(self.at_once, noun)} at once"


def plan(situation: Situation) -> list[Admission]:
    """The executions that may start now, in their order."""
    chosen: list[Admission] = []
    for purpose, at_once in situation.at_once.items():
        free = max(0, at_once - situation.active(purpose))
        chosen += islice(_in_order(situation, purpose, limited=True), free)
    return chosen


def delays(situation: Situation) -> dict[str, Delay]:
    """Why each execution that waits does so."""
    found: dict[str, Delay] = {}
    for purpose, at_once in situation.at_once.items():
        own: dict[str, int] = {}
        for before, item in enumerate(_in_order(situation, purpose, limited=False)):
            mine = own.get(item.project, 0)
            own[item.project] = mine + 1
            most = situation.share(item.project).runs_at_once
            if purpose == "training":
                found[item.execution] = Delay(before, mine, "trainings", at_once)
            elif most is not None and situation.active(purpose, item.project) + mine >= most:
                found[item.execution] = Delay(mine, mine, "project", most)
            else:
                found[item.execution] = Delay(before, mine, "site", at_once)
    return found


def _in_order(situation: Situation, purpose: Purpose, *, limited: bool) -> Iterator[Admission]:
    """The waiting executions of a purpose in the order in which they get a place; `limited`: as far as their projects may have more."""
    queues: dict[str, list[Waiting]] = {}
    for item in situation.waiting:
        if item.purpose == purpose:
            queues.setdefault(item.project, []).append(item)
    used: dict[str, list[Started]] = {}
    for begun in situation.started:
        if begun.purpose == purpose:
            used.setdefault(begun.project, []).append(begun)
    reached = max((begun.turn for each in used.values() for begun in each), default=0.0)
    left: dict[str, int | None] = dict.fromkeys(queues)
    heap: list[tuple[float, float, str, str]] = []

    def join(project: str, turn: float) -> None:
        if queues[project] and left[project] != 0:
            first = queues[project][-1]
            heapq.heappush(heap, (max(reached, turn), first.requested_at, first.execution, project))

    for project, queue in queues.items():
        queue.sort(key=lambda item: item.place, reverse=True)
        share = situation.share(project)
        if limited and purpose == "inference" and share.runs_at_once is not None:
            left[project] = max(0, share.runs_at_once - situation.active(purpose, project))
        join(project, _position(used.get(project, []), share.weight, situation.now))
    while heap:
        reached, *_, project = heapq.heappop(heap)
        item = queues[project].pop()
        yield Admission(item.execution, project, reached, item.expected)
        allowance = left[project]
        left[project] = None if allowance is None else allowance - 1
        join(project, reached + item.expected / situation.share(project).weight)


def _position(started: list[Started], weight: float, now: float) -> float:
    """Where the use of a project has come to: its last turn and what that cost, corrected by what others took beside it.

    When the last one was admitted, those beside it counted as was expected of them then.
    """
    if not started:
        return 0.0
    last = max(started, key=lambda item: (item.turn, item.admitted_at, item.execution))
    seconds = last.seconds(now)
    for item in started:
        if item is not last:
            seconds += item.seconds(now) - item.seconds(last.admitted_at)
    return last.turn + seconds / weight


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
