"""Runs start in a fair order and never more at once than the site and their project allow: on a real database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from insitu.database import Database
from insitu.projects import projects
from insitu.runs import executions, listing
from insitu.runs.admission import admit, delays, situation
from insitu.runs.identity import RunInput
from insitu.settings import Settings, load

TRAINING = "sha256:" + "b" * 64
Ask = Callable[..., list[str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two runs and one training at once."""
    return load(tmp_path, runs_at_once=2, trainings_at_once=1)


@pytest.fixture
def ask(database: Database, algorithm: str) -> Ask:
    """Ask for runs of a project; of an algorithm that trains where it is TRAINING."""
    asked = 0
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES (%s, 'trainer', '1.0.0', %s, '/nowhere', 'test')",
            (TRAINING, Jsonb({"purpose": "training", "resources": {"seconds": 36_000}})),
        )

    def ask_for(project: str, number: int = 1, digest: str = algorithm) -> list[str]:
        nonlocal asked
        made = []
        for _ in range(number):
            asked += 1
            uid, content = f"1.2.{asked}", f"{asked:064d}"
            item = RunInput(name="image", series_instance_uid=uid, revision=1, content_digest=content)
            with database.transaction() as connection:  # one by one, as they are asked for: each at a time of its own
                requested = executions.request(
                    connection, project=project, algorithm_digest=digest, publish_version="1", inputs=[item],
                    parameters={}, requested_by="test",
                )  # fmt: skip
            made.append(requested.execution)
        return made

    return ask_for


def admitted(database: Database, settings: Settings) -> list[str]:
    """What is admitted now."""
    with database.transaction() as connection:
        return admit(connection, settings)


def end(database: Database, *names: str, seconds: float = 0.0) -> None:
    """End executions well when so many seconds have passed."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE execution SET admitted_at = admitted_at - make_interval(secs => %(s)s),"
            " finished_at = finished_at - make_interval(secs => %(s)s)",
            {"s": seconds},
        )
        for name in names:
            executions.finish(connection, name, "succeeded")


def test_admission_counts_what_already_runs(database: Database, settings: Settings, ask: Ask) -> None:
    ask("inbox", 4)
    first = admitted(database, settings)
    assert admitted(database, settings) == []
    end(database, first[0])
    assert len(first) == 2
    assert len(admitted(database, settings)) == 1


def test_one_project_with_everything_asked_first_does_not_keep_another_waiting(
    database: Database, settings: Settings, ask: Ask
) -> None:
    first, second = ask("inbox", 6), ask("trial", 3)
    order: list[str] = []
    while now := admitted(database, settings):
        order += now
        end(database, *now)
    assert order == [first[0], second[0], first[1], second[1], first[2], second[2], *first[3:]]


def test_weight_and_limit_of_a_project_decide(database: Database, settings: Settings, ask: Ask) -> None:
    with database.transaction() as connection:
        projects.set_share(connection, "inbox", 3.0, None)
        projects.set_share(connection, "trial", 1.0, 1)
    mine, others = ask("inbox", 6), ask("trial", 6)
    wide = settings.model_copy(update={"runs_at_once": 4})
    assert sorted(admitted(database, wide)) == sorted([*mine[:3], others[0]])
    end(database, *mine[:3])
    assert admitted(database, wide) == mine[3:]
    with database.transaction() as connection:
        assert delays(connection, wide)[others[1]].limit == "project"


def test_a_training_takes_no_place_of_a_run_and_a_second_one_waits(
    database: Database, settings: Settings, ask: Ask
) -> None:
    trainings = ask("inbox", 2, TRAINING)
    assert admitted(database, settings) == trainings[:1]
    runs = ask("inbox", 3)
    assert admitted(database, settings) == runs[:2]
    with database.transaction() as connection:
        found = delays(connection, settings)
    assert found[trainings[1]].sentence == "Waits: it is the next; limit of the site: 1 training at once"
    assert found[runs[2]].sentence == "Waits: it is the next; limit of the site: 2 runs at once"
    end(database, trainings[0])
    assert admitted(database, settings) == trainings[1:]
    none = settings.model_copy(update={"trainings_at_once": 0})
    ask("inbox", 1, TRAINING)
    end(database, trainings[1])
    assert admitted(database, none) == []


def test_how_long_a_run_takes_is_learned_from_the_last_ones(
    database: Database, settings: Settings, ask: Ask, algorithm: str
) -> None:
    quick = "sha256:" + "c" * 64
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES (%s, 'quick', '1.0.0', %s, '/nowhere', 'test')",
            (quick, Jsonb({"resources": {"seconds": 900}})),
        )
        connection.execute(
            "UPDATE algorithm SET manifest = %s WHERE digest = %s", (Jsonb({"resources": {"seconds": 60}}), algorithm)
        )
    slow_one, quick_one = ask("inbox", 1, algorithm), ask("inbox", 1, quick)
    with database.transaction() as connection:
        assert {item.execution: item.expected for item in situation(connection, settings).waiting} == {
            slow_one[0]: 60.0,
            quick_one[0]: 900.0,
        }
    admitted(database, settings)
    end(database, *quick_one, seconds=2)
    end(database, *slow_one, seconds=48)
    later, sooner = ask("inbox", 1, algorithm), ask("inbox", 1, quick)
    assert admitted(database, settings.model_copy(update={"runs_at_once": 1})) == sooner
    with database.transaction() as connection:
        (waiting,) = situation(connection, settings).waiting
    assert (waiting.execution, round(waiting.expected)) == (later[0], 50)


def test_order_goes_on_after_a_restart(database: Database, settings: Settings, ask: Ask) -> None:
    """Nothing but the run table is remembered: what a project used counts also for a dispatcher that has just begun."""
    one = settings.model_copy(update={"runs_at_once": 1})
    first, second = ask("inbox", 3), ask("trial", 3)
    order: list[str] = []
    for _ in range(6):
        fresh = Database(database.dsn, minimum=1, maximum=1)
        now = admitted(fresh, one)
        fresh.close()
        order += now
        end(database, *now, seconds=30)
    assert [sorted(order[at : at + 2]) for at in (0, 2, 4)] == [
        sorted(pair) for pair in zip(first, second, strict=True)
    ]


def test_two_dispatchers_together_admit_no_more_than_the_limits(
    database: Database, settings: Settings, ask: Ask
) -> None:
    with database.transaction() as connection:
        projects.set_share(connection, "trial", 1.0, 1)
    ask("inbox", 12)
    ask("trial", 6)
    ask("trial", 3, TRAINING)
    most = {"inference": settings.runs_at_once, "training": 1, "trial": 1}
    seen: list[dict[str, int]] = []
    order: list[str] = []
    guard = threading.Lock()
    failures: list[BaseException] = []

    def dispatch() -> None:
        own = Database(database.dsn, minimum=1, maximum=2)
        try:
            for _ in range(200):
                with own.transaction() as connection:
                    mine = admit(connection, settings)
                with own.transaction() as connection:
                    rows = connection.execute(
                        "SELECT e.id, e.purpose, r.project FROM execution e JOIN run r ON r.identity = e.run"
                        " WHERE e.state = 'submitted'"
                    ).fetchall()
                inference = [row for row in rows if row["purpose"] == "inference"]
                with guard:
                    order.extend(mine)
                    seen.append(
                        {
                            "inference": len(inference),
                            "training": len(rows) - len(inference),
                            "trial": sum(1 for row in inference if row["project"] == "trial"),
                        }
                    )
                    done = len(order) == 21
                for name in mine:
                    with own.transaction() as connection:
                        executions.finish(connection, name, "succeeded")
                if done:
                    return
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            own.close()

    threads = [threading.Thread(target=dispatch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert len(set(order)) == len(order) == 21
    for name, limit in most.items():
        assert max(each[name] for each in seen) <= limit, name


def test_a_person_sees_why_a_run_waits(database: Database, settings: Settings, ask: Ask) -> None:
    names = ask("inbox", 4)
    admitted(database, settings)
    with database.transaction() as connection:
        shown = listing.detail(connection, settings, executions.get(connection, names[3]))
        listed = listing.executions(connection, settings, None, state=None, series=None, limit=10)
        running = listing.detail(connection, settings, executions.get(connection, names[0]))
    assert shown["waiting"]["sentence"] == "Waits: before it go 1 of its project; limit of the site: 2 runs at once"
    assert {run["execution"]: bool(run["waiting"]) for run in listed} == {
        names[0]: False, names[1]: False, names[2]: True, names[3]: True,
    }  # fmt: skip
    assert running["waiting"] is None
