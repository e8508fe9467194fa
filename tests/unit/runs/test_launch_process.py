"""Jobs that lose a process: the one that launched them, their runner, their machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from insitu.errors import Conflict, Invalid
from insitu.runs.launch import processes
from insitu.runs.launch.process import ProcessLauncher
from insitu.runs.launch.specification import JobOutcome

from ...contract.conftest import PATIENCE, Job, make_job, outcome_of, phantom
from .test_launch_isolation import assert_no_process_left

__all__ = ["make_job", "phantom"]  # fixtures
pytestmark = pytest.mark.timeout(600)

LAUNCH_AND_STAY = """
import sys, time
from pathlib import Path
from insitu.runs.launch.process import ProcessLauncher
from insitu.runs.launch.specification import JobSpecification
specification = JobSpecification.model_validate_json(sys.stdin.read())
launcher = ProcessLauncher(Path(sys.argv[1]))
launcher.launch(specification)
print("launched", flush=True)
launcher.wait(specification.name, 3600)
"""


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Return when `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def runner_pid(jobs: Path, job: Job) -> int:
    """Of the runner of a job."""
    return int(json.loads((jobs / job.name / "status.json").read_bytes())["pid"])


def test_a_job_survives_the_death_of_the_process_that_launched_it(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job("well")
    launching = subprocess.Popen(
        [sys.executable, "-c", LAUNCH_AND_STAY, str(tmp_path / "jobs")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert launching.stdin is not None
    assert launching.stdout is not None
    launching.stdin.write(job.specification.model_dump_json())
    launching.stdin.close()
    assert launching.stdout.readline() == "launched\n"
    os.killpg(launching.pid, signal.SIGKILL)
    launching.wait()
    launching.stdout.close()
    assert outcome_of(ProcessLauncher(tmp_path / "jobs"), job).state == "succeeded"


def test_a_killed_runner_is_reported_lost_and_leaves_no_process(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job("hang")
    jobs = tmp_path / "jobs"
    launcher = ProcessLauncher(jobs)
    launcher.launch(job.specification)
    wait_for(lambda: "hanging" in launcher.log(job.name, "algorithm"), "the algorithm started")
    os.kill(runner_pid(jobs, job), signal.SIGKILL)
    outcome = outcome_of(launcher, job)
    assert (outcome.state, outcome.failure) == ("failed", "runner-lost")
    assert_no_process_left(job)
    launcher.launch(job.specification)
    assert outcome_of(launcher, job).failure == "runner-lost", "a lost job was started again under the same name"


def test_many_launchers_at_once_start_one_runner(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job("hang")
    jobs = tmp_path / "jobs"
    outcomes: list[JobOutcome | None] = []

    def launch_and_wait() -> None:
        launcher = ProcessLauncher(jobs)
        launcher.launch(job.specification)
        outcomes.append(launcher.wait(job.name, PATIENCE))

    threads = [threading.Thread(target=launch_and_wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    watcher = ProcessLauncher(jobs)
    wait_for(lambda: "hanging" in watcher.log(job.name, "algorithm"), "the algorithm started")
    watcher.cancel(job.name)
    for thread in threads:
        thread.join()
    assert [outcome and outcome.state for outcome in outcomes] == ["cancelled"] * 4
    status = json.loads((jobs / job.name / "status.json").read_bytes())
    assert [step["name"] for step in status["steps"]] == ["fetch", "algorithm"]


def test_a_training_takes_only_the_time_that_others_leave(make_job: Callable[..., Job], tmp_path: Path) -> None:
    """Also what it starts in sessions of its own, each of which has a niceness of its own."""
    job = make_job("hang", manifest={"purpose": "training"})
    launcher = ProcessLauncher(tmp_path / "jobs")
    launcher.launch(job.specification)

    def log() -> str:
        return launcher.log(job.name, "algorithm")

    def kindness() -> list[tuple[int, str]]:
        found = []
        for pid in processes.descendants(runner_pid(tmp_path / "jobs", job)):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"insitu.runs.steps" not in command:  # publish, which waits
                session = Path(f"/proc/{pid}/autogroup")
                told = session.read_text() if session.exists() else "nice 19"
                found.append((os.getpriority(os.PRIO_PROCESS, pid), told))
        return found

    try:
        wait_for(lambda: "hanging" in log(), "the algorithm began")
        wait_for(
            lambda: len(kindness()) >= 2 and all(nice == 19 and "nice 19" in session for nice, session in kindness()),
            "every process of the training stepped aside",
        )
    finally:
        launcher.cancel(job.name)
        launcher.wait(job.name, PATIENCE)


def test_a_running_job_is_not_removed(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job("hang")
    launcher = ProcessLauncher(tmp_path / "jobs")
    launcher.launch(job.specification)
    wait_for(lambda: "hanging" in launcher.log(job.name, "algorithm"), "the algorithm started")
    with pytest.raises(Conflict):
        launcher.remove(job.name)
    launcher.cancel(job.name)
    assert outcome_of(launcher, job).state == "cancelled"
    launcher.remove(job.name)
    assert not (tmp_path / "jobs" / job.name).exists()


def test_secrets_of_a_job_are_readable_by_its_user_only(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job("silent")
    launcher = ProcessLauncher(tmp_path / "jobs")
    launcher.launch(job.specification)
    outcome_of(launcher, job)
    folder = tmp_path / "jobs" / job.name
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "specification.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["", "..", "a/b", "../secrets", "UPPER"])
def test_a_name_cannot_lead_out_of_the_jobs_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        ProcessLauncher(tmp_path).folder(name)
