"""Circles among rules on results: an algorithm whose results would, by rules, make it run again. A pure function.

Not here: the limit on the length of a chain (evaluate), which holds also for what this cannot foresee.
"""

from __future__ import annotations

from insitu.dicom.attributes import tag

from .conditions import Condition
from .evaluate import Truth, evaluate
from .facts import Found
from .model import RuleSet

# What `publish` makes of an algorithm's outputs. A rule on another modality cannot meet a result made here.
RESULT_MODALITIES = ("SEG", "SR", "DOC")


def may_accept(condition: Condition, algorithm: str) -> bool:
    """Whether a condition may hold for a result of `algorithm`, whatever the rest of the result holds."""

    def possible(modality: str) -> bool:
        known = {"algorithm": Found(True, (algorithm,)), "channel": Found(True, ("result",))}

        def lookup(subject: str, path: tuple[str, ...]) -> Found | None:
            return Found(True, (modality,)) if path == (tag("Modality"),) else known.get(subject)

        return evaluate(condition, lookup).truth is not Truth.FALSE

    return any(possible(modality) for modality in RESULT_MODALITIES)


def find_cycle(rule_set: RuleSet) -> list[tuple[str, str]] | None:
    """A circle as a list of (algorithm, rule that its results may match); None where there is none.

    The answer is on the safe side: two rules count as following one another unless their conditions on `algorithm`,
    `Modality` and `channel` exclude it.
    """
    rules = [rule for rule in rule_set.rules if rule.enabled and rule.source != "received" and rule.then.algorithms]
    follows: dict[str, list[tuple[str, str]]] = {}
    for algorithm in sorted({item.name for rule in rule_set.rules for item in rule.then.algorithms}):
        follows[algorithm] = [
            (rule.name, item.name)
            for rule in rules
            if may_accept(rule.when, algorithm)
            for item in rule.then.algorithms
        ]  # fmt: skip
    finished: set[str] = set()
    for start in follows:
        path: list[tuple[str, str]] = []
        on_path: list[str] = [start]
        branches = [iter(follows[start])]
        while branches:
            step = next(branches[-1], None)
            if step is None:
                branches.pop()
                finished.add(on_path.pop())
                if path:
                    path.pop()
                continue
            rule, following = step
            if following in on_path:
                at = on_path.index(following)
                return [*path[at:], (on_path[-1], rule)]
            if following not in finished:
                path.append((on_path[-1], rule))
                on_path.append(following)
                branches.append(iter(follows[following]))
    return None
