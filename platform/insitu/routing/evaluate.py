"""The decision: which rules match a series, what follows, and an explanation of every step. A pure function of values.

Not here: gathering the facts and carrying the decision out (apply).

A comparison is true, false or unknown. It is unknown where the attribute is absent or has no value that can be compared,
and the opposite of unknown is unknown: neither a comparison nor its `not` matches because something is missing. Only
`present` asks for absence. `all` is false where a part is false, `any` is true where a part is true, otherwise an unknown
part makes them unknown (Kleene's logic). A rule matches only where its condition is true. Of several values any may match.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .conditions import All, AnyOf, Comparison, Condition, Not, written
from .facts import Facts, Found, look_up
from .model import NAME, Actions, Rule, RuleSet
from .patterns import LONGEST_VALUE, Pattern, fill

MOST_TARGETS = 16  # projects and datasets one template can name for one series


class Truth(StrEnum):
    """Whether a condition holds."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"


class Check(BaseModel):
    """One condition as it was found: what it says, whether it holds, and why."""

    model_config = ConfigDict(frozen=True)

    condition: str
    truth: Truth
    because: str
    parts: tuple[Check, ...] = ()


class Step(BaseModel):
    """What became of one rule."""

    model_config = ConfigDict(frozen=True)

    rule: str
    priority: int
    outcome: Literal["matched", "not-matched", "disabled", "other-source", "stopped"]
    explanation: str
    check: Check | None = None
    projects: tuple[str, ...] = Field(default=(), description="Projects this rule assigned.")
    notes: tuple[str, ...] = Field(default=(), description="Actions that did not follow, and why.")


class RunRequest(BaseModel):
    """A run that a rule asks for."""

    model_config = ConfigDict(frozen=True)

    project: str
    algorithm: str
    version: str | None = None
    parameters: dict[str, Any] = {}
    rule: str


class DatasetTarget(BaseModel):
    """A dataset the series is added to."""

    model_config = ConfigDict(frozen=True)

    project: str
    name: str


class SendRequest(BaseModel):
    """A node that a rule sends the series to."""

    model_config = ConfigDict(frozen=True)

    node: str
    rule: str


class Decision(BaseModel):
    """What is to be done with a series, and why."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    rule_set: int | None = Field(default=None, description="Version of the rule set that decided.")
    projects: tuple[str, ...] = ()
    datasets: tuple[DatasetTarget, ...] = ()
    runs: tuple[RunRequest, ...] = ()
    sends: tuple[SendRequest, ...] = ()
    depth: int = Field(default=1, description="Position of these runs in a chain of runs.")
    trace: tuple[Step, ...] = ()
    failed: str | None = Field(default=None, description="Why no decision could be made, where that is so.")


Lookup = Callable[[str, tuple[str, ...]], Found | None]


def decide(
    rule_set: RuleSet,
    facts: Facts,
    *,
    version: int | None = None,
    known_projects: frozenset[str] | None = None,
    known_nodes: frozenset[str] | None = None,
    default_project: str = "inbox",
    chain_depth: int = 4,
) -> Decision:
    """Ask every rule in order and collect what follows.

    Parameters
    ----------
    rule_set : RuleSet
    facts : Facts
        What is known of the series.
    version : int, optional
        Version under which the rule set is kept, for the record.
    known_projects : frozenset of str, optional
        Projects that exist; a rule that names another one does not assign it. None: all names are taken to exist.
    known_nodes : frozenset of str, optional
        Nodes in the register; a rule that names another one sends nothing there. None: all names are taken to exist.
    default_project : str
        Where runs happen if neither a rule nor the sender named a project.
    chain_depth : int
        How many runs may follow one another by rules on results.
    """
    steps: list[Step] = []
    projects: list[str] = []
    datasets: list[DatasetTarget] = []
    wanted: list[tuple[Rule, tuple[str, ...] | None]] = []
    sends: dict[str, SendRequest] = {}
    stopped_by: str | None = None
    for rule in rule_set.in_order():
        if stopped_by is not None:
            text = f"rule '{rule.name}' was not asked because rule '{stopped_by}' stopped"
            steps.append(Step(rule=rule.name, priority=rule.priority, outcome="stopped", explanation=text))
            continue
        step, captured = _ask(rule, facts)
        if step.outcome == "matched":
            notes: list[str] = []
            named = _projects(rule.then, captured, known_projects, notes)
            for project in named:
                if project not in projects:
                    projects.append(project)
            for dataset in _datasets(rule.then, captured, known_projects):
                if dataset not in datasets:
                    datasets.append(dataset)
            if rule.then.algorithms:
                if rule.name in facts.ran and not rule.then.again:
                    notes.append("its algorithms ran on an earlier revision and it does not say `again: true`")
                elif facts.depth >= chain_depth:
                    notes.append(f"its algorithms do not run: {facts.depth} runs led here, and no more may follow")
                elif rule.then.project is not None and not named:
                    notes.append("its algorithms do not run because they have no project")
                else:
                    wanted.append((rule, named if rule.then.project is not None else None))
            for node in rule.then.send_to:
                if known_nodes is not None and node not in known_nodes:
                    notes.append(f"nothing is sent to '{node}' because there is no such node")
                else:
                    sends.setdefault(node, SendRequest(node=node, rule=rule.name))
            step = step.model_copy(update={"notes": tuple(notes), "projects": named})
            if rule.then.stop:
                stopped_by = rule.name
        steps.append(step)
    everywhere = tuple(dict.fromkeys((*projects, *facts.projects))) or (default_project,)
    return Decision(
        rule_set=version,
        projects=tuple(projects),
        datasets=tuple(datasets),
        runs=_runs(wanted, everywhere),
        sends=tuple(sends.values()),
        depth=facts.depth + 1,
        trace=tuple(steps),
    )


def _ask(rule: Rule, facts: Facts) -> tuple[Step, dict[str, tuple[str, ...]]]:
    def step(outcome: Any, text: str, check: Check | None = None) -> Step:
        return Step(rule=rule.name, priority=rule.priority, outcome=outcome, explanation=text, check=check)

    if not rule.enabled:
        return step("disabled", f"rule '{rule.name}' was not asked because it is not enabled"), {}
    if rule.source not in ("any", facts.source):
        kind = "a result made here" if facts.source == "result" else "not a result made here"
        text = f"rule '{rule.name}' was not asked because this series is {kind} and its source is '{rule.source}'"
        return step("other-source", text), {}
    captured: dict[str, tuple[str, ...]] = {}
    check = evaluate(rule.when, lambda subject, path: look_up(facts, subject, path), captured)
    if check.truth is Truth.TRUE:
        return step("matched", f"rule '{rule.name}' matched because {check.because}", check), captured
    return step("not-matched", f"rule '{rule.name}' did not match because {check.because}", check), {}


def evaluate(condition: Condition, lookup: Lookup, captured: dict[str, tuple[str, ...]] | None = None) -> Check:
    """Whether a condition holds. `lookup` gives what stands under a subject, None where that cannot be known.

    What patterns captured is added to `captured`, from conditions that are true and not under a `not`.
    """
    if isinstance(condition, Comparison):
        return _compare(condition, lookup(condition.subject, condition.path), captured)
    if isinstance(condition, Not):
        inner = evaluate(condition.part, lookup)
        opposite = {Truth.TRUE: Truth.FALSE, Truth.FALSE: Truth.TRUE}.get(inner.truth, Truth.UNKNOWN)
        return Check(condition=f"not {inner.condition}", truth=opposite, because=inner.because, parts=(inner,))
    if not isinstance(condition, All | AnyOf):
        raise TypeError(f"not a condition: {type(condition).__name__}")
    mine: dict[str, tuple[str, ...]] = {}
    parts = tuple(evaluate(part, lookup, mine) for part in condition.parts)
    is_all = isinstance(condition, All)
    deciding, other = (Truth.FALSE, Truth.TRUE) if is_all else (Truth.TRUE, Truth.FALSE)
    truths = {part.truth for part in parts}
    truth = deciding if deciding in truths else Truth.UNKNOWN if Truth.UNKNOWN in truths else other
    if truth is Truth.TRUE and captured is not None:
        for name, values in mine.items():
            captured[name] = tuple(dict.fromkeys((*captured.get(name, ()), *values)))
    reasons = [part.because for part in parts if truth is other or part.truth is not other]
    if truth is Truth.TRUE and not is_all:
        reasons = [part.because for part in parts if part.truth is Truth.TRUE]
    return Check(
        condition="all of" if is_all else "any of",
        truth=truth,
        because=" and ".join(dict.fromkeys(reasons)) or "it has no condition",
        parts=parts,
    )


def _compare(condition: Comparison, found: Found | None, captured: dict[str, tuple[str, ...]] | None) -> Check:
    name = condition.subject
    operand = written(condition)[name][condition.operator]
    text = f"{name} {condition.operator} {operand!r}"
    if found is None:
        return Check(condition=text, truth=Truth.UNKNOWN, because=f"{name} cannot be known")
    if condition.operator == "present":
        truth = Truth.TRUE if found.present == condition.operand[0] else Truth.FALSE
        return Check(condition=text, truth=truth, because=f"{name} is {'present' if found.present else 'absent'}")
    if not found.present:
        return Check(condition=text, truth=Truth.UNKNOWN, because=f"{name} is absent")
    outcomes = [_holds(condition, value, captured) for value in found.values]
    if Truth.TRUE in outcomes:
        kept = tuple(value for value, truth in zip(found.values, outcomes, strict=True) if truth is Truth.TRUE)
        return Check(condition=text, truth=Truth.TRUE, because=f"{name} is {_shown(condition, kept)}")
    if not outcomes or Truth.UNKNOWN in outcomes:
        return Check(condition=text, truth=Truth.UNKNOWN, because=f"{name} has a value that cannot be compared")
    wanted = {
        "equals": f"not {operand!r}",
        "in": f"not one of {operand!r}",
        "matches": f"which does not match {operand!r}",
        "range": f"not in the range {operand!r}",
    }[condition.operator]
    return Check(
        condition=text, truth=Truth.FALSE, because=f"{name} is {_shown(condition, found.values)}, {wanted}"
    )  # fmt: skip


def _holds(condition: Comparison, value: str | int | float, captured: dict[str, tuple[str, ...]] | None) -> Truth:
    if condition.subject == "peer":
        return _in_networks(str(value), condition.operand)
    if condition.operator == "range":
        number = _number(value)
        if number is None:
            return Truth.UNKNOWN
        low, high = condition.operand
        return _truth((low is None or number >= low) and (high is None or number <= high))
    if condition.operator == "matches":
        text = str(value)
        if len(text) > LONGEST_VALUE:
            return Truth.UNKNOWN
        matched = [_matches(pattern, text, captured) for pattern in condition.operand]  # each may capture
        return _truth(any(matched))
    return _truth(any(_equal(value, wanted) for wanted in condition.operand))


def _matches(pattern: Pattern, text: str, captured: dict[str, tuple[str, ...]] | None) -> bool:
    names = pattern.match(text)
    if names is None:
        return False
    if captured is not None:
        for name, value in names.items():
            captured[name] = tuple(dict.fromkeys((*captured.get(name, ()), value)))
    return True


def _equal(value: str | int | float, wanted: str | int | float) -> bool:
    if isinstance(value, str) and isinstance(wanted, str):
        return value == wanted
    number, other = _number(value), _number(wanted)
    return number is not None and number == other


def _number(value: str | int | float) -> float | None:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if number == number and abs(number) != float("inf") else None


def _in_networks(text: str, networks: tuple[Any, ...]) -> Truth:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return Truth.UNKNOWN
    mapped = getattr(address, "ipv4_mapped", None)
    return _truth(any(candidate in network for network in networks for candidate in (address, mapped) if candidate))


def _truth(holds: bool) -> Truth:
    return Truth.TRUE if holds else Truth.FALSE


def _shown(condition: Comparison, values: tuple[str | int | float, ...]) -> str:
    """Values for an explanation; those that identify a patient (group 0010) are not shown."""
    if any(tag.startswith("0010") for tag in condition.path):
        return "a value that is not shown"
    first = values[:4]
    text = " and ".join(repr(value if len(str(value)) <= 64 else f"{str(value)[:64]}…") for value in first)
    return text if len(values) <= 4 else f"{text} and {len(values) - 4} more"


def _filled(template: str, captured: dict[str, tuple[str, ...]]) -> list[str]:
    """Every name that the template makes of what was captured, where it is one."""
    names = sorted(name for name in captured if "{" + name + "}" in template)
    choices = itertools.islice(itertools.product(*(captured[name] for name in names)), MOST_TARGETS)
    return list(dict.fromkeys(fill(template, dict(zip(names, choice, strict=True))) for choice in choices))


def _projects(
    then: Actions, captured: dict[str, tuple[str, ...]], known: frozenset[str] | None, notes: list[str]
) -> tuple[str, ...]:
    if then.project is None:
        return ()
    accepted = []
    for name in _filled(then.project, captured):
        if not NAME.fullmatch(name):
            notes.append(f"{name!r} is not assigned because it cannot be the name of a project")
        elif known is not None and name not in known:
            notes.append(f"project '{name}' is not assigned because there is no such project")
        else:
            accepted.append(name)
    return tuple(accepted)


def _datasets(
    then: Actions, captured: dict[str, tuple[str, ...]], known: frozenset[str] | None
) -> tuple[DatasetTarget, ...]:
    if then.dataset is None:
        return ()
    projects = _projects(then, captured, known, [])
    names = [name for name in _filled(then.dataset, captured) if NAME.fullmatch(name)]
    return tuple(DatasetTarget(project=project, name=name) for project in projects for name in names)


def _runs(wanted: list[tuple[Rule, tuple[str, ...] | None]], everywhere: tuple[str, ...]) -> tuple[RunRequest, ...]:
    """Run requests, the same run only once: the rule that was asked first keeps it."""
    runs: list[RunRequest] = []
    for rule, projects in wanted:
        for algorithm in rule.then.algorithms:
            for project in everywhere if projects is None else projects:
                request = RunRequest(
                    project=project,
                    algorithm=algorithm.name,
                    version=algorithm.version,
                    parameters=algorithm.parameters,
                    rule=rule.name,
                )
                if not any(
                    (other.project, other.algorithm, other.version, other.parameters)
                    == (request.project, request.algorithm, request.version, request.parameters)
                    for other in runs
                ):
                    runs.append(request)
    return tuple(runs)
