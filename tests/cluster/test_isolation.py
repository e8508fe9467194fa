"""An algorithm that tries to get out: each attempt fails, the platform goes on, and the same attempts succeed where nothing forbids them.

The red-team package (tests/doubles/redteam.py) runs through Airflow and the launcher in a namespace that the chart made, so it is the
chart's policies that hold it. Two controls show that an attempt failed for the right reason: what it tried to reach answers the node,
and the same program as root in a privileged pod outside every policy can do what it tries. docs/security.md names these tests.
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from insitu.runs.launch.kubernetes.configuration import Scratch, StepResources
from insitu.runs.launch.kubernetes.manifest import EXECUTION
from insitu.runs.launch.specification import JobOutcome
from tests.site import PATIENCE, Sent, phantom
from tests.tools import need_program

from ..contract.conftest import Job
from . import outside as beside
from .cluster import Cluster, Namespace
from .launching import Ground, self_contained
from .site import ClusterSite

OPEN: dict[str, str] = {}  # no Pod Security
OBJECT = {"type": "object"}
PARAMETERS = {
    "type": "object",
    "properties": dict.fromkeys(("hosts", "questions", "servers", "routes", "links"), OBJECT) | {"needles": {"type": "array"}},
}  # fmt: skip
PATIENT = ("PHANTOM-1", "Phantom^Cube")
STEP_TOKEN = "insitu_step_"  # how each begins
KUBELET, LISTENING = 10250, 7777

# What would be no attempt in the control: reaches nobody there either, is refused by whoever is asked, or is not in the image.
ELSEWHERE = {
    "sudo": "the image has none",
    "page kubelet": "refuses whoever shows no certificate",
    "link an input": "input and output are two mounts",
    "write /sys": "the kernel lets nobody make a file there",
    "oom score": "a node that is a container itself may lack the right",
    "call init_module": "the same, or its kernel takes no modules",
    "write /proc/sysrq-trigger": "not every kernel has it",
}
# What stays possible, and why that is no harm. docs/security.md says the same.
LET = {
    "write /dev/mqueue": "message queues of the pod itself, 800 kB at most, counted as its memory",
    "route alive": "the gateway's word that it lives, without anything else",
}


@dataclass
class Attack:
    """What the red team could do."""

    run: dict[str, Any]
    log: str
    attempts: dict[str, tuple[bool, str]]
    targets: dict[str, Any]
    control: dict[str, tuple[bool, str]] = field(default_factory=dict)
    visitors: set[str] = field(default_factory=set)
    pods: set[str] = field(default_factory=set)

    def succeeded(self, *kinds: str) -> dict[str, str]:
        """Attempts of these kinds that were a success."""
        mine = {name: how for name, (done, how) in self.attempts.items() if name.split()[0] in kinds and done}
        return {name: how for name, how in mine.items() if name not in LET}


@dataclass(frozen=True)
class Ours:
    """The platform, a series in it as it was, and algorithms to try, of which one does what it should."""

    site: ClusterSite
    sent: Sent
    folder: Path
    well: str
    before: dict[str, Any]

    def install(self, kind: str, **changes: Any) -> str:
        """A double, installed."""
        return installed(self.site, self.folder, kind, **changes)

    def run(self, algorithm: str, **more: Any) -> dict[str, Any]:
        """A run of it, ended."""
        execution = self.site.start(algorithm, self.sent.series, **more)
        with suppress(AssertionError):  # what is tried takes long on a busy machine: patience twice
            return self.site.finished(execution)
        return self.site.finished(execution)

    def echo(self) -> bool:
        """Whether C-ECHO is answered."""
        host, port = self.site.dicom
        with self.site.network():
            done = subprocess.run(
                ["echoscu", "-to", "20", "-aec", "INSITU", host, str(port)],
                capture_output=True,
                check=False,
                timeout=60,
            )
        return done.returncode == 0

    def log(self, run: dict[str, Any]) -> str:
        """What its algorithm said."""
        answer = self.site.http.get(f"/api/v1/runs/{run['execution']}/log", params={"step": "algorithm"})
        assert answer.status_code == 200, answer.text
        return answer.text


def installed(site: ClusterSite, folder: Path, kind: str, **changes: Any) -> str:
    """A double under a name of its own, so that an installation that stays takes it again."""
    name = f"{kind}-{secrets.token_hex(3)}"
    return site.install_double(kind, folder / name, name=name, **changes)


@pytest.fixture(scope="module")
def ours(site: ClusterSite, tmp_path_factory: pytest.TempPathFactory) -> Ours:
    """The platform with a phantom in its archive."""
    need_program("storescu", "dcmtk")
    folder = tmp_path_factory.mktemp("redteam")
    sent = phantom(folder / "sent")
    site.send(sent)
    before = site.complete(sent.series)
    return Ours(site, sent, folder, installed(site, folder, "well"), before)


@pytest.fixture(scope="module")
def outside(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[beside.Outside | None]:
    """Hosts outside the cluster."""
    with beside.outside(cluster, tmp_path_factory.mktemp("outside")) as made:
        yield made


@pytest.fixture(scope="module")
def free(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace without policies and without Pod Security."""
    with cluster.namespace("free", OPEN) as namespace:
        yield namespace


@contextmanager
def listening(namespace: Namespace, image: str, labels: dict[str, str]) -> Iterator[str]:
    """Address of a pod that answers on a port; it asks for next to nothing."""
    name = f"listen-{secrets.token_hex(3)}"
    namespace.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 1,
                "activeDeadlineSeconds": 900,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65534,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "algorithm",
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["python", "-c", self_contained("listen")],
                        "env": [{"name": name, "value": "/tmp"} for name in ("INSITU_INPUT", "INSITU_OUTPUT")],
                        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
            },
        }
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if "listening" in namespace.kubectl("logs", name, check=False):
            break
        time.sleep(0.5)
    else:
        raise AssertionError(namespace.trouble())
    try:
        yield namespace.get("pod", name)["status"]["podIP"]
    finally:
        namespace.kubectl("delete", "pod", name, "--wait=false")


def addresses(site: ClusterSite, outside: beside.Outside | None, others: dict[str, str]) -> dict[str, Any]:
    """What the red team is to reach, as the parameters of its run."""
    cluster = site.cluster
    (node,) = [
        item["address"]
        for item in cluster.get("nodes")["items"][0]["status"]["addresses"]
        if item["type"] == "InternalIP"
    ]
    hosts = {}
    for component, port in {
        "database": 5432,
        "object-store": 7070,
        "airflow-api": 8793,
        "api": 8080,
        "receiver": 11112,
    }.items():
        hosts[f"{component} service"] = f"{site.service(component)[0]}:{port}"
        hosts[f"{component} pod"] = f"{site.pods(component)[0]['status']['podIP']}:{port}"
    hosts["scheduler pod"] = f"{site.pods('airflow-scheduler')[0]['status']['podIP']}:8974"
    kubernetes = cluster.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"]
    behind = cluster.get("endpointslices", "-n", "default", "-l", "kubernetes.io/service-name=kubernetes")["items"][0]
    server = f"{behind['endpoints'][0]['addresses'][0]}:{behind['ports'][0]['port']}"
    names = cluster.get("service", "kube-dns", "-n", "kube-system")["spec"]["clusterIP"]
    hosts |= {
        "apiserver service": f"{kubernetes}:443",
        "apiserver node": server,
        "kubelet": f"{node}:{KUBELET}",
        "dns": f"{names}:53",
        **{name: f"{address}:{LISTENING}" for name, address in others.items()},
    }
    questions = {"dns": f"{names}:53"}
    servers = {
        "apiserver service": f"https://{kubernetes}/version",
        "apiserver node": f"https://{server}/version",
        "kubelet": f"https://{node}:{KUBELET}/pods",
    }
    if outside is not None:
        hosts |= {"outside": f"{beside.HOST}:{beside.WEB}", "metadata": f"{beside.METADATA}:{beside.WEB}"}
        questions |= {"outside": f"{beside.HOST}:{beside.NAMES}", "metadata": f"{beside.METADATA}:{beside.NAMES}"}
        servers["metadata"] = f"http://{beside.METADATA}/latest/meta-data/"
    return {"hosts": hosts, "questions": questions, "servers": servers}


def routes(site: ClusterSite, execution: str) -> dict[str, Any]:
    """Requests to the gateway: each of its routes, for an execution that exists, with no token and with wrong ones."""
    host, port = site.service("gateway")
    gateway = f"http://{host}:{port}"
    base = f"{gateway}/gateway/v1/executions/{execution}"
    wanted = {
        "manifest": ("GET", "manifest"),
        "instance": ("GET", "instances/1.2.3"),
        "stage": ("POST", "stage"),
        "results": ("POST", "results"),
    }
    headers = {
        "nobody": None,
        "invented": f"Bearer {STEP_TOKEN}{'A' * 43}",
        "empty": "Bearer",
        "password": "Basic YWRtaW46YWRtaW4=",
    }
    asked = {
        f"{name} {who}": [method, f"{base}/{path}", header and header[::-1]]
        for name, (method, path) in wanted.items()
        for who, header in headers.items()
    }
    asked |= {
        path: ["GET", f"{gateway}/{path}", None]
        for path in ("readyz", "metrics", "openapi.json", "docs", "api/v1/runs", "dicom-web/studies")
    }
    return asked | {"alive": ["GET", f"{gateway}/healthz", None]}


def attempts(log: str) -> dict[str, tuple[bool, str]]:
    """The outcomes in a log of the red team."""
    told = [json.loads(line.removeprefix("ATTEMPT ")) for line in log.splitlines() if line.startswith("ATTEMPT ")]
    return {item["name"]: (item["done"], item["how"]) for item in told}


# As root of a privileged pod: the folders of a run, and what would be worth finding in them.
PREPARE = """
import ctypes, json, os, stat, subprocess, sys
parameters, program = json.loads(sys.argv[1]), sys.argv[2]
libc = ctypes.CDLL(None)
account = "/var/run/secrets/kubernetes.io/serviceaccount"
for folder in ("/input/image", "/output", "/scratch", "/step/source", "/package", "/run/insitu", account):
    os.makedirs(folder, exist_ok=True)
libc.mount(b"none", b"/input", b"tmpfs", 0, None)
os.makedirs("/input/image")
for name in ("image.json", "image.nii.gz"):
    open(f"/input/image/{name}", "w").write(parameters["needles"][0][::-1])
open(f"{account}/token", "w").write("token")
open("/parameters.json", "w").write(json.dumps(parameters))
open("/usr/bin/set-user-id", "w").close()
os.chmod("/usr/bin/set-user-id", 0o4755)
os.environ.update(INSITU_INPUT="/input", INSITU_OUTPUT="/output", INSITU_PARAMETERS="/parameters.json", INSITU_STEP_TOKEN="token")
subprocess.run([sys.executable, "-c", program])
"""


@pytest.fixture(scope="module")
def attack(ours: Ours, outside: beside.Outside | None, free: Namespace) -> Iterator[Attack]:
    """The red team's run, and the control; made once, looked at by the tests below."""
    site = ours.site
    image = site.namespace.get("deployment", "insitu-gateway")["spec"]["template"]["spec"]["containers"][0]["image"]
    labels = {
        f"app.kubernetes.io/{name}": value
        for name, value in (("name", "insitu"), ("instance", "insitu"), ("component", "algorithm"))
    }
    with listening(site.algorithms, image, labels) as other, listening(free, image, {}) as somebody:
        yield attacked(ours, outside, free, image, {"algorithm of another run": other, "pod of somebody": somebody})


def attacked(ours: Ours, outside: beside.Outside | None, free: Namespace, image: str, others: dict[str, str]) -> Attack:
    """Let the red team try, and the control."""
    site = ours.site
    neighbour = site.start(ours.well, ours.sent.series)
    targets = addresses(site, outside, others)
    parameters = targets | {
        "routes": routes(site, neighbour),
        "needles": [word[::-1] for word in (*PATIENT, ours.sent.study, STEP_TOKEN)],
        "links": {"measurements.json": "/run/insitu/token"},
    }
    line = ["python", "-c", PREPARE, json.dumps(parameters), self_contained("redteam")]
    root = {"privileged": True, "runAsUser": 0, "runAsNonRoot": False}
    with ThreadPoolExecutor(1) as pool:
        control = pool.submit(free.run_pod, "control", image, line, securityContext=root)
        run = ours.run(ours.install("redteam", parameters=PARAMETERS), parameters=parameters)
        _, said = control.result()
    log = ours.log(run)
    beside_it = site.finished(neighbour)
    assert beside_it["state"] == "succeeded", beside_it["reason"]
    pods = {
        pod["status"]["podIP"]
        for pod in site.algorithms.get("pods")["items"]
        if pod["metadata"]["labels"].get(EXECUTION) == run["execution"]
    }
    visitors = outside.visitors() if outside else set()
    made = Attack(run, log, attempts(log), targets, attempts(said), visitors, pods)
    for name, (done, how) in sorted(made.attempts.items()):
        print(f"{'DONE' if done else 'failed'} {name}: {how} (control: {made.control.get(name)})")
    return made


def test_the_red_team_tried_everything(attack: Attack) -> None:
    assert "tried everything" in attack.log, (attack.run["reason"], attack.log[-3000:])
    assert len(attack.attempts) > 100
    for place in ("/output", "/scratch", "/tmp", "/dev/shm"):  # of the pod
        assert attack.attempts[f"own {place}"][0], "it must have been able to work"


def test_no_host_is_reached_by_no_protocol(attack: Attack) -> None:
    """Outside hosts, metadata, API server, PostgreSQL, object store, Airflow, api, receiver, other pods, DNS, other sockets."""
    kubelet = {"connect kubelet"}  # a policy need not keep a pod from its node; that it asks who comes is another test
    assert set(attack.succeeded("connect", "ask", "name", "raw", "packet")) - kubelet == set()
    assert set(attack.succeeded("page")) == set()


def test_nothing_came_to_the_hosts_outside(attack: Attack, outside: beside.Outside | None) -> None:
    if outside is None:
        pytest.skip("needs a network namespace beside the cluster's node, where hosts can be stood for")
    assert attack.pods
    assert attack.visitors, "the control was there"
    assert not attack.pods & attack.visitors
    for name in ("connect outside", "connect metadata", "ask outside", "ask metadata", "page metadata"):
        assert not attack.attempts[name][0]
        assert attack.control[name][0], f"{name} must succeed where nothing forbids it: {attack.control[name]}"


def test_what_was_tried_answers_the_node(attack: Attack, ours: Ours) -> None:
    """Nothing was unreachable because it is not there."""
    with ours.site.network():
        for target in attack.targets["hosts"].values():
            host, _, port = target.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()


def test_a_kubelet_that_is_reached_lets_nobody_in(attack: Attack) -> None:
    how = attack.attempts["page kubelet"][1]
    reached = attack.attempts["connect kubelet"][0]
    print(f"the node's kubelet is {'reached' if reached else 'not reached'}: {how}")
    assert not attack.attempts["page kubelet"][0]
    if reached:
        assert "status 401" in how or "status 403" in how
    assert attack.control["connect kubelet"][0]
    assert "status 401" in attack.control["page kubelet"][1], "without a certificate it refuses whoever comes"


def test_the_gateway_answers_nothing_without_a_token(attack: Attack) -> None:
    assert attack.succeeded("route") == {}
    mine = {name.removeprefix("route "): how for name, (_, how) in attack.attempts.items() if name.startswith("route ")}
    assert attack.attempts["route alive"][0], "it must have been reached"
    refused = {name for name, how in mine.items() if "status 401" in how}
    assert refused == {name for name in mine if name.split()[0] in ("manifest", "instance", "stage", "results")}
    assert {name for name, how in mine.items() if "status 404" in how} == set(mine) - refused - {"alive"}


def test_it_becomes_nobody_else_and_mounts_nothing(attack: Attack) -> None:
    kinds = (
        "is", "capabilities", "new", "system", "set-user-ID", "setuid", "setgid", "setgroups", "sudo", "su", "unshare", "setns",
        "mount", "remount", "unmount", "chroot", "host", "memory", "disk", "oom", "call",
    )  # fmt: skip
    assert attack.succeeded(*kinds) == {}


def test_it_writes_nowhere_but_in_its_folders_and_reads_nothing_of_others(attack: Attack) -> None:
    assert attack.succeeded("write", "link", "rename", "change", "remove") == {}
    assert attack.succeeded("hidden", "needles", "environment", "service", "other") == {}


def test_each_attempt_succeeds_where_nothing_forbids_it(attack: Attack) -> None:
    of_the_platform = {
        f"connect {name}"
        for name in attack.targets["hosts"]
        if name.endswith((" service", " pod")) and not name.startswith("apiserver")
    } | {"connect algorithm of another run"}
    kept = {
        name: how
        for name, (done, how) in attack.control.items()
        if not done and name not in ELSEWHERE and not name.startswith("route ")
    }
    # The platform's pods and those of algorithms let nobody in that their policies do not name; that they are there the node has seen.
    assert set(kept) - of_the_platform == set(), kept
    # Beyond that there are only the places by which something is kept from the algorithm.
    masks = ("write /proc/", "write /sys/", "write /run/closed")
    assert all(name.startswith(masks) for name in set(attack.attempts) - set(attack.control))
    assert attack.control["write /dev/termination-log"][0], "what is closed to an algorithm is open in any other pod"


def test_publish_follows_no_link_to_its_token(attack: Attack, ours: Ours) -> None:
    run = attack.run
    assert (run["state"], run["failure"]) == ("failed", "output-malformed"), run["reason"]
    assert "link" in run["reason"]
    assert run["results"] == []
    assert STEP_TOKEN not in ours.site.http.get(f"/api/v1/runs/{run['execution']}/log").text + run["reason"]


class Watched:
    """Asks the platform again and again whether it goes on."""

    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.failed: list[str] = []
        self.asked = 0

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ending.is_set():
            try:
                answer = self._ours.site.http.get("/readyz").json()
                if answer["status"] != "ok":
                    self.failed.append(json.dumps(answer))
                if not self._ours.echo():
                    self.failed.append("C-ECHO is not answered")
            except (httpx.HTTPError, subprocess.TimeoutExpired, ValueError) as error:
                self.failed.append(str(error))
            self.asked += 1
            self._ending.wait(1.0)


def test_a_run_that_forks_without_end_is_ended_and_the_platform_goes_on(ours: Ours) -> None:
    """Where no kubelet limits processes it is their memory that does; the deadline ends them all."""
    resources = {"memory": "96Mi", "seconds": 10, "cpu": 1}
    name = ours.install("bomb", resources=resources)
    with Watched(ours) as watched:
        run = ours.run(name)
    assert run["state"] == "failed"
    assert run["failure"] in ("deadline-exceeded", "out-of-memory"), run["reason"]
    assert "forking" in ours.log(run)
    assert watched.asked > 3
    assert watched.failed == []


def test_the_platform_has_not_noticed(attack: Attack, ours: Ours) -> None:
    """It is ready, answers C-ECHO, has what it had, and another run on the same series succeeds."""
    assert ours.site.get("/readyz")["status"] == "ok"
    assert ours.echo()
    assert ours.site.get(f"/api/v1/series/{ours.sent.series}") == ours.before
    run = ours.run(ours.well, force=True)
    assert run["state"] == "succeeded", run["reason"]


@pytest.mark.usefixtures("place")
def test_a_run_that_fills_the_disk_is_ended_wherever_it_writes(ground: Ground, make_job: Callable[..., Job]) -> None:
    """The folders have limits; so has memory, where a folder is in it. All at once, because a kubelet measures once a minute."""
    limit, memory = 40 * 2**20, 192 * 2**20
    launcher = ground.launcher(
        scratch=Scratch(bytes=limit),
        cpu_request_share=0.1,
        steps=StepResources(cpu_request="50m", memory_request="64Mi"),
    )
    told = {
        "/output": "output-too-large",
        "/scratch": "output-too-large",
        "/tmp": "output-too-large",
        "/dev/shm": "out-of-memory",
    }
    jobs = {
        folder: make_job("fill", parameters={"folder": folder}, output_bytes=limit, memory_bytes=memory)
        for folder in told
    }
    for job in jobs.values():
        launcher.launch(job.specification)
    outcomes: dict[str, JobOutcome | None] = {folder: launcher.wait(job.name, 240.0) for folder, job in jobs.items()}
    assert {folder: outcome and outcome.failure for folder, outcome in outcomes.items()} == told, outcomes
