"""`insitu up`: one process tree that starts, says what is wrong, heals, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from insitu import processes
from tests.system.running import GONE_SECONDS, READY_SECONDS, Running, platform, until

pytestmark = pytest.mark.system


@pytest.fixture
def own() -> Iterator[Running]:
    """A platform of the test's own, not yet started."""
    with platform() as running:
        yield running


def everything_gone(running: Running) -> None:
    """Wait until no process of the platform lives."""
    until(lambda: not running.left(), GONE_SECONDS, lambda: f"still there: {running.left()}")


def record(running: Running, name: str) -> processes.ProcessRecord:
    """What the supervisor recorded of a process."""
    return next(item for item in running.state.processes if item.name == name)


def test_ready_platform_says_where_it_is_and_shows_the_password_once(platform_up: Running) -> None:
    facts = platform_up.facts()
    assert facts is not None
    assert facts["url"] == platform_up.http_url
    assert facts["account"] == "admin"
    assert len(facts["password"]) >= 12
    assert not (platform_up.home / "secrets" / "first-password").exists()


def test_status_knows_every_process(platform_up: Running) -> None:
    done = platform_up.insitu("status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert facts["ready"] is True
    assert {row["name"] for row in facts["processes"]} == {
        "postgres", "airflow-api", "airflow-scheduler", "airflow-dag-processor", "receiver", "dispatcher", "api",
    }  # fmt: skip
    assert all(row["pid"] and row["memory_bytes"] > 0 for row in facts["processes"])
    assert facts["isolation"] in ("bubblewrap", "namespaces", "none")
    assert "ready" in platform_up.insitu("status").stdout


def test_second_start_names_the_holder_of_the_home(platform_up: Running) -> None:
    done = platform_up.insitu("up")
    assert done.returncode == 1
    assert f"process number {platform_up.state.pid} holds it since 20" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_listens_beyond_loopback_but_the_dicom_port(platform_up: Running) -> None:
    sessions = [item.pid for item in platform_up.state.processes if item.pid is not None]
    listening = set()
    for pid in [platform_up.state.pid, *(member for session in sessions for member in processes.members(session))]:
        try:
            for connection in psutil.Process(pid).net_connections("inet"):
                address = tuple(connection.laddr)
                if connection.status == psutil.CONN_LISTEN:
                    listening.add((address[0], address[1]))
        except psutil.Error:  # it ended between two questions about it
            continue
    assert {port for _, port in listening} == platform_up.ports
    beyond = [host for host, port in listening if host != "127.0.0.1" and port != platform_up.dicom_port]
    assert beyond == []


def test_airflow_cannot_open_the_domain_database(platform_up: Running) -> None:
    settings = platform_up.settings
    password = (settings.secrets / "database-airflow").read_text().strip()
    login = {"host": str(settings.database_socket), "user": "airflow", "password": password}
    with psycopg.connect(**login, dbname="airflow", connect_timeout=30) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    for database in ("insitu", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(**login, dbname=database, connect_timeout=30)


def test_airflow_gets_no_secret_of_ours_in_its_environment(platform_up: Running) -> None:
    pid = record(platform_up, "airflow-scheduler").pid
    environment = (psutil.Process(pid)).environ()
    secrets = {file.read_text().strip() for file in (platform_up.home / "secrets").iterdir() if file.is_file()}
    assert not secrets & set(environment.values())
    assert not [name for name in environment if "DATABASE" in name or "DSN" in name]


def test_secrets_are_for_their_owner_only(platform_up: Running) -> None:
    assert (platform_up.home / "secrets").stat().st_mode & 0o077 == 0
    for file in (platform_up.home / "airflow" / "airflow.cfg", *(platform_up.home / "secrets").iterdir()):
        assert file.stat().st_mode & 0o077 == 0, file


def test_doctor_finds_a_running_platform_healthy(platform_up: Running) -> None:
    done = platform_up.insitu("doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {finding["check"] for finding in json.loads(done.stdout)} >= {"home", "ports", "airflow", "isolation"}


def test_killed_process_comes_back_and_killed_supervisor_leaves_a_usable_home(own: Running) -> None:
    own.start()
    first = own.wait_ready()
    assert "password" in first

    before = record(own, "dispatcher")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)

    def healed() -> bool:
        now = record(own, "dispatcher")
        return now.ready and now.pid != before.pid and now.restarts == 1

    until(healed, READY_SECONDS, lambda: f"the dispatcher is not back; {own.said()}\n{own.logs()}")
    assert "dispatcher ended (by SIGKILL)" in own.said()

    assert own.process is not None
    own.process.kill()
    own.process.wait(timeout=GONE_SECONDS)
    everything_gone(own)
    assert own.insitu("status").returncode == 1

    own.start()
    second = own.wait_ready()
    assert "password" not in second
    assert own.insitu("status").returncode == 0

    begun = time.monotonic()
    assert own.stop(signal.SIGTERM) == 0
    print(f"stopped in {time.monotonic() - begun:.1f} s")
    everything_gone(own)
    assert processes.read(own.settings) is None
    assert "database system is shut down" in (own.home / "logs" / "postgres.log").read_text()


def test_stop_in_the_middle_of_the_first_start_leaves_nothing(own: Running) -> None:
    own.start()
    until(
        lambda: (own.home / "supervisor" / "state.json").exists(),
        READY_SECONDS,
        lambda: f"nothing was started; {own.said()}",
    )
    assert own.stop(signal.SIGINT) == 0
    everything_gone(own)
