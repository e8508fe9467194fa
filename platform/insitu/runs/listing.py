"""Executions as people see them: lists, one with its waterfall, logs. Reads only."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from insitu.database import Connection, Row
from insitu.settings import Settings

from .admission import delays
from .admission_plan import Delay
from .executions import history

# The stages of the waterfall in order, with what their bar shows; a bar lasts until the next stage that was reached.
WATERFALL = {
    "acknowledged": "acknowledged, quiet time",
    "complete": "complete, routing",
    "requested": "waiting for admission",
    "admitted": "to Airflow",
    "prepared": "Airflow starts the task",
    "fetch": "fetch",
    "algorithm": "algorithm",
    "publish": "publish",
    "published": "archived, Airflow concludes",
}


def executions(
    connection: Connection,
    settings: Settings,
    projects: frozenset[str] | None,
    *,
    state: str | None,
    series: str | None,
    limit: int,
) -> list[dict[str, Any]]:
    """Newest executions of the given projects (None: of all), optionally of one state or with one input series."""
    rows = connection.execute(
        "SELECT e.id AS execution, e.state, e.failure, e.reason, e.requested_by, e.rule, e.requested_at, e.finished_at,"
        " r.project, r.inputs, r.parameters, a.name AS algorithm, a.version"
        " FROM execution e JOIN run r ON r.identity = e.run JOIN algorithm a ON a.digest = r.algorithm"
        " WHERE (%(all)s OR r.project = ANY(%(projects)s)) AND (%(state)s::text IS NULL OR e.state = %(state)s)"
        " AND (%(series)s::text IS NULL OR r.inputs @> jsonb_build_array(jsonb_build_object('series_instance_uid', %(series)s::text)))"
        " ORDER BY e.requested_at DESC, e.id LIMIT %(limit)s",
        {"all": projects is None, "projects": sorted(projects or ()), "state": state, "series": series, "limit": limit},
    ).fetchall()
    waiting = delays(connection, settings) if any(row["state"] == "requested" for row in rows) else {}
    return [
        {
            "execution": row["execution"],
            "state": row["state"],
            "waiting": _why(waiting.get(row["execution"])),
            "algorithm": row["algorithm"],
            "version": row["version"],
            "project": row["project"],
            "series": [item["series_instance_uid"] for item in row["inputs"]],
            "parameters": row["parameters"],
            "failure": row["failure"],
            "reason": row["reason"],
            "requested_by": row["requested_by"],
            "rule": row["rule"],
            "requested_at": _text(row["requested_at"]),
            "finished_at": _text(row["finished_at"]),
        }
        for row in rows
    ]


def detail(connection: Connection, settings: Settings, row: Row) -> dict[str, Any]:
    """Everything about one execution (a row of executions.get): history, waterfall in seconds, results, what it waits for."""
    events = history(connection, row["id"])
    delay = delays(connection, settings).get(row["id"]) if row["state"] == "requested" else None
    results = connection.execute(
        "SELECT x.kind, x.sop_instance_uid, x.series_instance_uid, x.summary, s.superseded_by, t.study_instance_uid"
        " FROM execution_result x LEFT JOIN series s ON s.series_instance_uid = x.series_instance_uid"
        " LEFT JOIN study t ON t.id = s.study WHERE x.execution = %s ORDER BY x.kind, x.sop_instance_uid",
        (row["id"],),
    ).fetchall()
    times = _arrival(connection, row["inputs"])
    times.update({event["stage"]: event["at"] for event in reversed(events)})
    times.update(step_times(events))
    return {
        "execution": row["id"],
        "state": row["state"],
        "waiting": _why(delay),
        "purpose": row["purpose"],
        "algorithm": row["algorithm"],
        "version": row["algorithm_version"],
        "digest": row["algorithm_digest"],
        "project": row["project"],
        "inputs": row["inputs"],
        "parameters": row["parameters"],
        "requested_by": row["requested_by"],
        "rule": row["rule"],
        "failure": row["failure"],
        "reason": row["reason"],
        "requested_at": _text(row["requested_at"]),
        "finished_at": _text(row["finished_at"]),
        "history": [{"stage": e["stage"], "at": _text(e["at"]), "detail": e["detail"]} for e in events],
        "waterfall": waterfall(times, row["finished_at"]),
        "results": results,
    }


def _why(delay: Delay | None) -> dict[str, Any] | None:
    return None if delay is None else {**asdict(delay), "sentence": delay.sentence}


def step_times(events: list[Row]) -> dict[str, datetime]:
    """When each step began by the launcher's own record; the events tell only when the platform heard of it. Pure."""
    ended: list[Row] = [event for event in events if event["stage"] == "ended"]
    steps = ended[-1]["detail"].get("steps", []) if ended else []
    return {step["name"]: datetime.fromtimestamp(step["started_at"], UTC) for step in steps}


def waterfall(times: dict[str, datetime], finished: datetime | None) -> list[dict[str, Any]]:
    """Bars of the waterfall: stage, what it shows, start and duration in seconds since the first. Pure."""
    reached = [(stage, times[stage]) for stage in WATERFALL if stage in times]
    if not reached:
        return []
    first = min(at for _, at in reached)
    bars = []
    for position, (stage, at) in enumerate(reached):
        end = reached[position + 1][1] if position + 1 < len(reached) else finished
        bars.append(
            {
                "stage": stage,
                "shows": WATERFALL[stage],
                "start": round((at - first).total_seconds(), 3),
                "seconds": None if end is None else round(max(0.0, (end - at).total_seconds()), 3),
            }
        )
    return bars


def log(connection: Connection, execution: str, step: str | None) -> str:
    """Logs of the steps as one text with a heading each, or of one step."""
    rows = connection.execute(
        "SELECT step, text FROM execution_log WHERE execution = %s AND (%s::text IS NULL OR step = %s)"
        " ORDER BY array_position(ARRAY['fetch', 'algorithm', 'publish'], step)",
        (execution, step, step),
    ).fetchall()
    return "\n".join(f"── {row['step']}\n{row['text'].rstrip()}\n" for row in rows)


def _arrival(connection: Connection, inputs: list[dict[str, Any]]) -> dict[str, datetime]:
    row = connection.execute(
        "SELECT max(i.received_at) AS acknowledged,"
        " (SELECT max(v.completed_at) FROM series_revision v JOIN series q ON q.id = v.series"
        "  JOIN jsonb_to_recordset(%(inputs)s) AS w(series_instance_uid text, revision integer)"
        "  ON w.series_instance_uid = q.series_instance_uid AND w.revision = v.revision) AS complete"
        " FROM instance i JOIN series s ON s.id = i.series WHERE s.series_instance_uid = ANY(%(uids)s)",
        {
            "inputs": Jsonb(inputs),
            "uids": [item["series_instance_uid"] for item in inputs],
        },
    ).fetchone()
    return {name: at for name, at in (row or {}).items() if at is not None}


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
