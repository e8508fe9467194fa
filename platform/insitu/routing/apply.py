"""Route a complete series: gather its facts, decide, put it into its projects and datasets, keep the decision.

Not here: the decision (evaluate), asking for the runs (insitu.runs) and queueing what is sent (sending).
"""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from insitu.archive import datasets, index, links
from insitu.archive.completeness import CompleteSeries
from insitu.database import Connection
from insitu.errors import NotFound
from insitu.nodes import registry
from insitu.settings import Settings

from . import store
from .evaluate import Decision, decide
from .facts import Facts
from .model import RuleSet


def apply(connection: Connection, settings: Settings, series: CompleteSeries) -> Decision:
    """Decide by the rules in force and carry out what belongs to the archive, in the caller's transaction.

    Returns
    -------
    Decision
        Its `runs` and `sends` are left to the caller.
    """
    version, rules = store.current(connection)
    facts = gather(connection, settings, series.series_id, series.revision)
    decision = evaluate_series(connection, settings, rules, facts, version=version)
    by = f"rules {version}"
    for project in decision.projects:
        links.link(connection, settings, series.series_id, project, by)
    if decision.projects and settings.default_project not in (*decision.projects, *facts.projects):
        # The default project is for series that nobody assigned.
        links.unlink(connection, settings, series.series_id, settings.default_project, by)
    for dataset in decision.datasets:
        datasets.add(connection, settings, series.series_id, dataset.project, dataset.name)
    keep(connection, series, decision)
    return decision


def keep(connection: Connection, series: CompleteSeries, decision: Decision) -> None:
    """Keep the decision on a revision, for those who ask why."""
    connection.execute(
        "INSERT INTO routing_decision (series, revision, rule_set, body) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (series, revision) DO UPDATE SET rule_set = excluded.rule_set, body = excluded.body, at = now()",
        (series.series_id, series.revision, decision.rule_set, Jsonb(decision.model_dump(mode="json"))),
    )


def add(connection: Connection, series: CompleteSeries, name: str, answers: list[dict[str, Any]]) -> None:
    """Keep with a decision what became of what it asked for."""
    connection.execute(
        "UPDATE routing_decision SET body = body || jsonb_build_object(%s::text, %s::jsonb) WHERE series = %s AND revision = %s",
        (name, Jsonb(answers), series.series_id, series.revision),
    )


def evaluate_series(
    connection: Connection, settings: Settings, rules: RuleSet, facts: Facts, *, version: int | None = None
) -> Decision:
    """The decision on facts with this installation's projects and limits. Nothing is changed."""
    return decide(
        rules,
        facts,
        version=version,
        known_projects=store.known_projects(connection),
        known_nodes=frozenset(node.name for node in registry.listed(connection)),
        default_project=settings.default_project,
        chain_depth=settings.chain_depth,
    )


def gather(connection: Connection, settings: Settings, series_id: int, revision: int) -> Facts:
    """The facts of one revision of a series.

    Parameters
    ----------
    series_id : int
        Identifier in the index.
    revision : int
        Decisions on earlier revisions say which rules have run already.
    """
    arrivals = connection.execute(
        "SELECT DISTINCT r.calling_ae, r.called_ae, r.peer, r.channel, r.project FROM series_source s"
        " JOIN receipt r ON r.id = s.receipt WHERE s.series = %s",
        (series_id,),
    ).fetchall()
    made_by = connection.execute(
        "SELECT s.execution, e.depth, a.name FROM series s LEFT JOIN execution e ON e.id = s.execution"
        " LEFT JOIN run r ON r.identity = e.run LEFT JOIN algorithm a ON a.digest = r.algorithm WHERE s.id = %s",
        (series_id,),
    ).fetchone()
    if made_by is None:
        raise NotFound("There is no such series", value=str(series_id))
    earlier = connection.execute(
        "SELECT body -> 'runs' AS runs FROM routing_decision WHERE series = %s AND revision < %s",
        (series_id, revision),
    ).fetchall()
    linked = {
        row["project"]
        for row in connection.execute("SELECT project FROM series_project WHERE series = %s", (series_id,))
    }
    named = {arrival["project"] for arrival in arrivals}
    is_result = made_by["execution"] is not None

    def values(name: str) -> tuple[str, ...]:
        return tuple(sorted({arrival[name] for arrival in arrivals if arrival[name]}))

    return Facts(
        attributes=index.series_attributes(connection, series_id),
        calling_ae=values("calling_ae"),
        called_ae=values("called_ae"),
        peer=values("peer"),
        channel=values("channel"),
        source="result" if is_result else "received",
        algorithm=made_by["name"],
        depth=(made_by["depth"] or 1) if is_result else 0,
        revision=revision,
        projects=tuple(sorted(p for p in linked if is_result or p in named or p != settings.default_project)),
        ran=tuple(sorted({run["rule"] for row in earlier for run in row["runs"] or ()})),
    )


def explain(connection: Connection, series_id: int) -> list[dict[str, Any]]:
    """The decisions kept for a series, the newest revision first: revision, rule_set, at, decision."""
    rows = connection.execute(
        "SELECT revision, rule_set, at, body FROM routing_decision WHERE series = %s ORDER BY revision DESC",
        (series_id,),
    ).fetchall()
    return [
        {
            "revision": row["revision"],
            "rule_set": row["rule_set"],
            "at": row["at"].isoformat(),
            "decision": row["body"],
        }
        for row in rows
    ]
