"""The order in which runs start: fair between projects, short before long, nobody for ever behind others, trainings apart."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from insitu.runs.admission_plan import (
    OVERTAKEN_SECONDS,
    Purpose,
    Share,
    Situation,
    Started,
    Waiting,
    delays,
    plan,
)

PROJECTS = ("alpha", "beta", "gamma")
WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # one example takes a second: its seed says enough
# How far a share may be off after some 400 runs, by what is known of their length: everything, the median, or up to ten times wrong.
TOLERANCE = {"right": 0.05, "median": 0.08, "wild": 0.15}
SITE: dict[Purpose, int] = {"inference": 2, "training": 1}


def waiting(execution: str, project: str = "alpha", *, expected: float = 10.0, at: float = 0.0, **more: str) -> Waiting:
    """An inference run that waits."""
    return Waiting(execution, project, more.get("purpose", "inference"), expected, at)  # type: ignore[arg-type]


def started(
    execution: str, project: str = "alpha", *, turn: float = 0.0, expected: float = 10.0, **more: object
) -> Started:
    """An inference run that runs since 0."""
    return Started(execution, project, more.pop("purpose", "inference"), turn, expected, 0.0, **more)  # type: ignore[arg-type]


def order(*items: Waiting, at_once: int = 100, begun: tuple[Started, ...] = (), **shares: Share) -> list[str]:
    """What starts now, in its order."""
    return [
        chosen.execution
        for chosen in plan(Situation(1000.0, items, begun, {"inference": at_once, "training": 1}, shares))
    ]


purposes = st.sampled_from(["inference", "training"])
seconds = st.floats(0.0, 5000.0)
queued = st.builds(
    Waiting, st.text("abcdef", min_size=6, max_size=6), st.sampled_from(PROJECTS), purposes, seconds, seconds
)
begun = st.builds(
    Started,
    st.text("xyz", min_size=6, max_size=6),
    st.sampled_from(PROJECTS),
    purposes,
    seconds,
    seconds,
    seconds,
    st.none(),
)
situations = st.builds(
    Situation,
    st.floats(5000.0, 10_000.0),
    st.lists(queued, max_size=25, unique_by=lambda item: item.execution).map(tuple),
    st.lists(begun, max_size=6, unique_by=lambda item: item.execution).map(tuple),
    st.fixed_dictionaries({"inference": st.integers(1, 8), "training": st.integers(0, 3)}),
    st.dictionaries(st.sampled_from(PROJECTS), st.builds(Share, st.floats(0.1, 10.0), st.none() | st.integers(1, 3))),
)


@given(situations)
def test_no_limit_is_exceeded_and_no_place_stays_empty_that_somebody_may_have(situation: Situation) -> None:
    chosen = {item.execution for item in plan(situation)}
    assert len(chosen) == len(plan(situation))
    for purpose, at_once in situation.at_once.items():
        mine = [item for item in situation.waiting if item.purpose == purpose]
        admitted = [item for item in mine if item.execution in chosen]
        free = max(0, at_once - situation.active(purpose))
        assert len(admitted) <= free
        allowed = 0
        for project in PROJECTS:
            most = situation.share(project).runs_at_once if purpose == "inference" else None
            queue = sum(1 for item in mine if item.project == project)
            may = queue if most is None else min(queue, max(0, most - situation.active(purpose, project)))
            assert sum(1 for item in admitted if item.project == project) <= may
            allowed += may
        assert len(admitted) == min(free, allowed)


@given(situations)
def test_trainings_change_nothing_for_inference(situation: Situation) -> None:
    without = replace(
        situation,
        waiting=tuple(item for item in situation.waiting if item.purpose == "inference"),
        started=tuple(item for item in situation.started if item.purpose == "inference"),
    )
    names = {item.execution for item in without.waiting}
    assert [item for item in plan(situation) if item.execution in names] == plan(without)


@given(situations)
def test_turns_only_go_up_so_that_the_last_one_of_a_project_can_be_told(situation: Situation) -> None:
    for purpose in situation.at_once:
        names = {item.execution for item in situation.waiting if item.purpose == purpose}
        turns = [item.turn for item in plan(situation) if item.execution in names]
        before = max((item.turn for item in situation.started if item.purpose == purpose), default=0.0)
        assert turns == sorted(turns)
        assert all(turn >= before for turn in turns)


@given(situations)
def test_everything_that_waits_can_say_why(situation: Situation) -> None:
    found = delays(situation)
    assert set(found) == {item.execution for item in situation.waiting}
    assert all(each.before >= each.before_in_project >= 0 and each.sentence for each in found.values())


def test_projects_take_turns_although_one_asked_first() -> None:
    many = [waiting(f"a{number}", at=number) for number in range(4)]
    others = [waiting(f"b{number}", "beta", at=100 + number) for number in range(4)]
    assert order(*many, *others) == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]


def test_a_project_that_used_the_empty_site_is_not_punished_when_another_comes() -> None:
    old = tuple(started(f"o{number}", turn=10.0 * number, ended_at=10.0) for number in range(50))
    both = [waiting(f"{name[0]}{number}", name, at=number) for name in ("alpha", "beta") for number in range(3)]
    assert order(*both, begun=old)[:4] in (["a0", "b0", "a1", "b1"], ["b0", "a0", "b1", "a1"])


def test_short_goes_before_long_of_the_same_project_and_equal_ones_as_they_came() -> None:
    assert order(
        waiting("long", expected=300), waiting("short", expected=5, at=200), waiting("next", expected=5, at=201)
    ) == [
        "short",
        "next",
        "long",
    ]
    assert order(waiting("b", at=1), waiting("a", at=2), waiting("c", at=1)) == ["b", "c", "a"]


def test_a_long_run_is_overtaken_only_by_those_asked_for_soon_after_it() -> None:
    long = waiting("long", expected=100_000)
    assert order(long, waiting("soon", expected=1, at=OVERTAKEN_SECONDS - 2)) == ["soon", "long"]
    assert order(long, waiting("later", expected=1, at=OVERTAKEN_SECONDS)) == ["long", "later"]


def test_a_run_that_takes_longer_than_expected_is_paid_for_while_it_runs() -> None:
    both = (waiting("a", "alpha", at=0), waiting("b", "beta", at=1))
    at_first = (started("x", "alpha", turn=0, expected=5), started("y", "beta", turn=0, expected=8))
    situation = Situation(6.0, both, at_first, {"inference": 3, "training": 0})
    assert [item.execution for item in plan(situation)] == ["a"]
    later = replace(situation, now=60.0, started=(at_first[0], replace(at_first[1], ended_at=8.0)))
    assert plan(later)[0].execution == "b"


def test_what_was_expected_wrongly_is_given_back() -> None:
    ended = tuple(started(f"x{number}", turn=600.0 * number, expected=600, ended_at=5.0) for number in range(3))
    other = (started("y", "beta", turn=1200.0, expected=50, ended_at=50.0),)
    both = (waiting("a", "alpha", at=1), waiting("b", "beta", at=0))
    assert order(*both, begun=ended + other) == ["a", "b"]


def test_the_limit_of_a_project_leaves_its_places_to_others() -> None:
    items = [waiting(f"a{number}", at=number) for number in range(3)] + [waiting("b", "beta", at=9)]
    assert order(*items, at_once=4, alpha=Share(runs_at_once=2)) == ["a0", "b", "a1"]
    assert order(*items, at_once=4, begun=(started("x"), started("y")), alpha=Share(runs_at_once=2)) == ["b"]


def test_a_training_needs_no_place_of_a_project() -> None:
    items = (waiting("training", purpose="training"), waiting("clinical"))
    running = (started("x", purpose="training"),)
    assert set(order(*items, at_once=1, alpha=Share(runs_at_once=1))) == {"training", "clinical"}
    assert order(*items, at_once=1, begun=running, alpha=Share(runs_at_once=1)) == ["clinical"]


@pytest.mark.parametrize(
    ("execution", "sentence"),
    [
        ("a2", "Waits: before it go 2 of its project and 2 of other projects; limit of the site: 2 runs at once"),
        ("a0", "Waits: it is the next; limit of the site: 2 runs at once"),
        ("b1", "Waits: before it go 1 of its project; limit of the project: 1 run at once"),
        ("t", "Waits: it is the next; limit of the site: 1 training at once"),
    ],
)
def test_a_person_is_told_what_a_run_waits_for(execution: str, sentence: str) -> None:
    items = [waiting(f"{name[0]}{number}", name, at=number) for name in ("alpha", "beta") for number in range(3)]
    situation = Situation(
        1.0, (*items, waiting("t", purpose="training")), (started("x", "gamma"), started("y", "gamma")), SITE,
        {"beta": Share(runs_at_once=1)},
    )  # fmt: skip
    assert delays(situation)[execution].sentence == sentence


@dataclass
class World:
    """A site over time: every run that ends makes room, as the run table would tell it."""

    shares: dict[str, Share]
    at_once: int
    seed: int
    now: float = 0.0
    waiting: list[Waiting] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=dict)
    real: dict[str, float] = field(default_factory=dict)
    admitted: dict[str, float] = field(default_factory=dict)

    def ask(self, project: str, name: str, expected: float, real: float) -> None:
        """Ask for a run."""
        self.waiting.append(Waiting(name, project, "inference", expected, self.now))
        self.real[name] = real

    def step(self) -> None:
        """Admit what may start, then go on to the next end."""
        limits: dict[Purpose, int] = {"inference": self.at_once, "training": 0}
        situation = Situation(self.now, tuple(self.waiting), tuple(self.started), limits, self.shares)
        for chosen in plan(situation):
            self.waiting = [item for item in self.waiting if item.execution != chosen.execution]
            self.started.append(
                Started(chosen.execution, chosen.project, "inference", chosen.turn, chosen.expected, self.now)
            )
            self.ends[chosen.execution] = self.now + self.real[chosen.execution]
            self.admitted[chosen.execution] = self.now
        if self.ends:
            first = min(self.ends, key=lambda name: self.ends[name])
            self.now = self.ends.pop(first)
            self.started = [
                replace(item, ended_at=self.now) if item.execution == first else item for item in self.started
            ]
        last = {item.project: item for item in sorted(self.started, key=lambda item: item.turn)}
        self.started = [  # the others say nothing any more
            item
            for item in self.started
            if item.ended_at is None or item is last[item.project] or item.ended_at > last[item.project].admitted_at
        ]

    def median(self, project: str) -> float:
        """Of its runs that have ended, as the platform guesses; the manifest's limit before the first."""
        ended = [self.real[name] for name in self.admitted if name.split("-")[0] == project and name not in self.ends]
        return statistics.median(ended[-20:]) if ended else 600.0

    def used(self, project: str) -> float:
        """Seconds of places the project had."""
        return sum(
            self.real[name] if name not in self.ends else self.now - since
            for name, since in self.admitted.items()
            if name.split("-")[0] == project
        )


@settings(max_examples=15, deadline=None, phases=WITHOUT_SHRINKING)
@given(
    st.fixed_dictionaries({name: st.sampled_from([0.5, 1.0, 2.0, 4.0]) for name in PROJECTS}),
    st.integers(1, 5),
    st.sampled_from(sorted(TOLERANCE)),
    st.integers(0, 2**32),
)
def test_shares_come_to_the_weights_whatever_the_length_of_runs(
    weights: dict[str, float], at_once: int, guess: str, seed: int
) -> None:
    chance = random.Random(seed)
    typical = {name: chance.choice([3.0, 20.0, 60.0]) for name in PROJECTS}
    world = World({name: Share(weight) for name, weight in weights.items()}, at_once, seed)
    number = 0
    while number < 400:
        for name in PROJECTS:
            while sum(1 for item in world.waiting if item.project == name) < at_once + 1:
                real = typical[name] * chance.uniform(0.5, 1.5)
                expected = {"right": real, "median": world.median(name), "wild": real * chance.choice([0.1, 1.0, 5.0])}[
                    guess
                ]
                world.ask(name, f"{name}-{number}", expected, real)
                number += 1
        world.step()
    whole = sum(world.used(name) for name in PROJECTS)
    for name in PROJECTS:
        due = weights[name] / sum(weights.values())
        assert world.used(name) / whole == pytest.approx(due, abs=TOLERANCE[guess]), (
            name,
            guess,
            at_once,
            typical,
            weights,
        )


@settings(max_examples=15, deadline=None, phases=WITHOUT_SHRINKING)
@given(st.integers(1, 3), st.floats(60.0, 3000.0), st.integers(0, 2**32))
def test_nobody_waits_for_ever_behind_short_runs_that_keep_coming(at_once: int, expected: float, seed: int) -> None:
    chance = random.Random(seed)
    world = World({"beta": Share(10.0)}, at_once, seed)
    world.ask("alpha", "alpha-long", expected, expected)
    for number in range(3000):
        for name in ("alpha", "beta"):
            while sum(1 for item in world.waiting if item.project == name and item.expected < 60) < at_once + 1:
                world.ask(name, f"{name}-{number}-{len(world.real)}", 5.0, 5.0 * chance.uniform(0.5, 1.5))
        world.step()
        if "alpha-long" in world.admitted:
            break
    # Of its own project it is overtaken for that long; the other one is heavier, but gets no more than its share.
    assert world.admitted["alpha-long"] <= 20 * (OVERTAKEN_SECONDS + 60), world.now
