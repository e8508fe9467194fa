"""Admission: which waiting executions may start now (RUN-7). Ours, not the workflow engine's.

Not here: handing them to the engine (insitu.runs.engine).
"""

from __future__ import annotations

from insitu.database import Connection

from .executions import advance

ADMISSION_LOCK = 7_310_001  # advisory lock: one admission at a time over all dispatchers


def admit(connection: Connection, at_once: int) -> list[str]:
    """Move waiting executions to `submitted` while fewer than `at_once` are active; their ids, in order.

    The project with the fewest active executions goes first, then the one that waited longest.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADMISSION_LOCK,))
    active = connection.execute(
        "SELECT r.project, count(*) AS n FROM execution e JOIN run r ON r.identity = e.run"
        " WHERE e.state IN ('submitted', 'running') GROUP BY r.project"
    ).fetchall()
    load = {row["project"]: row["n"] for row in active}
    free = at_once - sum(load.values())
    if free <= 0:
        return []
    waiting = connection.execute(
        "SELECT e.id, r.project FROM execution e JOIN run r ON r.identity = e.run"
        " WHERE e.state = 'requested' ORDER BY e.requested_at, e.id LIMIT 1000"
    ).fetchall()
    chosen = choose([(row["id"], row["project"]) for row in waiting], load, free)
    return [
        execution
        for execution in chosen
        if advance(connection, execution, "submitted", allowed=("requested",), stage="admitted")
    ]


def choose(waiting: list[tuple[str, str]], load: dict[str, int], free: int) -> list[str]:
    """At most `free` of the `waiting` (execution, project) in the order of arrival, the least loaded project first."""
    load = dict(load)
    left = list(waiting)
    chosen: list[str] = []
    while left and len(chosen) < free:
        index = min(range(len(left)), key=lambda i: (load.get(left[i][1], 0), i))
        execution, project = left.pop(index)
        load[project] = load.get(project, 0) + 1
        chosen.append(execution)
    return chosen
