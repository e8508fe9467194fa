"""Every way in which a run can end on a cluster, told apart from what the cluster itself says. None hangs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from insitu.runs.launch.specification import JobOutcome, JobSpecification

from ..contract.conftest import PATIENCE, Job
from .launching import Ground

pytestmark = pytest.mark.usefixtures("place")
MakeJob = Callable[..., Job]


def carried_out(ground: Ground, specification: JobSpecification, **configuration: Any) -> JobOutcome:
    """The outcome of a job; one that does not end fails the test with what the cluster says."""
    launcher = ground.launcher(**configuration)
    launcher.launch(specification)
    outcome = launcher.wait(specification.name, PATIENCE)
    assert outcome is not None, ground.namespace.trouble()
    return outcome


def with_algorithm(job: Job, **changes: Any) -> JobSpecification:
    """The job with something else about its algorithm."""
    return job.specification.model_copy(update={"algorithm": job.specification.algorithm.model_copy(update=changes)})


def told(outcome: JobOutcome, failure: str, *said: str) -> None:
    """Check kind and sentence."""
    assert outcome.failure == failure, outcome.reason
    for words in said:
        assert words in str(outcome.reason)


def pod_of(ground: Ground, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The one pod of the namespace, when it has come so far."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for pod in ground.namespace.get("pods")["items"]:
            if reached(pod):
                return dict(pod)
        time.sleep(0.3)
    raise AssertionError(ground.namespace.trouble())


def algorithm_runs(pod: dict[str, Any]) -> bool:
    """Whether the algorithm's container runs."""
    statuses = pod["status"].get("initContainerStatuses") or []
    return any(item["name"] == "algorithm" and "running" in item["state"] for item in statuses)


def test_a_run_out_of_memory_is_given_more_once_and_ends_well(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("hungry", memory_bytes=160 * 2**20)
    launcher = ground.launcher(memory_cap=400 * 2**20)
    launcher.launch(job.specification)
    first = launcher.wait(job.name, PATIENCE)
    assert first is not None
    told(first, "out-of-memory", "160 MiB")
    again = launcher.next_attempt(job.specification, first)
    assert again is not None
    assert again.limits.memory_bytes == 320 * 2**20
    launcher.launch(again)
    second = launcher.wait(again.name, PATIENCE)
    assert second is not None
    assert second.state == "succeeded", second.reason
    assert launcher.next_attempt(again, first) is None, "there is no third attempt"
    assert ground.launcher(memory_cap=160 * 2**20).next_attempt(job.specification, first) is None


def test_an_image_that_does_not_exist_is_named(ground: Ground, make_job: MakeJob) -> None:
    missing = "localhost:1/never@sha256:" + "0" * 64
    told(
        carried_out(ground, with_algorithm(make_job("well"), image=missing), image_seconds=3.0),
        "image-not-found",
        missing,
    )


def test_a_name_that_no_image_can_have_is_not_tried_again(ground: Ground, make_job: MakeJob) -> None:
    told(carried_out(ground, with_algorithm(make_job("well"), image="No:Image:AtAll")), "image-not-found", "No:Image")


def test_a_command_that_the_image_lacks_is_told(ground: Ground, make_job: MakeJob) -> None:
    told(
        carried_out(ground, with_algorithm(make_job("well"), entrypoint=("no-such-program",))),
        "environment-missing",
        "no-such-program",
    )


@pytest.mark.parametrize(
    ("limits", "lacking"),
    [({"gpu": 1}, "nvidia.com/gpu"), ({"memory_bytes": 2**50}, "memory"), ({"cpu": 999}, "cpu")],
)
def test_what_the_cluster_has_no_room_for_is_named(
    ground: Ground, make_job: MakeJob, limits: dict[str, int], lacking: str
) -> None:
    outcome = carried_out(ground, make_job("well", **limits).specification, unschedulable_seconds=3.0)
    told(outcome, "unschedulable", "not enough", lacking)


def test_a_used_up_quota_counts_as_no_room(ground: Ground, make_job: MakeJob) -> None:
    ground.namespace.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "most"}, "spec": {"hard": {"pods": "0"}}}
    )
    outcome = carried_out(ground, make_job("well").specification, unschedulable_seconds=4.0)
    told(outcome, "unschedulable", "quota", "pods=1")


@pytest.fixture(params=["pods", "jobs"])
def policy(request: pytest.FixtureRequest, ground: Ground) -> Iterator[None]:
    """A policy of the cluster that lets no image run in the namespace, by refusing pods or already Jobs."""
    name = f"{ground.namespace.name}-images"
    kind: str = request.param
    group = "" if kind == "pods" else "batch"
    ground.namespace.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "resourceRules": [
                        {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [kind]}
                    ]
                },
                "validations": [{"expression": "false", "message": "its image is not on the list"}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {
                "policyName": name,
                "validationActions": ["Deny"],
                "matchResources": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ground.namespace.name}}
                },
            },
        },
    )
    time.sleep(3.0)  # the API server takes a new policy into account after a moment
    yield
    for what in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        ground.cluster.kubectl("delete", what, name)


@pytest.mark.usefixtures("policy")
def test_an_image_that_the_policy_does_not_allow_is_told(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("well")
    told(carried_out(ground, job.specification), "image-not-allowed", "its image is not on the list")
    assert job.gateway.posts == 0


def test_an_evicted_run_can_be_tried_again(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("hang")
    launcher = ground.launcher()
    launcher.launch(job.specification)
    pod = pod_of(ground, algorithm_runs)
    name = pod["metadata"]["name"]
    ground.cluster.kubectl(
        "create", "--raw", f"/api/v1/namespaces/{ground.namespace.name}/pods/{name}/eviction", "-f", "-",
        stdin=f'{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{name}"}}}}',
    )  # fmt: skip
    outcome = launcher.wait(job.name, PATIENCE)
    assert outcome is not None
    told(outcome, "evicted", "EvictionByEvictionAPI")
    assert launcher.next_attempt(job.specification, outcome) is not None


def test_a_pod_deleted_by_hand_is_told(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("hang")
    launcher = ground.launcher()
    launcher.launch(job.specification)
    assert launcher.wait(job.name, 0.5) is None
    pod = pod_of(ground, algorithm_runs)
    ground.namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    outcome = launcher.wait(job.name, PATIENCE)
    assert outcome is not None
    told(outcome, "runner-lost", "deleted")


@pytest.fixture
def lost_node(ground: Ground) -> Iterator[str]:
    """A node that says it is ready and then never says anything again; only the tests' pods go there."""
    name = f"{ground.namespace.name}-lost"
    status = {
        "capacity": {"cpu": "8", "memory": "32Gi", "pods": "10", "ephemeral-storage": "100Gi"},
        "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "10", "ephemeral-storage": "100Gi"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it says"}],
    }
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"test-node": name}},
        "spec": {"taints": [{"key": "test-node", "value": name, "effect": "NoSchedule"}]},
    }
    ground.namespace.apply(node)
    ground.cluster.kubectl(
        "patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )
    yield name
    ground.cluster.kubectl("delete", "node", name)


def test_a_node_that_went_silent_ends_the_run_and_another_attempt_can_help(
    ground: Ground, make_job: MakeJob, lost_node: str
) -> None:
    job = make_job("well")
    launcher = ground.launcher(
        node_selector={"test-node": lost_node},
        tolerations=[{"key": "test-node", "operator": "Exists"}],
        node_lost_seconds=3,
    )
    launcher.launch(job.specification)
    outcome = launcher.wait(job.name, PATIENCE)
    assert outcome is not None, ground.namespace.trouble()
    told(outcome, "node-lost", lost_node)
    assert launcher.next_attempt(job.specification, outcome) is not None


def test_a_run_that_nobody_follows_is_ended_by_the_cluster_itself(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("hang", seconds=1.0)
    tight = {"step_seconds": 1.0, "unschedulable_seconds": 0.0, "image_seconds": 0.0}
    ground.launcher(**tight).launch(job.specification)
    deadline = time.monotonic() + PATIENCE
    while not any(
        item["type"] == "Failed" and item["status"] == "True"
        for item in ground.namespace.get("job", job.name)["status"].get("conditions", [])
    ):
        assert time.monotonic() < deadline, ground.namespace.trouble()
        time.sleep(1.0)
    outcome = ground.launcher(**tight).wait(job.name, PATIENCE)
    assert outcome is not None
    told(outcome, "deadline-exceeded", "in all")


def test_a_run_without_room_can_be_cancelled(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("well", cpu=999)
    launcher = ground.launcher()
    launcher.launch(job.specification)
    assert launcher.wait(job.name, 2.0) is None
    ground.launcher().cancel(job.name)
    outcome = launcher.wait(job.name, PATIENCE)
    assert outcome is not None
    assert outcome.state == "cancelled"
    assert "before it began" in str(outcome.reason)


def test_the_log_outlives_the_end_by_a_limit(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("hang", seconds=2.0)
    told(carried_out(ground, job.specification), "deadline-exceeded", "2 s")
    assert "hanging" in ground.launcher().log(job.name, "algorithm")


def test_a_job_that_somebody_deletes_ends_the_run(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("hang")
    launcher = ground.launcher()
    launcher.launch(job.specification)
    assert launcher.wait(job.name, 1.0) is None
    deleting = threading.Timer(1.0, ground.namespace.kubectl, ("delete", "job", job.name, "--wait=false"))
    deleting.start()
    outcome = launcher.wait(job.name, PATIENCE)
    deleting.join()
    assert outcome is not None
    told(outcome, "runner-lost", "deleted")
