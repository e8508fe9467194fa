"""Executions of runs: request, states, history, results. The run table is the truth, not the workflow engine.

    requested ──admitted──▶ submitted ──prepared──▶ running ──▶ succeeded | failed | cancelled

Not here: which execution may go next (admission), what the engine lost (reconcile).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from insitu.database import Connection, Row
from insitu.errors import Conflict, NotFound

from .identity import RunInput, execution_id, run_identity

ACTIVE = ("requested", "submitted", "running")
FINAL = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Requested:
    """Answer to a request: the execution, and whether it was made by this request."""

    execution: str
    state: str
    created: bool


def request(
    connection: Connection,
    *,
    project: str,
    algorithm_digest: str,
    publish_version: str,
    inputs: list[RunInput],
    parameters: dict[str, Any],
    requested_by: str,
    rule: str | None = None,
    depth: int = 1,
    force: bool = False,
) -> Requested:
    """Ask for a run. The same identity again is a no-op that names the latest execution, unless forced (RUN-6)."""
    identity = run_identity(project, algorithm_digest, publish_version, inputs, parameters)
    connection.execute(
        "INSERT INTO run (identity, project, algorithm, publish_version, inputs, parameters)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            identity,
            project,
            algorithm_digest,
            publish_version,
            Jsonb([item.model_dump() for item in inputs]),
            Jsonb(parameters),
        ),
    )
    connection.execute("SELECT 1 FROM run WHERE identity = %s FOR UPDATE", (identity,))
    latest = connection.execute(
        "SELECT id, number, state FROM execution WHERE run = %s ORDER BY number DESC LIMIT 1", (identity,)
    ).fetchone()
    if latest and not force:
        return Requested(latest["id"], latest["state"], created=False)
    if latest and latest["state"] in ACTIVE:
        raise Conflict(
            "This run is still going on",
            value=latest["id"],
            why="a forced run would compete with it for the same result",
            remedy=f"Wait for it or cancel it: insitu run cancel {latest['id']}",
        )
    number = latest["number"] + 1 if latest else 1
    identifier = execution_id(identity, number)
    connection.execute(
        "INSERT INTO execution (id, run, number, requested_by, rule, depth, purpose)"
        " SELECT %s, %s, %s, %s, %s, %s, coalesce(manifest ->> 'purpose', 'inference') FROM algorithm WHERE digest = %s",
        (identifier, identity, number, requested_by, rule, depth, algorithm_digest),
    )
    record(connection, identifier, "requested", {"by": requested_by, "rule": rule})
    return Requested(identifier, "requested", created=True)


def record(connection: Connection, execution: str, stage: str, detail: dict[str, Any] | None = None) -> None:
    """Append to the history of an execution."""
    connection.execute(
        "INSERT INTO execution_event (execution, stage, detail) VALUES (%s, %s, %s)",
        (execution, stage, Jsonb(detail or {})),
    )


def get(connection: Connection, execution: str, *, lock: bool = False) -> Row:
    """One execution joined with its run and algorithm.

    Raises
    ------
    NotFound
        There is no execution of this id.
    """
    row = connection.execute(
        "SELECT e.*, r.project, r.inputs, r.parameters, r.publish_version, r.algorithm AS algorithm_digest,"
        " a.name AS algorithm, a.version AS algorithm_version, a.manifest, a.location, a.image, a.trusted"
        " FROM execution e JOIN run r ON r.identity = e.run JOIN algorithm a ON a.digest = r.algorithm"
        " WHERE e.id = %s" + (" FOR UPDATE OF e" if lock else ""),
        (execution,),
    ).fetchone()
    if row is None:
        raise NotFound("There is no such run", value=execution, remedy="List the runs: insitu run list")
    return row


def history(connection: Connection, execution: str) -> list[Row]:
    """Events of an execution in order: stage, at, detail."""
    return connection.execute(
        "SELECT stage, at, detail FROM execution_event WHERE execution = %s ORDER BY id", (execution,)
    ).fetchall()


def advance(
    connection: Connection,
    execution: str,
    state: str,
    *,
    allowed: tuple[str, ...],
    stage: str,
    detail: dict[str, Any] | None = None,
) -> bool:
    """Move an execution to `state` if it is in one of `allowed`; False, and nothing changed, if it is not."""
    moved = connection.execute(
        "UPDATE execution SET state = %s, heartbeat_at = now(),"
        " admitted_at = CASE WHEN %s = 'submitted' THEN now() ELSE admitted_at END"
        " WHERE id = %s AND state = ANY(%s)",
        (state, state, execution, list(allowed)),
    )
    if moved.rowcount:
        record(connection, execution, stage, detail)
    return bool(moved.rowcount)


def heartbeat(connection: Connection, execution: str) -> bool:
    """Note a sign of life; whether somebody asked to cancel."""
    row = connection.execute(
        "UPDATE execution SET heartbeat_at = now() WHERE id = %s RETURNING cancel_asked", (execution,)
    ).fetchone()
    return bool(row and row["cancel_asked"])


def finish(
    connection: Connection, execution: str, state: str, *, failure: str | None = None, reason: str | None = None
) -> bool:
    """End an execution once; its step tokens end with it. False if it had already ended."""
    moved = connection.execute(
        "UPDATE execution SET state = %s, failure = %s, reason = %s, finished_at = now()"
        " WHERE id = %s AND state = ANY(%s)",
        (state, failure, reason, execution, list(ACTIVE)),
    )
    if not moved.rowcount:
        return False
    record(connection, execution, state, {"failure": failure, "reason": reason} if failure else {})
    connection.execute("DELETE FROM execution_token WHERE execution = %s", (execution,))
    if state == "succeeded":
        supersede(connection, execution)
    return True


def supersede(connection: Connection, execution: str) -> None:
    """Mark result series of earlier executions for the same project, algorithm and source series (ING-6). Nothing is deleted."""
    connection.execute(
        """
        WITH superseded AS (
        UPDATE series SET superseded_by = new.id
        FROM execution new JOIN run new_run ON new_run.identity = new.run JOIN algorithm new_algorithm
             ON new_algorithm.digest = new_run.algorithm,
             execution old JOIN run old_run ON old_run.identity = old.run JOIN algorithm old_algorithm
             ON old_algorithm.digest = old_run.algorithm
        WHERE new.id = %s AND old.id <> new.id AND old.requested_at <= new.requested_at
          AND series.execution = old.id AND series.superseded_by IS NULL
          AND old_run.project = new_run.project AND old_algorithm.name = new_algorithm.name
          AND old_run.parameters = new_run.parameters
          AND (SELECT jsonb_agg(i -> 'series_instance_uid' ORDER BY i ->> 'name') FROM jsonb_array_elements(old_run.inputs) i)
            = (SELECT jsonb_agg(i -> 'series_instance_uid' ORDER BY i ->> 'name') FROM jsonb_array_elements(new_run.inputs) i)
        RETURNING series.series_instance_uid, series.superseded_by)
        INSERT INTO journal_due (event, content)
        SELECT 'superseded', jsonb_build_object('series_instance_uid', series_instance_uid, 'by', superseded_by) FROM superseded
        """,
        (execution,),
    )


def ask_to_cancel(connection: Connection, execution: str, by: str) -> str:
    """Cancel an execution: at once where it waits, by the engine where it runs. Returns the state it is in now."""
    row = get(connection, execution, lock=True)
    if row["state"] in FINAL:
        raise Conflict("This run has already ended", value=execution, why=f"its state is {row['state']}")
    record(connection, execution, "cancel-asked", {"by": by})
    if row["state"] == "requested":
        finish(connection, execution, "cancelled", failure="cancelled", reason=f"Cancelled by {by} before it started")
        return "cancelled"
    connection.execute("UPDATE execution SET cancel_asked = true WHERE id = %s", (execution,))
    return str(row["state"])


def save_log(connection: Connection, execution: str, step: str, text: str) -> None:
    """Keep the log of a step; a later one of the same step replaces it."""
    connection.execute(
        "INSERT INTO execution_log (execution, step, text) VALUES (%s, %s, %s)"
        " ON CONFLICT (execution, step) DO UPDATE SET text = excluded.text",
        (execution, step, text.replace("\x00", "�")),
    )
