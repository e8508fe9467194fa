"""Rules as data: which series go to which projects, datasets and other nodes, and which algorithms run on them.

Not here: what a condition may say (conditions), whether a rule matches (evaluate), where rule sets are kept (store).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .conditions import All, Condition, captures
from .patterns import template_names

Source = Literal["received", "result", "any"]
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
NAME_PATTERN = rf"^{NAME.pattern}$"
Parameters = dict[str, Any]


class RunAlgorithm(BaseModel):
    """An algorithm to run on the series."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Name of an installed algorithm.")
    version: str | None = Field(None, max_length=64, description="Its version; without one the newest enabled.")
    parameters: Parameters = Field({}, description="Parameters of the run, by the algorithm's own schema.")


class Actions(BaseModel):
    """What happens to a series that a rule matches.

    `project` and `dataset` may hold `{name}` for what a pattern of the condition captured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str | None = Field(None, max_length=128, description="Project the series is added to.")
    dataset: str | None = Field(
        None, max_length=128, description="Dataset of that project the series is added to; made if it is new."
    )
    algorithms: tuple[RunAlgorithm, ...] = Field((), description="Algorithms to run; results belong to the project.")
    send_to: tuple[Annotated[str, Field(pattern=NAME_PATTERN)], ...] = Field(
        (), max_length=16, description="Nodes the series is sent to, each object once; see `insitu node list`."
    )
    again: bool = Field(
        False, description="Run the algorithms again when late objects make a new revision of the series."
    )
    stop: bool = Field(False, description="Rules after this one are not asked.")

    @model_validator(mode="after")
    def _does_something(self) -> Actions:
        if self.project is None and self.dataset is None and not (self.algorithms or self.send_to or self.stop):
            raise ValueError("name a project, a dataset, algorithms, `send_to`, or `stop: true`")
        if self.dataset is not None and self.project is None:
            raise ValueError("a dataset belongs to a project: name the project too")
        for what in ("project", "dataset"):
            text = getattr(self, what)
            if text is not None and not NAME.fullmatch(re.sub(r"\{[^{}]*\}", "a", text)):
                raise ValueError(
                    f"{what} {text!r} cannot be a name: small letters, digits, _ and -, beginning with a letter or digit"
                )
        return self


class Rule(BaseModel):
    """One rule: when the condition holds for a complete series, the actions follow."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME_PATTERN, description="Unique name, shown in every explanation.")
    description: str = Field("", max_length=1000, description="What the rule is for.")
    priority: int = Field(0, ge=-1_000_000, le=1_000_000, description="Higher ones are asked first; ties by name.")
    enabled: bool = Field(True, description="A rule that is not enabled never matches.")
    source: Source = Field(
        "received", description="`received`: series that were sent; `result`: results made here; `any`: both."
    )
    when: Annotated[Condition, Field(description="The condition; without one the rule matches every series.")] = All(())
    then: Actions

    @model_validator(mode="after")
    def _templates_can_be_filled(self) -> Rule:
        known = captures(self.when)
        for what in ("project", "dataset"):
            for name in template_names(getattr(self.then, what) or ""):
                if name not in known:
                    raise ValueError(f"no pattern of the condition captures {{{name}}}, which `{what}` asks for")
        return self


class RuleSet(BaseModel):
    """All rules of an installation. `version` is that of this format."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    rules: tuple[Rule, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _names_are_unique(self) -> RuleSet:
        names = [rule.name for rule in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rules are called {name!r}")
        return self

    def in_order(self) -> tuple[Rule, ...]:
        """The rules in the order in which they are asked: the highest priority first, ties by name."""
        return tuple(sorted(self.rules, key=lambda rule: (-rule.priority, rule.name)))
