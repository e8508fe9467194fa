"""A training gives way on a full cluster: a clinical run takes its place within seconds, and the training begins anew afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from insitu.runs.launch.kubernetes.launcher import KubernetesLauncher

from ..contract.conftest import PATIENCE, Job
from .launching import Ground
from .test_outcomes import algorithm_runs, pod_of, told

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def only_one(ground: Ground) -> Iterator[str]:
    """A resource of which the node has one piece, as it were its GPU."""
    name = f"test.insitu.internal/{ground.namespace.name}"
    nodes = ground.cluster.get("nodes")["items"]
    node = next(item["metadata"]["name"] for item in nodes if not item["spec"].get("taints"))

    def say(value: str | None) -> None:
        change = {"status": {"capacity": {name: value}}}
        ground.cluster.kubectl(
            "patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(change)
        )  # fmt: skip

    say("1")
    deadline = time.monotonic() + PATIENCE
    while name not in ground.cluster.get("node", node)["status"]["allocatable"]:
        assert time.monotonic() < deadline, "the node does not offer the resource"
        time.sleep(0.5)
    yield name
    say(None)


@pytest.fixture
def low(ground: Ground) -> Iterator[str]:
    """The class of trainings, as the chart makes it."""
    name = f"{ground.namespace.name}-trainings"
    ground.namespace.apply(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": -10,
            "preemptionPolicy": "Never",
        }
    )
    yield name
    ground.cluster.kubectl("delete", "priorityclass", name)


def running(ground: Ground, launcher: KubernetesLauncher, job: Job) -> dict[str, Any]:
    """The pod of a training whose algorithm runs; one that had to make room for somebody else's pod begins anew."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        launcher.launch(job.specification)
        outcome = launcher.wait(job.name, 0.5)
        for pod in ground.namespace.get("pods", "-l", f"job-name={job.name}")["items"]:
            if outcome is None and algorithm_runs(pod):
                return dict(pod)
        if outcome is not None:
            assert outcome.failure == "preempted", outcome.reason
            assert launcher.next_attempt(job.specification, outcome) == job.specification, (
                "it is no attempt that counts"
            )
            launcher.remove(job.name)
    raise AssertionError(ground.namespace.trouble())


def test_a_clinical_run_takes_the_place_of_a_training_which_begins_anew(
    ground: Ground, make_job: Callable[..., Job], only_one: str, low: str
) -> None:
    launcher = ground.launcher(gpu_resource=only_one, training_priority_class=low, unschedulable_seconds=60.0)
    training = make_job("hang", manifest={"purpose": "training"}, gpu=1)
    running(ground, launcher, training)

    clinical = make_job("well", gpu=1)
    began = time.monotonic()
    launcher.launch(clinical.specification)
    first = pod_of(ground, lambda pod: pod["metadata"]["labels"]["job-name"] == clinical.name and algorithm_runs(pod))
    waited = time.monotonic() - began
    displaced = launcher.wait(training.name, PATIENCE)
    assert displaced is not None
    told(displaced, "preempted", "make room")
    assert first["spec"]["priority"] == 0
    print(f"from the launch of the clinical run to its algorithm in the place of the training: {waited:.1f} s")

    outcome = launcher.wait(clinical.name, PATIENCE)
    assert outcome is not None
    assert outcome.state == "succeeded", outcome.reason
    running(ground, launcher, training)
    launcher.cancel(training.name)
    ended = launcher.wait(training.name, PATIENCE)
    assert ended is not None
    assert ended.state == "cancelled"


def test_a_training_takes_nobodys_place(ground: Ground, make_job: Callable[..., Job], only_one: str, low: str) -> None:
    launcher = ground.launcher(gpu_resource=only_one, training_priority_class=low, training_unschedulable_seconds=5.0)
    clinical = make_job("hang", gpu=1)
    launcher.launch(clinical.specification)
    pod_of(ground, algorithm_runs)
    training = make_job("well", manifest={"purpose": "training"}, gpu=1)
    launcher.launch(training.specification)
    outcome = launcher.wait(training.name, PATIENCE)
    assert outcome is not None
    told(outcome, "unschedulable", "within 5 s", only_one)
    assert launcher.wait(clinical.name, 0.0) is None, "it still runs"
    launcher.cancel(clinical.name)
    launcher.wait(clinical.name, PATIENCE)
