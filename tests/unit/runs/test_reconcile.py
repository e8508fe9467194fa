"""What the workflow engine lost is settled: a run never hangs for ever and never fails while it goes on."""

import pytest

from insitu.database import Database
from insitu.runs import executions
from insitu.runs.identity import RunInput
from insitu.runs.reconcile import Verdict, judge, reconcile


@pytest.mark.parametrize(
    ("published", "engine_state", "verdict"),
    [
        (False, "running", Verdict.WAIT),
        (False, "queued", Verdict.WAIT),
        (True, "running", Verdict.WAIT),
        (True, "failed", Verdict.SUCCEEDED),
        (True, None, Verdict.SUCCEEDED),
        (False, None, Verdict.START_AGAIN),
        (False, "failed", Verdict.LOST),
        (False, "success", Verdict.LOST),
    ],
)
def test_each_state_of_the_engine_has_its_verdict(published: bool, engine_state: str | None, verdict: Verdict) -> None:
    assert judge("running", published, engine_state) is verdict


class ScriptedEngine:
    """An engine that knows one run in a given state, or none; it notes what it is asked to start."""

    def __init__(self, state: str | None) -> None:
        self._state = state
        self.started: list[str] = []

    def state(self, execution: str) -> str | None:
        return self._state

    def start(self, execution: str) -> bool:
        self.started.append(execution)
        return True


def silent_execution(database: Database, algorithm: str) -> str:
    item = RunInput(name="image", series_instance_uid="1.2.3", revision=1, content_digest="0" * 64)
    with database.transaction() as connection:
        execution = executions.request(
            connection, project="inbox", algorithm_digest=algorithm, publish_version="1", inputs=[item], parameters={},
            requested_by="test",
        ).execution  # fmt: skip
        executions.advance(connection, execution, "submitted", allowed=("requested",), stage="admitted")
        connection.execute("UPDATE execution SET heartbeat_at = now() - interval '1 hour'")
    return execution


def test_a_run_the_engine_ended_without_a_word_fails_with_a_sentence(database: Database, algorithm: str) -> None:
    execution = silent_execution(database, algorithm)
    assert reconcile(database, ScriptedEngine("failed")) == [(execution, Verdict.LOST)]  # type: ignore[arg-type]
    with database.transaction() as connection:
        row = executions.get(connection, execution)
    assert (row["state"], row["failure"]) == ("failed", "engine-lost")
    assert "Airflow" in row["reason"]


def test_a_run_the_engine_forgot_is_started_again_once(database: Database, algorithm: str) -> None:
    execution = silent_execution(database, algorithm)
    engine = ScriptedEngine(None)
    assert reconcile(database, engine) == [(execution, Verdict.START_AGAIN)]  # type: ignore[arg-type]
    assert reconcile(database, engine) == []  # type: ignore[arg-type]
    assert engine.started == [execution]


def test_a_run_that_goes_on_is_left_alone(database: Database, algorithm: str) -> None:
    execution = silent_execution(database, algorithm)
    assert reconcile(database, ScriptedEngine("running")) == []  # type: ignore[arg-type]
    with database.transaction() as connection:
        assert executions.get(connection, execution)["state"] == "submitted"
