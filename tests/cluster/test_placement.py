"""Where an algorithm's pod runs and what it is given, as site and manifest say: GPU, nodes, runtime class, a volume for scratch."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..contract.conftest import PATIENCE, Job
from .cluster import Cluster
from .launching import Ground

pytestmark = pytest.mark.usefixtures("place")
MakeJob = Callable[..., Job]


@pytest.fixture
def named() -> str:
    """A name that nobody else in the cluster has."""
    return f"tests-{secrets.token_hex(3)}"


@contextmanager
def offered(cluster: Cluster, resource: str, label: str) -> Iterator[None]:
    """A node that says it has one of a resource, as a device plugin lets it say, and has a label."""
    node = cluster.get("nodes")["items"][0]["metadata"]["name"]
    place = "/status/capacity/" + resource.replace("/", "~1")

    def change(operation: dict[str, Any]) -> None:
        cluster.kubectl(
            "patch", "node", node, "--subresource=status", "--type=json", "--patch", json.dumps([operation])
        )

    change({"op": "add", "path": place, "value": "1"})
    cluster.kubectl("label", "node", node, f"{label}=yes")
    try:
        yield
    finally:
        cluster.kubectl("label", "node", node, f"{label}-")
        change({"op": "remove", "path": place})


def test_a_gpu_by_the_sites_name_on_the_sites_nodes_in_the_sites_runtime(
    ground: Ground, make_job: MakeJob, named: str
) -> None:
    cluster, resource, label = ground.cluster, f"{named}.example/gpu", f"{named}.example/algorithms"
    runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": named}, "handler": "runc"}
    launcher = ground.launcher(gpu_resource=resource, node_selector={label: "yes"}, runtime_class=named)
    first, second = make_job("slow", gpu=1), make_job("well", gpu=1)
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(runtime))
    try:
        with offered(cluster, resource, label):
            launcher.launch(first.specification)
            launcher.launch(second.specification)
            outcomes = [launcher.wait(job.name, PATIENCE) for job in (first, second)]
        for outcome in outcomes:
            assert outcome is not None, ground.namespace.trouble()
            assert outcome.state == "succeeded", outcome.reason
        pods = ground.namespace.get("pods")["items"]
    finally:
        cluster.kubectl("delete", "runtimeclass", named)
    assert [pod["spec"]["runtimeClassName"] for pod in pods] == [named, named]
    asked = [item["resources"]["limits"].get(resource) for item in pods[0]["spec"]["initContainers"]]
    assert asked == [None, "1"], "fetch needs none"
    times = sorted(
        (state["terminated"]["startedAt"], state["terminated"]["finishedAt"])
        for pod in pods
        for state in [
            entry["state"] for entry in pod["status"]["initContainerStatuses"] if entry["name"] == "algorithm"
        ]
    )
    assert times[0][1] <= times[1][0], "the one GPU was held by both at once"


def test_a_large_scratch_folder_is_a_volume_that_goes_with_the_pod(
    ground: Ground, make_job: MakeJob, named: str
) -> None:
    """A folder of this machine stands for what a storage class would make, so it must be the cluster's node."""
    if ground.cluster.load_by not in {"testcluster", "containerd"}:
        pytest.skip("needs a Kubernetes cluster: its node must be this machine to give a folder as a volume")
    folder = Path(tempfile.mkdtemp(prefix="insitu-scratch-"))
    folder.chmod(0o777)  # a volume of this kind is given to nobody
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": named},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": named,
            "hostPath": {"path": str(folder)},
        },
    }
    ground.cluster.kubectl("create", "-f", "-", stdin=json.dumps(volume))
    try:
        scratch = {"bytes": 2**29, "volume_above_bytes": 2**20, "storage_class": named}
        launcher = ground.launcher(scratch=type(ground.configuration.scratch).model_validate(scratch))
        job = make_job("scratch")
        launcher.launch(job.specification)
        outcome = launcher.wait(job.name, PATIENCE)
        assert outcome is not None, ground.namespace.trouble()
        assert outcome.state == "succeeded", outcome.reason
        (claim,) = ground.namespace.get("pvc")["items"]
        assert claim["spec"]["volumeName"] == named
        assert claim["metadata"]["ownerReferences"][0]["kind"] == "Pod"
        assert (folder / "left").read_text() == "here"
    finally:
        ground.cluster.kubectl("delete", "pv", named, "--wait=false")
