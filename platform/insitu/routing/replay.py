"""A dry run of rules over the series in the archive: what they would do, without doing it.

Not here: carrying decisions out (apply).
"""

from __future__ import annotations

from pydantic import BaseModel

from insitu.database import Connection
from insitu.settings import Settings

from .apply import evaluate_series, gather
from .model import RuleSet

EXAMPLES = 5  # series named per rule


class RuleCount(BaseModel):
    """How often one rule would match, how many runs it would ask for, and how many series it would send to a node."""

    rule: str
    matched: int = 0
    runs: int = 0
    sends: int = 0
    series: list[str] = []  # Series Instance UIDs of the first few


class Replay(BaseModel):
    """Outcome of a dry run."""

    series: int = 0
    unmatched: int = 0
    runs: int = 0
    sends: int = 0
    rules: list[RuleCount] = []


def replay(connection: Connection, settings: Settings, rules: RuleSet, *, limit: int = 10_000) -> Replay:
    """Decide on the newest complete series, as if each arrived now for the first time. Nothing is changed.

    Parameters
    ----------
    rules : RuleSet
    limit : int
        At most so many series.
    """
    counts = {rule.name: RuleCount(rule=rule.name) for rule in rules.in_order()}
    outcome = Replay(rules=list(counts.values()))
    rows = connection.execute(
        "SELECT id, series_instance_uid FROM series WHERE revision > 0 ORDER BY id DESC LIMIT %s", (limit,)
    ).fetchall()
    for row in rows:
        facts = gather(connection, settings, row["id"], 1)
        decision = evaluate_series(connection, settings, rules, facts)
        outcome.series += 1
        outcome.runs += len(decision.runs)
        outcome.sends += len(decision.sends)
        matched = [step.rule for step in decision.trace if step.outcome == "matched"]
        outcome.unmatched += not matched
        for name in matched:
            counts[name].matched += 1
            if len(counts[name].series) < EXAMPLES:
                counts[name].series.append(row["series_instance_uid"])
        for run in decision.runs:
            counts[run.rule].runs += 1
        for send in decision.sends:
            counts[send.rule].sends += 1
    return outcome
