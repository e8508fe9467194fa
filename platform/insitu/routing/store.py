"""Rule sets in the database: every saved one is a new version, the highest is in force, none is ever changed.

Not here: reading and writing them as text (text).
"""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, NotFound
from insitu.nodes import registry

from .cycles import find_cycle
from .model import RuleSet
from .patterns import template_names

_LOCK = 0x494E5352554C45  # advisory lock: versions are given one at a time


def save(connection: Connection, rule_set: RuleSet, by: str) -> int:
    """Check a rule set against the installation and put it in force; its version.

    Raises
    ------
    Invalid
        A rule names a project, algorithm or node that does not exist, or rules on results would go round in a circle.
    """
    check(connection, rule_set)
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    row = connection.execute(
        "INSERT INTO rule_set (version, body, created_by)"
        " SELECT coalesce(max(version), 0) + 1, %s, %s FROM rule_set RETURNING version",
        (Jsonb(rule_set.model_dump(mode="json")), by),
    ).fetchone()
    return int(row["version"]) if row else 0


def check(connection: Connection, rule_set: RuleSet) -> None:
    """Raise Invalid, as `save` does, where a rule set cannot be put in force on this installation."""
    projects = known_projects(connection)
    rows = connection.execute("SELECT name, version FROM algorithm").fetchall()
    algorithms = {(row["name"], row["version"]) for row in rows}
    names = {name for name, _ in algorithms}
    nodes = {node.name: node for node in registry.listed(connection)}
    for rule in rule_set.rules:
        project = rule.then.project
        if project is not None and not template_names(project) and project not in projects:
            raise Invalid(
                f"The rule '{rule.name}' names a project that does not exist",
                value=project,
                remedy=f"Create it first: insitu project create {project}",
            )
        for name in rule.then.send_to:
            if name not in nodes:
                raise Invalid(
                    f"The rule '{rule.name}' sends to a node that does not exist",
                    value=name,
                    remedy=f"Describe it first: insitu node add {name}; `insitu node list` shows what there is",
                )
            if not nodes[name].callable_by_dimse and nodes[name].url is None:
                raise Invalid(
                    f"The rule '{rule.name}' sends to a node that cannot be called",
                    value=name,
                    why="it has neither host and port nor the URL of a DICOMweb service",
                    remedy=f"Describe it anew with its address: insitu node add {name}",
                )
        for item in rule.then.algorithms:
            if item.name not in names or (item.version is not None and (item.name, item.version) not in algorithms):
                raise Invalid(
                    f"The rule '{rule.name}' names an algorithm that is not installed",
                    value=item.name if item.version is None else f"{item.name} {item.version}",
                    remedy="Install it first: insitu algorithm install; `insitu algorithm list` shows what there is",
                )
    cycle = find_cycle(rule_set)
    if cycle is not None:
        way = " → ".join(f"{algorithm} (its results may match rule '{rule}')" for algorithm, rule in cycle)
        raise Invalid(
            "The rules go round in a circle",
            value=f"{way} → {cycle[0][0]}",
            why="An algorithm would run on what came of its own results, again and again",
            remedy="Say in these rules whose results they are for, for example `algorithm: NAME`",
        )


def check_free(connection: Connection, node: str) -> None:
    """Return if no rule in force sends to a node, so that it may go or lose its address.

    Raises
    ------
    Conflict
        One does; its series would not be sent any more and nobody would notice.
    """
    rules = [rule.name for rule in current(connection)[1].rules if rule.enabled and node in rule.then.send_to]
    if rules:
        raise Conflict(
            "Rules in force send to this node", value=node, why=f"these do: {', '.join(rules)}",
            remedy="Take the node out of these rules first: insitu rules set",
        )  # fmt: skip


def current(connection: Connection) -> tuple[int | None, RuleSet]:
    """Version and rules in force; (None, no rules) where none were ever saved."""
    row = connection.execute("SELECT version, body FROM rule_set ORDER BY version DESC LIMIT 1").fetchone()
    return (None, RuleSet()) if row is None else (int(row["version"]), RuleSet.model_validate(row["body"]))


def get(connection: Connection, version: int) -> tuple[Row, RuleSet]:
    """One version: its row (version, created_at, created_by) and its rules. Raises NotFound."""
    row = connection.execute("SELECT * FROM rule_set WHERE version = %s", (version,)).fetchone()
    if row is None:
        raise NotFound("There is no such version of the rules", value=str(version), remedy="insitu rules versions")
    return row, RuleSet.model_validate(row["body"])


def history(connection: Connection) -> list[dict[str, Any]]:
    """All versions, the newest first: version, created_at, created_by, number of rules."""
    return [
        {**row, "created_at": row["created_at"].isoformat()}
        for row in connection.execute(
            "SELECT version, created_at, created_by, jsonb_array_length(body -> 'rules') AS rules"
            " FROM rule_set ORDER BY version DESC"
        )
    ]


def known_projects(connection: Connection) -> frozenset[str]:
    """The names of all projects."""
    return frozenset(row["name"] for row in connection.execute("SELECT name FROM project"))
