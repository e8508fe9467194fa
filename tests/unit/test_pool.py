"""Connections to a PostgreSQL that goes away, falls silent or loses a process: nobody waits for ever, and it heals quickly (OPS-6)."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from insitu.database import Database
from insitu.errors import Unavailable
from tests.database_server import Server

PATIENCE = 60  # seconds a loaded machine may take


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One that runs."""
    with tempfile.TemporaryDirectory(prefix="insitu-pg-") as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.signal(signal.SIGCONT)
            server.stop()


def one(database: Database) -> int:
    """The number of the backend that answers."""
    with database.transaction() as connection:
        row = connection.execute("SELECT pg_backend_pid() AS pid").fetchone()
    assert row is not None
    return int(row["pid"])


def slow(database: Database, seconds: float) -> None:
    """A statement that takes its time."""
    with database.transaction() as connection:
        connection.execute("SELECT pg_sleep(%s)", (seconds,))


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_restarted_server_is_used_again_within_seconds_by_all_who_waited(server: Server) -> None:
    database = Database(server.dsn, maximum=4)
    answered = [0.0] * 12
    stopping = threading.Event()

    def work(number: int) -> None:
        while not stopping.is_set():
            try:
                one(database)
                answered[number] = time.monotonic()
            except (Unavailable, psycopg.OperationalError):
                time.sleep(0.05)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(answered))]
    for thread in threads:
        thread.start()
    until(lambda: all(answered), "it does not work at all")
    server.stop()
    time.sleep(4)  # long enough for whoever tries ever less often to be asleep when it is back
    server.start()
    back = time.monotonic()
    until(lambda: min(answered) > back, "somebody is not served")
    healed = time.monotonic() - back
    stopping.set()
    for thread in threads:
        thread.join(PATIENCE)
    database.close()
    assert healed < 5, f"{healed:.1f} s"


@pytest.mark.parametrize("when", ["idle", "at work"])
def test_a_stopped_backend_of_a_server_that_lives_ends_what_waits_for_it_and_is_replaced(
    server: Server, when: str
) -> None:
    database = Database(server.dsn, maximum=1, patience=1, statement_seconds=1)
    backend = psutil.Process(one(database))
    at_work = threading.Event()

    def stop() -> None:
        at_work.wait(PATIENCE)
        time.sleep(0.3)
        backend.send_signal(signal.SIGSTOP)

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        if when == "idle":
            at_work.set()
            stopper.join()
        at_work.set()
        with pytest.raises(psycopg.OperationalError):
            slow(database, 0 if when == "idle" else 0.8)
        assert one(database) != backend.pid
        assert database.silent_at is not None
    finally:
        at_work.set()
        stopper.join()
        backend.send_signal(signal.SIGCONT)
        database.close()


def test_a_long_statement_of_a_server_that_lives_is_not_cut_off(server: Server) -> None:
    database = Database(server.dsn, maximum=1, patience=0.5)
    with database.transaction() as connection:
        connection.execute("SELECT pg_sleep(2)")
        time.sleep(1.5)  # nor a transaction that is slow on our side
        connection.execute("SELECT 1")
    assert database.silent_at is None
    database.close()


def test_who_waits_longest_for_a_connection_gets_it_first(server: Server) -> None:
    database = Database(server.dsn, maximum=1)
    order: list[int] = []

    def wait(number: int) -> None:
        with database.transaction():
            order.append(number)

    with database.transaction():
        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            time.sleep(0.05)
    for thread in threads:
        thread.join(PATIENCE)
    assert order == [0, 1, 2, 3, 4]
    database.close()


def test_an_error_rolls_back_and_leaves_the_connection_usable(server: Server) -> None:
    database = Database(server.dsn, maximum=1)
    backend = one(database)

    def fail() -> None:
        with database.transaction() as connection:
            connection.execute("CREATE TABLE vanishes (id int)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.transaction() as connection:
        assert connection.execute("SELECT to_regclass('vanishes') AS found").fetchone() == {"found": None}
    with pytest.raises(psycopg.errors.SyntaxError), database.statement() as connection:
        connection.execute("SELEKT")
    assert one(database) == backend
    database.close()
