"""The operators in Airflow's own environment, against a platform that answers as scripted and a launcher, real or scripted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import insitu
import insitu_operators
from insitu.runs import engine_environment
from insitu.settings import load

SECONDS = 280.0
TOKEN = "the-engine's-token"


class Platform(ThreadingHTTPServer):
    """The engine API: what each execution is answered depends on its name; every request is kept."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str, Any]] = []

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def of(self, execution: str, verb: str) -> list[Any]:
        """Bodies of the requests of a kind."""
        return [body for about, kind, body in self.requests if (about, kind) == (execution, verb)]

    def answer(self, execution: str, verb: str, body: Any) -> tuple[int, dict[str, Any]]:
        """Status and document of the answer."""
        known = len(self.of(execution, verb))
        self.requests.append((execution, verb, body))
        if execution == "away" and known == 0:
            return 503, {"title": "The database does not answer"}
        if execution == "ended" and verb == "prepare":
            return 409, {"title": "This execution has ended", "detail": "This execution has ended: 'ended'."}
        if verb == "prepare":
            return 200, specification(execution, self.url)
        if verb == "stage":
            unwanted = execution in ("unwanted-endless", "killed-endless")
            return 200, {"cancel_asked": unwanted, "state": "failed" if execution == "settled-endless" else "running"}
        if execution in ("ended", "unwanted-endless"):
            return 200, {"state": "cancelled"}
        return 200, {"state": body["outcome"]["state"]}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Platform

    def do_POST(self) -> None:
        """Answer as scripted; a wrong token is refused."""
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        *_, execution, verb = self.path.split("/")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            status, document = 401, {"title": "Log in first"}
        else:
            status, document = self.server.answer(execution, verb, json.loads(content) if content else None)
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def specification(execution: str, url: str) -> dict[str, Any]:
    """A job whose package is not there."""
    return {
        "name": f"run-{execution}-1", "execution": execution, "gateway_url": url, "python": sys.executable,
        "fetch_token": "step-token-fetch", "publish_token": "step-token-publish",
        "algorithm": {
            "name": "gone", "version": "1", "digest": "sha256:0", "location": "/nowhere/gone", "entrypoint": ["python", "x"],
            "trusted": True,
        },
        "limits": {"seconds": 60, "memory_bytes": 1_000_000_000},
    }  # fmt: skip


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, dict[str, Any], str]]:
    """The platform after every scenario, what came of them, and everything that was logged."""
    folder = tmp_path_factory.mktemp("operators")
    (folder / "token").write_text(TOKEN)
    (folder / "jobs").mkdir()
    platform = Platform()
    thread = threading.Thread(target=platform.serve_forever, daemon=True)
    thread.start()
    python = engine_environment.python(load(folder))
    packages = [str(Path(package.__path__[0]).parent) for package in (insitu, insitu_operators)]
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("scenarios.py")), platform.url, str(folder / "token"), str(folder / "jobs")],
        env={
            "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "AIRFLOW_HOME": str(folder / "airflow"), "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(packages),
        },
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    yield platform, json.loads(lines[0].removeprefix("RESULTS ")), done.stdout + done.stderr
    platform.shutdown()
    platform.server_close()


Outcome = tuple[Platform, dict[str, Any], str]


def test_job_that_succeeds_is_told_with_its_logs_and_removed(outcome: Outcome) -> None:
    platform, results, _ = outcome
    assert results["well"]["tasks"] == {"prepare": "success", "run": "success", "conclude": "success"}
    for told in platform.of("well", "conclude"):
        assert told["outcome"]["state"] == "succeeded"
        assert told["logs"] == {"fetch": "log of fetch"}
    assert results["well"]["launcher"] == [["launch", "run-well-1"], ["remove", "run-well-1"]]
    assert {"stage": "fetch", "detail": None} in platform.of("well", "stage")


def test_outcome_is_told_before_airflow_gets_to_the_last_task(outcome: Outcome) -> None:
    platform, _, _ = outcome
    verbs = [verb for execution, verb, _ in platform.requests if execution == "well"]
    assert verbs.count("conclude") == 2


def test_failed_algorithm_fails_the_last_task_only(outcome: Outcome) -> None:
    platform, results, _ = outcome
    assert results["fails"]["tasks"]["run"] == "success"
    assert results["fails"]["tasks"]["conclude"].startswith("fail: fails failed")
    assert platform.of("fails", "conclude")[0]["outcome"]["reason"] == "it failed"


def test_real_launcher_works_in_airflows_environment(outcome: Outcome) -> None:
    platform, results, _ = outcome
    assert results["real"]["tasks"]["run"] == "success", results["real"]
    assert results["real"]["tasks"]["conclude"].startswith("fail: real failed"), results["real"]
    assert platform.of("real", "conclude")[0]["outcome"]["failure"] == "environment-missing"
    assert results["jobs left"] == []


def test_platform_that_is_away_for_a_moment_is_asked_again(outcome: Outcome) -> None:
    platform, results, _ = outcome
    assert set(results["away"]["tasks"].values()) == {"success"}
    assert platform.of("away", "conclude")


def test_execution_that_has_ended_is_not_run(outcome: Outcome) -> None:
    _, results, _ = outcome
    assert all(end.startswith("fail:") for end in results["ended"]["tasks"].values()), results["ended"]
    assert ["launch", "run-ended-1"] not in results["ended"]["launcher"]


def test_wish_to_cancel_reaches_the_job(outcome: Outcome) -> None:
    _, results, _ = outcome
    assert results["unwanted-endless"]["tasks"]["run"] == "success"
    assert ["cancel", "run-unwanted-endless-1"] in results["unwanted-endless"]["launcher"]


def test_job_of_an_execution_that_was_settled_meanwhile_is_cancelled(outcome: Outcome) -> None:
    _, results, _ = outcome
    assert ["cancel", "run-settled-endless-1"] in results["settled-endless"]["launcher"]


def test_second_try_attaches_to_the_same_job(outcome: Outcome) -> None:
    platform, results, _ = outcome
    assert results["attached"]["tasks"] == {"run": "success", "run again": "success", "conclude": "success"}
    assert {name for _, name in results["attached"]["launcher"]} == {"run-attached-1"}
    assert {told["outcome"]["state"] for told in platform.of("attached", "conclude")} == {"succeeded"}


def test_another_attempt_is_made_once_told_in_the_history_and_attached_to(outcome: Outcome) -> None:
    platform, results, _ = outcome
    assert results["again"]["tasks"] == {
        "prepare": "success",
        "run": "success",
        "run again": "success",
        "conclude": "success",
    }
    made = [name for call, name in results["again"]["launcher"] if call == "launch"]
    assert set(made) == {"run-again-1", "run-again-2"}
    assert [call for call in results["again"]["launcher"] if call[0] == "remove"] == [
        ["remove", "run-again-2"],
        ["remove", "run-again-1"],
    ]
    told = [body["detail"] for body in platform.of("again", "stage") if body["stage"] == "attempt"]
    assert told[0]["memory"] == 2_000_000_000
    assert told[0]["reason"] == "it failed"
    assert {told["outcome"]["state"] for told in platform.of("again", "conclude")} == {"succeeded"}


def test_job_left_without_its_task_is_ended_and_told(outcome: Outcome) -> None:
    platform, results, _ = outcome
    assert ["cancel", "run-abandoned-endless-1"] in results["abandoned-endless"]["launcher"]
    assert platform.of("abandoned-endless", "conclude")[0]["outcome"]["state"] == "cancelled"


def test_job_that_never_started_is_told_as_lost(outcome: Outcome) -> None:
    platform, _, _ = outcome
    assert platform.of("never", "conclude")[0]["outcome"]["failure"] == "engine-lost"


def test_job_survives_the_end_of_its_task_unless_nobody_wants_it(outcome: Outcome) -> None:
    _, results, _ = outcome
    assert results["stopped-endless"]["launcher"] == []
    assert results["killed-endless"]["launcher"] == [["cancel", "run-killed-endless-1"]]


def test_no_token_is_logged(outcome: Outcome) -> None:
    _, _, said = outcome
    assert TOKEN not in said
    assert "step-token" not in said


def test_a_job_that_made_room_begins_anew_under_its_name_with_fresh_tokens(outcome: Outcome) -> None:
    platform, results, _ = outcome
    assert results["displaced"]["tasks"]["run"] == "success"
    assert results["displaced"]["launcher"][:3] == [
        ["launch", "run-displaced-1"],
        ["remove", "run-displaced-1"],
        ["launch", "run-displaced-1"],
    ]
    assert len(platform.of("displaced", "prepare")) == 3
    assert [body["detail"]["job"] for body in platform.of("displaced", "stage") if body["stage"] == "attempt"] == [
        "run-displaced-1"
    ]
    assert {told["outcome"]["state"] for told in platform.of("displaced", "conclude")} == {"succeeded"}
