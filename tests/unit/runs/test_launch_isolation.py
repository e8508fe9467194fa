"""What an algorithm can reach: nothing but its own files, in every way of isolation that this machine has."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from insitu.runs.launch import isolation, processes
from insitu.runs.launch.process import ProcessLauncher
from insitu.runs.launch.specification import Launcher

from ...contract.conftest import Job, make_job, outcome_of, phantom

__all__ = ["make_job", "phantom"]  # fixtures
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(params=["bubblewrap", "namespaces"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way of isolation that works here."""
    way: isolation.Kind = request.param
    why = isolation.attempt(way)
    if why is not None:
        pytest.skip(f"this machine cannot isolate by {way}: {why}")
    monkeypatch.setenv("INSITU_TEST_ISOLATION", way)
    return way


def test_an_isolated_algorithm_reaches_nothing_but_its_own_files(
    way: str, make_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = uuid.uuid4().hex
    monkeypatch.setenv("SOME_PASSWORD", secret)
    archive = tmp_path / "blobs" / "objects"
    archive.mkdir(parents=True)
    (archive / "1.dcm").write_bytes(b"an image")
    folder = Path("/tmp") / f"insitu-test-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    neighbour = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(3600)"], env={**os.environ, "SOME_PASSWORD": secret}
    )
    try:
        with socket.socket(socket.AF_UNIX) as database, socket.socket() as api:
            database.bind(str(folder / ".s.PGSQL.5432"))
            database.listen()
            api.bind(("127.0.0.1", 0))
            api.listen()
            job = make_job(
                "escape",
                trusted=False,
                parameters={
                    "files": [
                        str(tmp_path), str(archive), str(archive / "1.dcm"), str(Path.home() / ".insitu"),
                        str(tmp_path / "jobs"), "/var/lib", "/root/.bashrc", "/etc/shadow", "/sys/kernel",
                        f"/proc/{neighbour.pid}",
                    ],
                    "sockets": [str(folder / ".s.PGSQL.5432")],
                    "ports": [api.getsockname()[1]],
                    "writes": ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/mtrr",
                               "/package/main.py", "/input/image/image.nii.gz",
                               "/parameters.json", "/usr/bin/env"],
                    "secret": secret,
                },
            )  # fmt: skip
            launcher = ProcessLauncher(tmp_path / "jobs")
            launcher.launch(job.specification)
            outcome = outcome_of(launcher, job)
            log = launcher.log(job.name, "algorithm")
    finally:
        neighbour.kill()
        neighbour.wait()
        (folder / ".s.PGSQL.5432").unlink(missing_ok=True)
        folder.rmdir()
    assert outcome.state == "succeeded", (outcome.reason, log)
    assert outcome.isolation == way
    could = re.search(r"^could: (.*)$", log, re.MULTILINE)
    assert could is not None, log
    assert json.loads(could[1]) == []
    assert job.gateway.fetch_token not in log


def test_no_process_of_an_algorithm_outlives_it(way: str, make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job("background")
    launcher = ProcessLauncher(tmp_path / "jobs")
    launcher.launch(job.specification)
    assert outcome_of(launcher, job).state == "succeeded"
    assert_no_process_left(job)


def assert_no_process_left(job: Job) -> None:
    """Every process of a job ends soon."""
    deadline = time.monotonic() + 60
    while processes.with_variable("INSITU_JOB", job.name):
        assert time.monotonic() < deadline, "a process of the job is left"
        time.sleep(0.05)


@pytest.fixture
def no_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot isolate."""
    monkeypatch.setenv("INSITU_TEST_ISOLATION", "none")


@pytest.mark.usefixtures("no_isolation")
class TestWhereNothingIsolates:
    """On a machine without user name spaces."""

    def test_an_untrusted_package_is_refused(self, make_job: Callable[..., Job], tmp_path: Path) -> None:
        job = make_job("well", trusted=False)
        launcher = ProcessLauncher(tmp_path / "jobs")
        launcher.launch(job.specification)
        stages: list[str] = []
        outcome = outcome_of(launcher, job, stages)
        assert outcome.failure == "not-isolated"
        assert stages == [], "images were fetched for a package that may not run"

    def test_a_trusted_package_runs_and_the_outcome_says_not_isolated(
        self, make_job: Callable[..., Job], tmp_path: Path
    ) -> None:
        job = make_job("background", trusted=True)
        launcher: Launcher = ProcessLauncher(tmp_path / "jobs")
        launcher.launch(job.specification)
        outcome = outcome_of(launcher, job)
        assert (outcome.state, outcome.isolation) == ("succeeded", "none")
        assert_no_process_left(job)

    def test_a_hanging_trusted_package_is_ended_with_its_children(
        self, make_job: Callable[..., Job], tmp_path: Path
    ) -> None:
        job = make_job("hang", trusted=True, seconds=2.0)
        launcher = ProcessLauncher(tmp_path / "jobs")
        launcher.launch(job.specification)
        assert outcome_of(launcher, job).failure == "deadline-exceeded"
        assert_no_process_left(job)


def test_the_probe_names_a_way_only_after_a_trial() -> None:
    report = isolation.probe()
    assert report.works == (report.kind != "none")
    if report.works:
        assert isolation.attempt(report.kind) is None
