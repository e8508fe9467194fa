"""Retention: rules that say which series go when they are old enough, and what keeps them all the same.

Without a rule nothing is ever deleted. What a rule says of a series is a function of values; fetching the facts and deleting are apart.
Not here: deleting (insitu.archive.deletion) and the rules themselves (setting `retention`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from insitu.database import Database, Row
from insitu.errors import Conflict, InsituError, NotFound
from insitu.settings import RetentionRule

from . import deletion
from .store import Archive

ACTOR = "retention"
ROWS_AT_ONCE = 500
ANY_PROJECT = "*"


@dataclass(frozen=True)
class Facts:
    """What is known of a series, as far as it matters here.

    Attributes
    ----------
    arrived : date
        Of its last object.
    study_date : date or None
        None where it is absent or no date.
    """

    study: str
    series: str
    modality: str
    projects: frozenset[str]
    arrived: date
    study_date: date | None
    complete: bool = True
    in_dataset: bool = False
    has_results: bool = False
    is_result: bool = False
    held: bool = False
    instances: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Verdict:
    """What a rule says of a series that is old enough: `kept` names what keeps it, or is empty where it goes."""

    rule: RetentionRule
    facts: Facts
    kept: tuple[str, ...]

    @property
    def goes(self) -> bool:
        """Whether the series goes."""
        return not self.kept


def judge(rules: Sequence[RetentionRule], facts: Facts, today: date) -> Verdict | None:
    """The first rule by which a series goes; else the first that would take it, with what keeps it; None where none is due. Pure."""
    kept = None
    for rule in rules:
        if not _fits(rule, facts, today):
            continue
        verdict = Verdict(rule, facts, _keepers(rule, facts))
        if verdict.goes:
            return verdict
        kept = kept or verdict
    return kept


def _fits(rule: RetentionRule, facts: Facts, today: date) -> bool:
    if rule.project not in (ANY_PROJECT, *facts.projects):
        return False
    if rule.modalities and facts.modality not in rule.modalities:
        return False
    since = facts.arrived if rule.age == "arrival" else facts.study_date
    return since is not None and (today - since).days >= rule.days


def _keepers(rule: RetentionRule, facts: Facts) -> tuple[str, ...]:
    found = {
        "in-dataset": facts.in_dataset,
        "has-results": facts.has_results,
        "is-result": facts.is_result,
    }
    always = {"held": facts.held, "not-complete": not facts.complete}
    return tuple(name for name, there in always.items() if there) + tuple(name for name in rule.keep if found[name])


def due(database: Database, rules: Sequence[RetentionRule], today: date | None = None) -> Iterator[Verdict]:
    """Every series that is old enough by a rule, with the verdict, in the order of arrival.

    Reads the index in portions of 500 series, none longer than a moment; nothing is changed.
    """
    if not rules:
        return
    today = today or datetime.now(UTC).date()
    # Whatever its study date, a series that arrived today is younger than the youngest rule only by its arrival.
    by_arrival = all(rule.age == "arrival" for rule in rules)
    before = today - timedelta(days=min(rule.days for rule in rules) - 1) if by_arrival else today + timedelta(days=1)
    last = 0
    while True:
        with database.transaction() as connection:
            rows = connection.execute(_FACTS, {"after": last, "before": before}).fetchall()
        for row in rows:
            verdict = judge(rules, _facts(row), today)
            if verdict is not None:
                yield verdict
        if not rows:
            return
        last = rows[-1]["id"]


def carry_out(archive: Archive, verdict: Verdict) -> deletion.Deleted | str:
    """Delete what a verdict says, or tell why it stays after all.

    A rule for one project acts like that project's lead: a series that other projects hold too only leaves the project.
    """
    rule = verdict.rule
    projects = None if rule.project == ANY_PROJECT else frozenset((rule.project,))
    what = "arrived" if rule.age == "arrival" else "was made"
    try:
        return deletion.delete(
            archive, ACTOR, series=verdict.facts.series, projects=projects, rule=rule.name,
            reason=f"retention rule {rule.name}: the series {what} {rule.days} days ago or earlier",
        )  # fmt: skip
    except (Conflict, NotFound) as error:
        return str(error)


def apply(
    archive: Archive,
    rules: Sequence[RetentionRule],
    stop: threading.Event,
    *,
    seconds_each: float,
    today: date | None = None,
) -> tuple[deletion.Deleted, list[tuple[Verdict, str]]]:
    """Delete everything that is due, with a pause after each series.

    Returns
    -------
    tuple
        What went, and what stayed all the same with the reason.
    """
    total = deletion.Deleted()
    stayed = []
    for verdict in due(archive.database, rules, today):
        if stop.is_set():
            break
        if not verdict.goes:
            continue
        try:
            gone = carry_out(archive, verdict)
        except InsituError as error:
            stayed.append((verdict, str(error)))
            break  # disk or database are away; the next time goes on
        if isinstance(gone, str):
            stayed.append((verdict, gone))
            continue
        total = total + gone
        stop.wait(seconds_each)
    return total, stayed


def shown(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON."""
    facts = verdict.facts
    return {
        "rule": verdict.rule.name,
        "goes": verdict.goes,
        "kept_by": list(verdict.kept),
        "study_instance_uid": facts.study,
        "series_instance_uid": facts.series,
        "modality": facts.modality,
        "arrived": facts.arrived.isoformat(),
        "instances": facts.instances,
        "bytes": facts.bytes,
    }


def parse_date(text: str | None) -> date | None:
    """A DICOM date (PS3.5 DA); None where it is none."""
    try:
        return datetime.strptime((text or "").strip(), "%Y%m%d").date()  # noqa: DTZ007  a date has no time zone
    except ValueError:
        return None


def _facts(row: Row) -> Facts:
    return Facts(
        study=row["study_instance_uid"], series=row["series_instance_uid"], modality=row["modality"],
        projects=frozenset(row["projects"]), arrived=row["arrived"].astimezone(UTC).date(),
        study_date=parse_date(row["study_date"]), complete=row["state"] == "complete", in_dataset=row["in_dataset"],
        has_results=row["has_results"], is_result=row["execution"] is not None, held=row["held"],
        instances=row["instances"], bytes=row["bytes"],
    )  # fmt: skip


# Results name their input by UID in the run; the runs of a series are found by the index on their inputs.
# The page comes first and with a fixed limit: a plan for any limit would join everything before it takes 500.
_FACTS = f"""
WITH page AS MATERIALIZED (
    SELECT * FROM series WHERE id > %(after)s AND created_at < %(before)s ORDER BY id LIMIT {ROWS_AT_ONCE}
)
SELECT s.id, s.series_instance_uid, s.modality, s.state, s.execution, t.study_instance_uid,
    coalesce(s.last_received_at, s.created_at) AS arrived, t.attributes -> '00080020' -> 'Value' ->> 0 AS study_date,
    ARRAY(SELECT p.project FROM series_project p WHERE p.series = s.id) AS projects,
    EXISTS (SELECT 1 FROM dataset_series d WHERE d.series = s.id) AS in_dataset,
    EXISTS (SELECT 1 FROM hold h WHERE h.study_instance_uid = t.study_instance_uid) AS held,
    EXISTS (SELECT 1 FROM run r JOIN execution e ON e.run = r.identity JOIN execution_result x ON x.execution = e.id
            WHERE r.inputs @> jsonb_build_array(jsonb_build_object('series_instance_uid', s.series_instance_uid)))
        AS has_results,
    coalesce(v.instances, 0) AS instances, coalesce(v.bytes, 0) AS bytes
FROM page s JOIN study t ON t.id = s.study
    LEFT JOIN series_revision v ON v.series = s.id AND v.revision = s.revision
ORDER BY s.id
"""
