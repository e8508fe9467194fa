"""A job goes on whatever becomes of the process that launched it and of the API server, and it is carried out once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from insitu.runs.launch.kubernetes.api import Api

from ..contract.conftest import PATIENCE, Job
from .launching import Ground
from .test_outcomes import algorithm_runs, pod_of

pytestmark = pytest.mark.usefixtures("place")
MakeJob = Callable[..., Job]
AWAY_SECONDS = 60.0

FOLLOW = """
import sys
from pathlib import Path
from insitu.runs.launch.kubernetes.configuration import LauncherConfiguration
from insitu.runs.launch.kubernetes.launcher import KubernetesLauncher
from insitu.runs.launch.specification import JobSpecification
folder = Path(sys.argv[1])
launcher = KubernetesLauncher(LauncherConfiguration.model_validate_json((folder / "configuration.json").read_bytes()))
job = JobSpecification.model_validate_json((folder / "job.json").read_bytes())
launcher.launch(job)
launcher.wait(job.name, 600.0, lambda stage: print(stage, flush=True))
print("ended", flush=True)
"""


def succeeds(ground: Ground, job: Job, launcher: Any) -> None:
    """Follow a job to its end: delivered once, by one Job with one pod."""
    outcome = launcher.wait(job.name, PATIENCE)
    assert outcome is not None, ground.namespace.trouble()
    assert outcome.state == "succeeded", outcome.reason
    assert job.gateway.posts == 1
    assert len(ground.namespace.get("jobs")["items"]) == 1
    assert len(ground.namespace.get("pods")["items"]) == 1


def test_the_same_job_is_followed_to_its_end_after_its_launcher_was_killed(
    ground: Ground, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job("slow")
    kubeconfig = Path(ground.cluster.run("sh", "-c", 'echo "$KUBECONFIG"').strip())
    settled = ground.configuration.model_copy(update={"kubeconfig": kubeconfig})
    (tmp_path / "configuration.json").write_text(settled.model_dump_json())
    (tmp_path / "job.json").write_text(job.specification.model_dump_json())
    process = subprocess.Popen([sys.executable, "-c", FOLLOW, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["fetch", "algorithm"]
    uid = ground.namespace.get("job", job.name)["metadata"]["uid"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    launcher = ground.launcher()
    launcher.launch(job.specification)
    succeeds(ground, job, launcher)
    assert ground.namespace.get("job", job.name)["metadata"]["uid"] == uid


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_launch_that_was_cut_off_is_completed_by_the_next(
    ground: Ground, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    job = make_job("well")
    left = [calls]

    def cut(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            answer = real(*arguments, **options)
            if left[0] == 0:
                raise Killed  # the request was carried out, its answer reached nobody
            return answer

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Api, "create", cut(Api.create))
        patched.setattr(Api, "patch", cut(Api.patch))
        with pytest.raises(Killed):
            ground.launcher().launch(job.specification)
    launcher = ground.launcher()
    launcher.launch(job.specification)
    succeeds(ground, job, launcher)


def test_many_launchers_at_once_make_one_job(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("well")
    threads = [threading.Thread(target=lambda: ground.launcher().launch(job.specification)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    succeeds(ground, job, ground.launcher())


def test_many_that_cancel_at_once_agree(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("hang")
    launcher = ground.launcher()
    launcher.launch(job.specification)
    pod_of(ground, algorithm_runs)
    threads = [threading.Thread(target=lambda: ground.launcher().cancel(job.name)) for _ in range(6)]
    for thread in threads:
        thread.start()
    outcome = launcher.wait(job.name, PATIENCE)
    for thread in threads:
        thread.join()
    assert outcome is not None
    assert outcome.state == "cancelled"
    assert outcome == ground.launcher().wait(job.name, PATIENCE)


def test_an_expired_watch_is_made_anew(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("slow")
    launcher = ground.launcher()
    launcher.launch(job.specification)
    stages: list[str] = []
    while "algorithm" not in stages:
        assert launcher.wait(job.name, 1.0, stages.append) is None
    followed = launcher._followed[job.name]
    before = followed.pods.lists
    for watch in (followed.jobs, followed.pods):
        watch._version = "1"  # long compacted
        assert watch._socket is not None
        socket.socket.shutdown(watch._socket, socket.SHUT_RDWR)
    succeeds(ground, job, launcher)
    assert followed.pods.lists > before


def test_secrets_and_pods_go_with_the_job(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("well")
    launcher = ground.launcher()
    launcher.launch(job.specification)
    assert len(ground.namespace.get("secrets")["items"]) == 1
    succeeds(ground, job, launcher)
    launcher.remove(job.name)
    deadline = time.monotonic() + PATIENCE
    while ground.namespace.get("secrets,pods,jobs")["items"]:
        assert time.monotonic() < deadline, ground.namespace.trouble()
        time.sleep(0.5)


def test_no_token_is_in_job_or_pod(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("well")
    launcher = ground.launcher()
    launcher.launch(job.specification)
    succeeds(ground, job, launcher)
    text = json.dumps(ground.namespace.get("pods,jobs,events"))
    for token in (job.specification.fetch_token, job.specification.publish_token):
        assert token not in text


def api_server() -> int:
    """Process of the API server of the cluster beside this clone, as that recorded it."""
    state = Path(os.environ.get("KUBE_STATE") or Path.home() / ".cache" / "testcluster" / "s")
    file = state / "pids" / "kube-apiserver"
    if os.environ.get("INSITU_TEST_KUBECONFIG") or not file.exists():
        pytest.skip("needs a Kubernetes cluster whose API server the test may halt: the one beside this clone")
    pid, started = file.read_text().split()
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19] == started, "it is another process"
    return int(pid)


def test_an_api_server_that_is_away_for_a_minute_is_survived(ground: Ground, make_job: MakeJob) -> None:
    pid = api_server()
    running, waiting = make_job("slow"), make_job("well")
    launcher = ground.launcher()
    launcher.launch(running.specification)
    stages: list[str] = []
    while "algorithm" not in stages:
        assert launcher.wait(running.name, 1.0, stages.append) is None
    os.kill(pid, signal.SIGSTOP)
    back = threading.Timer(AWAY_SECONDS, os.kill, (pid, signal.SIGCONT))
    back.start()
    try:
        began = time.monotonic()
        assert launcher.wait(running.name, 5.0) is None
        assert time.monotonic() - began < 15.0, "who waits must be able to give signs of life"
        other = ground.launcher()
        other.launch(waiting.specification)
        assert time.monotonic() - began > AWAY_SECONDS - 10.0
    finally:
        back.join()
    for job, by in ((running, launcher), (waiting, other)):
        outcome = by.wait(job.name, PATIENCE)
        assert outcome is not None, ground.namespace.trouble()
        assert outcome.state == "succeeded", outcome.reason
        assert job.gateway.posts == 1
