"""The reconciler: settles executions that the workflow engine lost, so that none hangs for ever.

Not here: failures that the job itself reports (insitu.runs.outcomes).
"""

from __future__ import annotations

from enum import StrEnum

from insitu.database import Connection, Database, Row

from .engine import Engine
from .executions import finish, record

# An execution that showed no sign of life for so long is looked at, in seconds.
SILENCE = 20.0


class Verdict(StrEnum):
    """What to do with an execution."""

    WAIT = "wait"
    START_AGAIN = "start-again"
    SUCCEEDED = "succeeded"
    LOST = "lost"


def judge(state: str, published: bool, engine_state: str | None) -> Verdict:
    """What to do with a silent execution. Pure.

    Parameters
    ----------
    state : str
        `submitted` or `running`.
    published : bool
        Whether its results are in the archive.
    engine_state : str or None
        State of its DAG run; None where the engine does not know it.
    """
    if engine_state in ("queued", "running"):
        return Verdict.WAIT
    if published:
        return Verdict.SUCCEEDED
    if engine_state is None:
        return Verdict.START_AGAIN  # a repeat attaches to the job where one is running
    return Verdict.LOST


def reconcile(database: Database, engine: Engine, *, silence: float = SILENCE) -> list[tuple[str, Verdict]]:
    """Look at every silent active execution and settle it; what was decided, without those that go on."""
    with database.transaction() as connection:
        silent = connection.execute(
            "SELECT id, state FROM execution WHERE state IN ('submitted', 'running')"
            " AND coalesce(heartbeat_at, admitted_at) < now() - make_interval(secs => %s)",
            (silence,),
        ).fetchall()
    decided: list[tuple[str, Verdict]] = []
    for row in silent:
        engine_state = engine.state(row["id"])
        with database.transaction() as connection:
            verdict = judge(row["state"], published(connection, row["id"]), engine_state)
            if verdict is Verdict.WAIT:
                continue
            _settle(connection, row, verdict, engine_state)
        if verdict is Verdict.START_AGAIN:
            engine.start(row["id"])
        decided.append((str(row["id"]), verdict))
    return decided


def published(connection: Connection, execution: str) -> bool:
    """Whether results of the execution are in the archive."""
    row = connection.execute("SELECT 1 FROM execution_result WHERE execution = %s LIMIT 1", (execution,)).fetchone()
    return row is not None


def _settle(connection: Connection, row: Row, verdict: Verdict, engine_state: str | None) -> None:
    execution = row["id"]
    if verdict is Verdict.SUCCEEDED:
        finish(connection, execution, "succeeded")
    elif verdict is Verdict.LOST:
        finish(
            connection,
            execution,
            "failed",
            failure="engine-lost",
            reason=f"Airflow ended this run ({engine_state}) without telling its outcome; start it again with "
            f"`insitu run start --again {execution}`",
        )
    else:
        record(connection, execution, "start-again", {"why": "Airflow does not know the run"})
        connection.execute("UPDATE execution SET heartbeat_at = now() WHERE id = %s", (execution,))
