"""A run is asked for once, ends once, and its history tells everything."""

import threading
from typing import Any

import pytest

from insitu.database import Connection, Database
from insitu.errors import Conflict, NotFound
from insitu.runs import executions
from insitu.runs.identity import RunInput, run_identity

ONE = RunInput(name="image", series_instance_uid="1.2.3", revision=1, content_digest="ab" * 32)


def ask(connection: Connection, algorithm: str, **changes: Any) -> executions.Requested:
    arguments: dict[str, Any] = {
        "project": "inbox", "algorithm_digest": algorithm, "publish_version": "1", "inputs": [ONE], "parameters": {},
        "requested_by": "test",
    }  # fmt: skip
    return executions.request(connection, **{**arguments, **changes})


def test_the_same_content_in_another_order_and_revision_is_the_same_run() -> None:
    other = ONE.model_copy(update={"name": "other", "series_instance_uid": "1.2.4"})
    later = ONE.model_copy(update={"revision": 7})
    assert run_identity("p", "a", "1", [ONE, other], {"x": 1, "y": 2}) == run_identity(
        "p", "a", "1", [other, later], {"y": 2, "x": 1}
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"project": "q"},
        {"algorithm_digest": "b"},
        {"publish_version": "2"},
        {"parameters": {"x": 2}},
        {"inputs": [ONE.model_copy(update={"content_digest": "cd" * 32})]},
    ],
)
def test_whatever_changes_the_result_changes_the_run(changed: dict[str, Any]) -> None:
    base: dict[str, Any] = {
        "project": "p", "algorithm_digest": "a", "publish_version": "1", "inputs": [ONE], "parameters": {"x": 1},
    }  # fmt: skip
    assert run_identity(**base) != run_identity(**{**base, **changed})


def test_asking_twice_makes_one_execution(database: Database, algorithm: str) -> None:
    with database.transaction() as connection:
        first = ask(connection, algorithm)
        second = ask(connection, algorithm)
    assert first.created
    assert not second.created
    assert second.execution == first.execution


def test_four_dispatchers_asking_at_once_make_one_execution(database: Database, algorithm: str) -> None:
    made = []
    gate = threading.Barrier(4)

    def work() -> None:
        gate.wait()
        with database.transaction() as connection:
            made.append(ask(connection, algorithm))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({item.execution for item in made}) == 1
    assert sum(item.created for item in made) == 1


def test_a_forced_run_is_a_new_execution_with_its_own_id(database: Database, algorithm: str) -> None:
    with database.transaction() as connection:
        first = ask(connection, algorithm)
        executions.finish(connection, first.execution, "succeeded")
        second = ask(connection, algorithm, force=True)
    assert second.created
    assert second.execution.endswith("-2")


def test_a_forced_run_does_not_compete_with_one_that_is_going_on(database: Database, algorithm: str) -> None:
    with database.transaction() as connection:
        ask(connection, algorithm)
        with pytest.raises(Conflict):
            ask(connection, algorithm, force=True)


def test_an_execution_ends_once_and_its_tokens_end_with_it(database: Database, algorithm: str) -> None:
    with database.transaction() as connection:
        execution = ask(connection, algorithm).execution
        connection.execute(
            "INSERT INTO execution_token VALUES ('\\x01', %s, 'fetch', now() + interval '1 hour')", (execution,)
        )
        assert executions.finish(connection, execution, "failed", failure="algorithm-failed", reason="It said no.")
        assert not executions.finish(connection, execution, "succeeded")
        row = executions.get(connection, execution)
        tokens = connection.execute("SELECT count(*) AS n FROM execution_token").fetchone()
    assert (row["state"], row["failure"]) == ("failed", "algorithm-failed")
    assert tokens == {"n": 0}


def test_cancelling_before_the_start_ends_it_and_later_only_asks(database: Database, algorithm: str) -> None:
    with database.transaction() as connection:
        waiting = ask(connection, algorithm).execution
        assert executions.ask_to_cancel(connection, waiting, "me") == "cancelled"
        with pytest.raises(Conflict):
            executions.ask_to_cancel(connection, waiting, "me")
        running = ask(connection, algorithm, force=True).execution
        executions.advance(connection, running, "submitted", allowed=("requested",), stage="admitted")
        assert executions.ask_to_cancel(connection, running, "me") == "submitted"
        assert executions.heartbeat(connection, running)


def test_an_unknown_execution_is_not_found(database: Database) -> None:
    with database.transaction() as connection, pytest.raises(NotFound):
        executions.get(connection, "nothing-1")


def test_the_log_keeps_text_that_postgresql_cannot(database: Database, algorithm: str) -> None:
    with database.transaction() as connection:
        execution = ask(connection, algorithm).execution
        executions.save_log(connection, execution, "algorithm", "one\x00two")
        executions.save_log(connection, execution, "algorithm", "three\x00four")
        row = connection.execute("SELECT text FROM execution_log").fetchone()
    assert row == {"text": "three�four"}


def test_a_later_success_supersedes_the_earlier_results_and_deletes_nothing(database: Database, algorithm: str) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO study (study_instance_uid) VALUES ('1.2')")
        first = ask(connection, algorithm).execution
        connection.execute(
            "INSERT INTO series (series_instance_uid, study, execution) SELECT '1.2.9', id, %s FROM study", (first,)
        )
        executions.finish(connection, first, "succeeded")
        changed = ONE.model_copy(update={"revision": 2, "content_digest": "ef" * 32})
        second = ask(connection, algorithm, inputs=[changed]).execution
        executions.finish(connection, second, "succeeded")
        row = connection.execute("SELECT superseded_by FROM series WHERE series_instance_uid = '1.2.9'").fetchone()
    assert row == {"superseded_by": second}
