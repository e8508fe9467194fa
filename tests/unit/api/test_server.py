"""What holds for every answer and for the process: headers, sizes, logs, metrics, a quick end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from insitu.database import Database
from insitu.identity import tokens
from insitu.identity.sessions import COOKIE, open_session
from insitu_services.api.protection import HEADERS, ORDINARY_LIMIT, STRANGERS_LIMIT

PATIENCE = 60  # seconds a loaded machine may take


def test_an_answer_lacks_the_headers_that_protect_a_browser(house: Any) -> None:
    with house.client(house.account("anna", alpha="reader")) as anna:
        for path in (
            "/api/v1/session",
            "/dicom-web/studies",
            "/healthz",
            "/nothing",
            "/api/v1/projects/none",
            "/login",
        ):
            answer = anna.get(path)
            for name in HEADERS:
                assert name in answer.headers, f"{path} has no {name}"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "server" not in answer.headers


def test_an_error_is_no_problem_document(house: Any) -> None:
    with house.client(house.account("anna", alpha="reader")) as anna:
        answers = {
            404: anna.get("/nothing"),
            405: anna.put("/healthz"),
            401: house.client().get("/api/v1/session"),
            403: anna.get("/api/v1/audit"),
            422: anna.post("/api/v1/tokens", json={"name": 1}),
        }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
        assert answer.json()["title"]


def test_an_unexpected_error_shows_the_patient_to_the_caller(house: Any) -> None:
    with house.context.database.transaction() as connection:
        connection.execute("ALTER TABLE project RENAME COLUMN title TO broken")
    with house.client(house.account("admin", site_admin=True)) as admin:
        answer = admin.get("/api/v1/projects")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "title" not in answer.json()["detail"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_large_body_fills_the_memory(house: Any) -> None:
    admin = house.client(house.account("admin", site_admin=True))

    def pieces(total: int) -> Any:
        yield b'{"name": "'
        for _ in range(0, total, 65_536):
            yield b"x" * 65_536
        yield b'"}'

    size = ORDINARY_LIMIT + 65_536
    headers = {"content-type": "application/json"}
    for content in (b'"' + b"x" * size + b'"', pieces(size)):
        try:
            answer = admin.post("/api/v1/projects", content=content, headers=headers)
        except httpx.TransportError:
            continue  # the server closed the connection before it had taken everything
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_stranger_can_send_a_large_body(house: Any) -> None:
    """Counts what the server takes: for a stranger only what the sockets hold."""
    host, port = house.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(
            b"POST /gateway/v1/executions/x-1/results HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000000000\r\n\r\n"
        )
        # without having sent any of the body
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 401 ")
    small = b"x" * (STRANGERS_LIMIT // 2)
    assert house.client().post("/api/v1/session", content=small).status_code in (401, 422)


def test_the_description_of_the_api_is_missing_or_public(house: Any) -> None:
    assert house.client().get("/api/v1/openapi.json").status_code == 401
    with house.client(house.account("anna")) as anna:
        document = anna.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert "/api/v1/projects/{project}" in document["paths"]
    assert "/dicom-web/studies" in document["paths"]


def test_the_metrics_lack_a_route_or_hold_a_path(furnished: Any) -> None:
    study = furnished.uids["study"]
    with furnished.client(furnished.account("anna", alpha="reader")) as anna:
        anna.get(f"/dicom-web/studies/{study}/series", params={"PatientName": "Geheim*"})
        anna.get("/nothing/Geheim")
        assert anna.get("/metrics").status_code == 403
    text = furnished.client(furnished.account("admin", site_admin=True)).get("/metrics").text
    line = 'insitu_http_requests_total{method="GET",route="/dicom-web/studies/{study}/series",status="200"} 1.0'
    assert line in text
    assert study not in text
    assert "Geheim" not in text


@pytest.fixture
def start(database_dsn: str, tmp_path: Path) -> Any:
    """Starts `python -m insitu_services.api` and gives process and log; ends what is left."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(port: int = 0) -> tuple[subprocess.Popen[bytes], Path]:
        log = tmp_path / f"api-{len(processes)}.log"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("INSITU_")},
            "INSITU_HOME": str(tmp_path),
            "INSITU_HTTP": f"127.0.0.1:{port}",
            "INSITU_DATABASE_DSN": database_dsn,
        }
        with log.open("wb") as stream:
            process = subprocess.Popen([sys.executable, "-m", "insitu_services.api"], stderr=stream, env=environment)
        processes.append(process)
        return process, log

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE)


def ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address of the process, once it answers."""
    deadline = time.monotonic() + 2 * PATIENCE
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        if found:
            url = f"http://{found[1]}"
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz", timeout=PATIENCE, trust_env=False).status_code == 200:
                    return url
        time.sleep(0.05)


def test_the_process_does_not_end_while_a_request_is_going_on(start: Any) -> None:
    process, log = start()
    url = ready(process, log)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as unfinished:
        # a request whose body never ends
        unfinished.sendall(b"POST /api/v1/session HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert httpx.get(f"{url}/healthz", timeout=PATIENCE, trust_env=False).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()


def test_the_log_holds_a_query_a_path_or_a_secret(start: Any, database: Database) -> None:
    with database.transaction() as connection:
        made = connection.execute(
            "INSERT INTO account (name, password_hash) VALUES ('anna', 'none') RETURNING id::text AS id"
        ).fetchone()
        assert made is not None
        token = tokens.create(connection, "anna", "script")
        cookie = open_session(connection, made["id"], 1)
    process, log = start()
    url = ready(process, log)
    bearer, session = {"authorization": f"Bearer {token}"}, {"cookie": f"{COOKIE}={cookie}"}
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        client.get("/dicom-web/studies", params={"PatientName": "Geheim", "PatientID": "SECRET-4711"}, headers=bearer)
        client.get("/api/v1/projects/SECRET-4711", headers=session)
        client.get("/Geheim", headers=bearer)
        client.get("/api/v1/session", headers=session, params={"secret": "Geheim"})
        client.post("/api/v1/session", json={"name": "Geheim", "password": "SECRET-4711"})
        client.request("GEHEIM", "/healthz")  # refused by the HTTP parser
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    asked = [line for line in lines if line["logger"] == "insitu.api.requests"]
    assert [(line["route"], line["principal"]) for line in asked if line["route"] != "/readyz"] == [
        ("/dicom-web/studies", "anna"),
        ("/api/v1/projects/{project}", "anna"),
        ("(none)", None),
        ("/api/v1/session", "anna"),
        ("/api/v1/session", None),
    ]
    for secret in ("Geheim", "GEHEIM", "SECRET-4711", token, cookie):
        assert secret not in text


def test_a_port_in_use_is_told_by_a_traceback(start: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        process, log = start(other.getsockname()[1])
        assert process.wait(2 * PATIENCE) == 1
    (line,) = log.read_text().splitlines()
    assert "The web address cannot be used" in json.loads(line)["message"]
