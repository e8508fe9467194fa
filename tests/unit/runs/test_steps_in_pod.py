"""What is particular to fetch and publish in a pod: the token in a file, the report where the pod's status takes it from."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from insitu.runs.outcomes import Failure
from insitu.runs.steps.fetch import close
from insitu.runs.steps.gateway import Gateway
from insitu.runs.steps.report import REASON_CHARACTERS, StepFailed, carry_out


@pytest.fixture(autouse=True)
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a step in a pod; its folder."""
    (tmp_path / "token").write_text("the-token\n")
    for name, value in {
        "INSITU_GATEWAY": "http://gateway.insitu.internal:8090",
        "INSITU_EXECUTION": "abc-1",
        "INSITU_STEP_TOKEN_FILE": str(tmp_path / "token"),
        "INSITU_WORK": str(tmp_path),
        "INSITU_REPORT": str(tmp_path / "termination-log"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("INSITU_STEP_TOKEN", raising=False)
    return tmp_path


def test_token_is_read_from_its_file() -> None:
    assert Gateway.from_environment(Failure.FETCH_FAILED)._headers == {"Authorization": "Bearer the-token"}


def test_verdict_of_a_step_reaches_the_pods_status_and_fits_into_it(pod: Path) -> None:
    def fail() -> None:
        raise StepFailed(Failure.INPUT_UNUSABLE, "x" * 10_000)

    assert carry_out("fetch", fail) == 1
    text = (pod / "termination-log").read_text()
    assert len(text) < 4096, "a kubelet cuts off the rest"
    assert json.loads(text) == {"failure": "input-unusable", "reason": "x" * REASON_CHARACTERS}


def test_a_closed_file_is_there_and_nobody_may_enter_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "closed" / "termination-log"
    close(file)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0
    file.parent.chmod(0o700)
    assert file.read_bytes() == b""
