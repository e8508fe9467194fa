"""The table of commands, and what the API client makes of the platform's answers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from insitu.cli import COMMANDS, client, command, status
from insitu.cli.status import span
from insitu.errors import Forbidden, InsituError, Unauthenticated, Unavailable
from insitu.settings import load


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists_and_gives_json(name: str) -> None:
    found = command(name)
    leaves = list(found.commands.values()) if hasattr(found, "commands") else [found]
    for leaf in leaves:
        options = {option for parameter in leaf.params for option in parameter.opts}
        assert "--json" in options, f"{name} {leaf.name} has no --json"
        assert leaf.help, f"{name} {leaf.name} has no help"


def test_help_imports_no_command() -> None:
    program = "import sys; sys.argv = ['insitu', '--help']\nfrom insitu.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    program += (
        "print([name for name in ('insitu.cli.up', 'psycopg', 'pydicom', 'numpy', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "algorithm" in done.stdout


def test_error_is_a_sentence_or_a_problem_document(tmp_path: Path) -> None:
    for more, start in (([], "insitu: The platform does not run"), (["--json"], '{"type": "urn:insitu:problem:')):
        done = subprocess.run(
            [sys.executable, "-m", "insitu.cli", "status", "--home", str(tmp_path), *more],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith(start), done.stderr


def test_problem_document_becomes_the_error_it_was_made_from() -> None:
    error = Forbidden("You may not", value="x", why="no role", remedy="ask")
    again = client.error_of(httpx.Response(403, json=error.problem()))
    assert type(again) is Forbidden
    assert str(again) == str(error)
    assert type(client.error_of(httpx.Response(418, text="a teapot"))) is InsituError


def test_client_names_the_address_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSITU_TOKEN", "t")
    monkeypatch.setenv("INSITU_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9"):
        client.client(load(tmp_path)).get("/healthz")


def test_client_without_a_token_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSITU_TOKEN", raising=False)
    with pytest.raises(Unauthenticated, match="INSITU_TOKEN"):
        client.client(load(tmp_path))


def test_spans_are_said_as_a_person_says_them() -> None:
    assert [span(seconds) for seconds in (5, 65, 3700, 90000)] == ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]


@pytest.mark.parametrize(("state", "exit_status"), [("ok", 0), ("degraded", 0), ("away", 1)])
def test_status_asks_the_platform_that_is_named(state: str, exit_status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cluster, whose processes are not this machine's."""
    document = {"status": state, "components": {"database": {"state": state, "says": "answers", "facts": {}}}}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/readyz"
            body = json.dumps(document).encode()
            self.send_response(503 if state == "away" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request).start()
        monkeypatch.setenv("INSITU_URL", f"http://127.0.0.1:{server.server_port}")
        done = CliRunner().invoke(status.app, ["--json"])
    assert done.exit_code == exit_status, done.output
    assert json.loads(done.stdout)["components"] == document["components"]


def test_status_of_something_else_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSITU_URL", "http://127.0.0.1:9")
    outcome = CliRunner().invoke(status.app, [])
    assert isinstance(outcome.exception, Unavailable)
    assert "http://127.0.0.1:9" in str(outcome.exception)
