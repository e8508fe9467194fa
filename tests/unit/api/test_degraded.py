"""What a caller is told while the database is silent or the disk nearly full, and that he is served again by itself (OPS-6)."""

from __future__ import annotations

import contextlib
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from insitu.database import Database
from insitu.identity import accounts, tokens
from insitu_services.api import problems
from tests.bench import site
from tests.database_server import Server
from tests.disks import SlowDisk, small_disk

from .conftest import encoded, image

PATIENCE = 120  # seconds a loaded machine may take
WAITING = 45  # requests; more than the api has threads
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


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="insitu-pg-") as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.signal(signal.SIGCONT)
            server.stop()


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    """Of an administrator."""
    database = Database(server.dsn)
    with database.transaction() as connection:
        accounts.create(connection, "admin", "a password for this test", site_admin=True)
        connection.execute("INSERT INTO project (name) VALUES ('inbox') ON CONFLICT DO NOTHING")
        made = tokens.create(connection, "admin", "test")
    database.close()
    return made


@pytest.fixture
def serve(server: Server, token: str, tmp_path: Path) -> Iterator[Callable[..., httpx.Client]]:
    """Starts an api with settings; a client of it."""
    with contextlib.ExitStack() as stack:

        def start(**settings: object) -> httpx.Client:
            _, url = stack.enter_context(site.api(tmp_path, server.dsn, **settings))
            headers = {"Authorization": f"Bearer {token}"}
            return stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False))

        yield start


def component(client: httpx.Client, name: str) -> tuple[str, str]:
    """State of a component and what is said of it."""
    found = client.get("/readyz").json()["components"][name]
    return found["state"], found["says"]


def up(client: httpx.Client, name: str) -> float:
    """What the metrics say of a component."""
    found = re.search(rf'^insitu_component_up{{component="{name}"}} (.*)$', client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def until(client: httpx.Client, name: str, state: str) -> None:
    """Wait until a component is in a state."""
    deadline = time.monotonic() + PATIENCE
    while (found := component(client, name))[0] != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def store(client: httpx.Client, body: bytes | None = None) -> int:
    """The status of storing an object; where there is no room or no database, the client is told when to try again."""
    answer = client.post("/dicom-web/studies", content=body or store_body(), headers=STORE)
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) > 0
    return answer.status_code


def kept(server: Server) -> int:
    """Instances in the index."""
    with psycopg.connect(server.dsn) as connection:
        row = connection.execute("SELECT count(*) FROM instance").fetchone()
    assert row is not None
    return int(row[0])


def test_storing_below_the_reserve_of_the_disk_is_put_off_and_reading_goes_on(
    server: Server, serve: Callable[..., httpx.Client]
) -> None:
    client = serve(disk_reserve=1 << 60)
    before = kept(server)
    assert store(client) == 503
    assert client.get("/dicom-web/studies").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert component(client, "disk")[0] == "away"
    assert up(client, "disk") == 0
    assert kept(server) == before


def test_a_read_only_and_a_full_disk_put_storing_off_are_told_and_reading_goes_on(
    server: Server, serve: Callable[..., httpx.Client], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "blobs") as disk:
        client = serve(disk_reserve=0)
        assert store(client) == 200
        before = kept(server)
        for begin, end, says in (
            (disk.read_only, disk.writable, "Read-only file system"),
            (disk.fill, disk.free, "No space left on device"),
        ):
            begin()
            until(client, "disk", "away")
            assert store(client) == 503
            assert client.get("/dicom-web/studies").status_code == 200
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 503
            assert says in component(client, "disk")[1]
            assert kept(server) == before
            end()
            assert store(client) == 200
            until(client, "disk", "ok")
            before = kept(server)


def test_a_slow_disk_makes_clients_wait_and_is_told(
    serve: Callable[..., httpx.Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(tmp_path)
    for name, value in disk.environment.items():
        monkeypatch.setenv(name, value)
    client = serve()
    disk.slow(2.5)
    until(client, "disk", "degraded")
    assert "slow" in component(client, "disk")[1]
    disk.slow(30)  # for what comes now
    until(client, "disk", "degraded")
    assert client.get("/dicom-web/studies").status_code == 200
    disk.slow(0.2)
    assert store(client) == 200
    until(client, "disk", "ok")


def test_a_silent_database_lets_nobody_hang_and_the_api_heals_by_itself(
    server: Server, serve: Callable[..., httpx.Client]
) -> None:
    client = serve(database_patience=2)
    assert client.get("/dicom-web/studies").status_code == 200
    server.signal(signal.SIGSTOP)
    try:
        for answer in (
            client.post("/dicom-web/studies", content=store_body(), headers=STORE),  # on a connection that was well
            client.get("/dicom-web/studies"),
            client.get("/api/v1/projects"),
        ):
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["title"] == "The database does not answer"
        with ThreadPoolExecutor(WAITING) as pool:
            waiting = [pool.submit(client.get, "/api/v1/projects") for _ in range(WAITING)]
            time.sleep(0.5)
            assert client.get("/healthz").status_code == 200  # however many wait for the database
            assert not any(each.done() for each in waiting)
            assert client.get("/readyz").status_code == 503
            assert component(client, "database")[0] == "away"
            assert {each.result().status_code for each in waiting} == {503}
    finally:
        server.signal(signal.SIGCONT)
    deadline = time.monotonic() + PATIENCE
    while (status := store(client)) != 200:
        assert status == 503
        assert time.monotonic() < deadline
        time.sleep(0.2)
    until(client, "database", "ok")


def test_a_stopped_process_of_a_database_that_lives_is_told_and_replaced(
    server: Server, serve: Callable[..., httpx.Client]
) -> None:
    client = serve(database_patience=2)
    assert client.get("/dicom-web/studies").status_code == 200
    backends = [child for child in psutil.Process(server.process.pid).children() if "[local]" in child.cmdline()[0]]
    assert backends
    for backend in backends:
        backend.send_signal(signal.SIGSTOP)
    try:
        answers = [client.get("/dicom-web/studies").status_code for _ in range(len(backends) + 1)]
        assert answers[0] == 503
        assert answers[-1] == 200
        assert component(client, "database")[0] == "degraded"
        assert "fell silent" in component(client, "database")[1]
        assert up(client, "database") == 0.5
    finally:
        for backend in backends:
            backend.send_signal(signal.SIGCONT)


def test_a_lock_that_is_held_lets_no_client_wait_for_ever_and_is_told(
    server: Server, serve: Callable[..., httpx.Client]
) -> None:
    client = serve(database_patience=7)
    with psycopg.connect(server.dsn) as blocker, ThreadPoolExecutor(1) as pool:
        blocker.execute("LOCK TABLE instance IN ACCESS EXCLUSIVE MODE")
        storing = pool.submit(store, client)
        until(client, "database", "degraded")
        assert "waits for a lock" in component(client, "database")[1]
        assert storing.result() == 503
    assert store(client) == 200


def test_a_stopped_receiver_process_and_a_stopped_dispatcher_are_told(
    server: Server, serve: Callable[..., httpx.Client], tmp_path: Path
) -> None:
    client = serve()
    assert component(client, "receiver")[0] == "degraded"
    assert component(client, "dispatcher")[0] == "degraded"
    assert client.get("/readyz").status_code == 200  # STOW-RS goes on
    with site.receiver(tmp_path, server.dsn) as (receiver, _), site.dispatcher(tmp_path, server.dsn) as dispatcher:
        until(client, "receiver", "ok")
        until(client, "dispatcher", "ok")
        assert "insitu_receiver_processes 2.0" in client.get("/metrics").text
        stopped = [psutil.Process(receiver).children()[0], psutil.Process(dispatcher)]
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        with psycopg.connect(server.dsn) as connection:  # as if they had been so for long
            connection.execute(
                "UPDATE sign_of_life SET at = at - interval '1 minute' WHERE pid = ANY (%s)",
                ([process.pid for process in stopped],),
            )
        until(client, "dispatcher", "degraded")
        assert "1 of its 2 processes" in component(client, "receiver")[1]
        for process in stopped:
            process.send_signal(signal.SIGCONT)
        until(client, "receiver", "ok")
        until(client, "dispatcher", "ok")
        stopped[0].kill()  # the one that takes its place is no third
        until(client, "receiver", "ok")
    page = Path(__file__).parents[3].joinpath("docs", "operations.md").read_text()
    for name in re.findall(r"^# TYPE (insitu_\w+?)(?:_created)? ", client.get("/metrics").text, re.MULTILINE):
        assert f"`{name}" in page, f"{name} is not documented"
    text = client.get("/metrics").text + client.get("/readyz").text
    assert "Geheim" not in text
    assert "SECRET-4711" not in text
