"""What a caller is told while the database is silent or the disk nearly full, and that he is served again by itself (OPS-6)."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from insitu.database import Database
from insitu.identity import accounts, tokens
from insitu_services.api import problems
from tests.bench import site
from tests.database_server import Server

from .conftest import encoded, image

PATIENCE = 120  # seconds a loaded machine may take
STORE = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}


def store_body() -> bytes:
    """One object as STOW-RS takes it."""
    return b"--b\r\nContent-Type: application/dicom\r\n\r\n" + encoded(image()) + b"\r\n--b--\r\n"


def test_a_database_that_goes_away_in_mid_request_asks_to_try_again() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    def cut_off() -> None:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    answer = TestClient(app).get("/")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"
    assert answer.json()["title"] == "The database does not answer"


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="insitu-pg-") as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.signal(signal.SIGCONT)
            server.stop()


def test_storing_below_the_reserve_of_the_disk_is_put_off_and_reading_goes_on(
    database_dsn: str, database: Database, tmp_path: Path
) -> None:
    with database.transaction() as connection:
        accounts.create(connection, "admin", "a password for this test", site_admin=True)
        token = tokens.create(connection, "admin", "test")
        connection.execute("INSERT INTO project (name) VALUES ('inbox') ON CONFLICT DO NOTHING")
    with (
        site.api(tmp_path, database_dsn, disk_reserve=1 << 60) as (_, url),
        httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE, trust_env=False
        ) as client,
    ):
        answer = client.post("/dicom-web/studies", content=store_body(), headers=STORE)
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert client.get("/dicom-web/studies").status_code == 200
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["components"]["disk"]["state"]) == (503, "away")
    with database.transaction() as connection:
        assert connection.execute("SELECT 1 FROM instance").fetchone() is None


def test_a_silent_database_lets_nobody_hang_and_the_api_heals_by_itself(server: Server, tmp_path: Path) -> None:
    database = Database(server.dsn)
    with database.transaction() as connection:
        accounts.create(connection, "admin", "a password for this test", site_admin=True)
        token = tokens.create(connection, "admin", "test")
        connection.execute("INSERT INTO project (name) VALUES ('inbox') ON CONFLICT DO NOTHING")
    database.close()
    body = store_body()
    with (
        site.api(tmp_path, server.dsn, database_patience=2) as (_, url),
        httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE, trust_env=False
        ) as client,
    ):
        assert client.get("/dicom-web/studies").status_code == 200
        server.signal(signal.SIGSTOP)
        for answer in (
            client.post("/dicom-web/studies", content=body, headers=STORE),  # on a connection that was well
            client.get("/dicom-web/studies"),
            client.get("/api/v1/projects"),
        ):
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["title"] == "The database does not answer"
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["components"]["database"]["state"] == "away"
        server.signal(signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        while (answer := client.post("/dicom-web/studies", content=body, headers=STORE)).status_code != 200:
            assert answer.status_code == 503, answer.text
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert client.get("/readyz").json()["components"]["database"]["state"] == "ok"
