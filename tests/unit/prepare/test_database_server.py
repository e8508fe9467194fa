"""The bundled PostgreSQL of a cluster: nobody comes in without a password, it ends when asked, and starts again after every end."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import psycopg
import pytest

from insitu.errors import Conflict
from insitu_services.database_server import __main__ as starter
from tests.tcp_database import ServerProcess


def superuser(server: ServerProcess, password: str | None = None) -> psycopg.Connection[tuple[object, ...]]:
    settings = server.settings()
    password = password or (server.home / "secrets" / "database-superuser").read_text()
    return psycopg.connect(settings.dsn("postgres", password, "postgres"), connect_timeout=5, autocommit=True)


def test_server_lets_nobody_in_without_the_password(server: ServerProcess) -> None:
    with superuser(server) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW password_encryption").fetchone() == ("scram-sha-256",)
        rules = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
    assert {rule[0] for rule in rules} == {"scram-sha-256", "reject"}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        superuser(server, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"host=127.0.0.1 port={server.port} user=postgres dbname=postgres sslmode=disable")


def test_server_ends_on_sigterm_while_a_client_is_in_a_transaction_and_starts_again(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "home")
    server.start()
    client = superuser(server)
    client.execute("CREATE TABLE kept (n int)")
    client.execute("INSERT INTO kept VALUES (1)")
    client.execute("BEGIN")
    client.execute("INSERT INTO kept VALUES (2)")
    assert server.stop() == 0
    client.close()
    # As after the loss of a container: its lock stays, and names a number that is another process here.
    (server.home / "database" / "postmaster.pid").write_text(f"1\n{server.home / 'database'}\n1\n5432\n\n\n")
    custodian = server.start()
    with superuser(server) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]
    (postmaster,) = [p for p in psutil.Process(custodian.pid).children() if p.name() == "postgres"]
    postmaster.send_signal(signal.SIGKILL)
    assert custodian.wait(timeout=60) == 128 + signal.SIGKILL, "the container would not be started anew"


def test_second_server_on_the_same_folder_is_refused(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "LOCK_SECONDS", 0.3)
    with pytest.raises(Conflict, match="Another PostgreSQL works on this data folder"):
        starter.lock(server.settings())
    assert (server.home / "database" / "postmaster.pid").exists(), "the lock of a server that runs was removed"
