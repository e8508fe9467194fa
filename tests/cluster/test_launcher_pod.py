"""What the pod of a run really sees: the gateway by its name without DNS, and in the algorithm nothing but its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from insitu.runs.launch.kubernetes.configuration import Service

from ..contract.conftest import PATIENCE, Job
from .launching import Ground

pytestmark = pytest.mark.usefixtures("place")
MakeJob = Callable[..., Job]

LOOK = """
import json, os, socket
def refused(action):
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return "done"
def write(path):
    with open(path, "a") as stream:
        stream.write("x")
places = ["/run/insitu", "/step", "/var/run/secrets/kubernetes.io", "/input", "/output", "/scratch", "/parameters.json"]
print("SEEN " + json.dumps({
    "user": os.getuid(),
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0],
    "there": [path for path in places if os.path.exists(path)],
    # the doubles' image is made from the platform's, which names a home
    "variables": sorted(name for name in os.environ if ("INSITU" in name or "TOKEN" in name) and name != "INSITU_HOME"),
    "refused": {path: refused(lambda: write(path)) for path in ("/input/x", "/input/image/image.json", "/parameters.json", "/x", "/etc/x")},
    "written": {path: refused(lambda: write(path)) for path in ("/output/x", "/scratch/x", "/tmp/x", "/dev/shm/x")},
    "name": refused(lambda: socket.getaddrinfo("gateway.insitu.internal.", 80)),
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
}))
"""


def test_the_gateway_is_reached_by_its_name_through_its_service(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("well")
    port = urlsplit(job.gateway.url).port
    ports = [{"name": "http", "port": port, "protocol": "TCP"}]
    ground.namespace.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gateway"}, "spec": {"ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "gateway-1", "labels": {"kubernetes.io/service-name": "gateway"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ground.address]}],
            "ports": ports,
        },
    )
    launcher = ground.launcher(gateway_service=Service(namespace=ground.namespace.name, name="gateway"))
    named = job.specification.model_copy(update={"gateway_url": f"http://gateway.insitu.internal:{port}"})
    launcher.launch(named)
    outcome = launcher.wait(job.name, PATIENCE)
    assert outcome is not None, ground.namespace.trouble()
    assert outcome.state == "succeeded", outcome.reason
    assert job.gateway.posts == 1


def test_the_algorithm_sees_its_files_and_nothing_of_ours(ground: Ground, make_job: MakeJob) -> None:
    job = make_job("well")
    algorithm = job.specification.algorithm.model_copy(update={"entrypoint": ("python", "-c", LOOK)})
    launcher = ground.launcher()
    launcher.launch(job.specification.model_copy(update={"algorithm": algorithm}))
    outcome = launcher.wait(job.name, PATIENCE)
    assert outcome is not None, ground.namespace.trouble()
    assert outcome.failure == "output-missing", outcome.reason
    (line,) = [text for text in launcher.log(job.name, "algorithm").splitlines() if text.startswith("SEEN ")]
    seen = json.loads(line.removeprefix("SEEN "))
    assert seen["user"] == 65534
    assert int(seen["capabilities"], 16) == 0
    assert seen["there"] == ["/input", "/output", "/scratch", "/parameters.json"]
    # The kubelet tells every pod the address of the API server, in variables of its own; policies of the network keep it away.
    assert seen["variables"] == ["INSITU_INPUT", "INSITU_OUTPUT", "INSITU_PARAMETERS"]
    assert "done" not in seen["refused"].values(), seen["refused"]
    assert set(seen["written"].values()) == {"done"}, seen["written"]
    assert seen["name"] != "done"
    assert seen["processes"] == 1
