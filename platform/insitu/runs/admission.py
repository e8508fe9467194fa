"""Admission: reads the run table for the plan, and moves the executions that may start (RUN-7). Ours, not the workflow engine's.

Not here: the order (admission_plan), handing them to the engine (insitu.runs.engine).
"""

from __future__ import annotations

from insitu.database import Connection
from insitu.settings import Settings

from . import admission_plan
from .admission_plan import Delay, Purpose, Share, Situation, Started, Waiting
from .executions import advance

ADMISSION_LOCK = 7_310_001  # advisory lock: one admission at a time over all dispatchers
REMEMBERED = 3600.0  # seconds after its end; then what a run used is forgotten
CONSIDERED = 1000  # of a project's queue; those behind them were asked for later
LAST_RUNS = 20  # of an algorithm, by whose median the next is expected to take as long ...
AMONG = 1000  # ... among so many of the site
UNKNOWN_SECONDS = 600.0  # where not even the manifest says how long it may take


def admit(connection: Connection, settings: Settings) -> list[str]:
    """Move waiting executions to `submitted` as far as the limits allow; their ids, in order."""
    if not _may_be_something(connection, settings):
        return []
    # The next statement sees what another dispatcher admitted: its lock ends after its commit.
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADMISSION_LOCK,))
    admitted = []
    for chosen in admission_plan.plan(situation(connection, settings)):
        if advance(connection, chosen.execution, "submitted", allowed=("requested",), stage="admitted"):
            connection.execute(
                "UPDATE execution SET turn = %s, expected = %s WHERE id = %s",
                (chosen.turn, chosen.expected, chosen.execution),
            )
            admitted.append(chosen.execution)
    return admitted


def delays(connection: Connection, settings: Settings) -> dict[str, Delay]:
    """Why each execution that waits for its admission does so."""
    return admission_plan.delays(situation(connection, settings))


def situation(connection: Connection, settings: Settings) -> Situation:
    """What decides about admission, as the tables say now."""
    return Situation(
        now=_now(connection),
        waiting=tuple(_waiting(connection)),
        started=tuple(_started(connection)),
        at_once=_at_once(settings),
        shares={
            row["name"]: Share(row["weight"], row["runs_at_once"])
            for row in connection.execute("SELECT name, weight, runs_at_once FROM project").fetchall()
        },
    )


def _at_once(settings: Settings) -> dict[Purpose, int]:
    return {"inference": settings.runs_at_once, "training": settings.trainings_at_once}


def _may_be_something(connection: Connection, settings: Settings) -> bool:
    """Whether something waits for a place that is free; asked at every turn of a dispatcher, so it must cost little."""
    rows = connection.execute(
        "SELECT purpose, count(*) AS active FROM execution WHERE state IN ('submitted', 'running') GROUP BY purpose"
    ).fetchall()
    active = {row["purpose"]: row["active"] for row in rows}
    free = [purpose for purpose, most in _at_once(settings).items() if active.get(purpose, 0) < most]
    waiting = connection.execute(
        "SELECT 1 FROM execution WHERE state = 'requested' AND purpose = ANY(%s) LIMIT 1", (free,)
    ).fetchone()
    return waiting is not None


def _now(connection: Connection) -> float:
    rows = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8 AS now").fetchall()
    return float(rows[0]["now"])


def _waiting(connection: Connection) -> list[Waiting]:
    rows = connection.execute(
        "SELECT id, project, algorithm, purpose, requested_at, (a.manifest #>> '{resources,seconds}')::float8 AS seconds FROM ("
        " SELECT e.id, e.purpose, r.project, r.algorithm, extract(epoch FROM e.requested_at)::float8 AS requested_at,"
        "  row_number() OVER (PARTITION BY r.project, e.purpose ORDER BY e.requested_at, e.id) AS place"
        " FROM execution e JOIN run r ON r.identity = e.run WHERE e.state = 'requested') queued"
        " JOIN algorithm a ON a.digest = queued.algorithm WHERE place <= %s",
        (CONSIDERED,),
    ).fetchall()
    known = _medians(connection, {row["algorithm"] for row in rows})
    return [
        Waiting(
            row["id"],
            row["project"],
            row["purpose"],
            known.get(row["algorithm"], row["seconds"] or UNKNOWN_SECONDS),
            row["requested_at"],
        )
        for row in rows
    ]


def _started(connection: Connection) -> list[Started]:
    rows = connection.execute(
        "SELECT e.id, r.project, e.purpose, e.turn, e.expected,"
        " extract(epoch FROM e.admitted_at)::float8 AS admitted_at, extract(epoch FROM e.finished_at)::float8 AS ended_at"
        " FROM execution e JOIN run r ON r.identity = e.run"
        " WHERE e.state IN ('submitted', 'running')"
        " OR e.finished_at > now() - make_interval(secs => %s) AND e.admitted_at IS NOT NULL",
        (REMEMBERED,),
    ).fetchall()
    return [
        Started(
            row["id"],
            row["project"],
            row["purpose"],
            row["turn"] or 0.0,
            row["expected"] or 0.0,
            row["admitted_at"],
            row["ended_at"],
        )
        for row in rows
    ]


def _medians(connection: Connection, algorithms: set[str]) -> dict[str, float]:
    """Seconds that the last runs of each algorithm held their place, in the median; not of one that has not run lately."""
    rows = connection.execute(
        "SELECT algorithm, percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS seconds FROM ("
        " SELECT r.algorithm, extract(epoch FROM e.finished_at - e.admitted_at)::float8 AS seconds,"
        "  row_number() OVER (PARTITION BY r.algorithm ORDER BY e.finished_at DESC) AS place"
        " FROM (SELECT run, admitted_at, finished_at FROM execution WHERE state = 'succeeded' AND finished_at IS NOT NULL"
        "  ORDER BY finished_at DESC LIMIT %s) e JOIN run r ON r.identity = e.run WHERE r.algorithm = ANY(%s)) latest"
        " WHERE place <= %s GROUP BY algorithm",
        (AMONG, sorted(algorithms), LAST_RUNS),
    ).fetchall()
    return {row["algorithm"]: row["seconds"] for row in rows if row["seconds"] is not None}
