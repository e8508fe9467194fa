"""`insitu doctor --cluster` on a real cluster: what it finds, what it cannot look at, and that nothing of it stays.

Not here: what it says to answers that this cluster does not give (tests/unit/doctor).
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from insitu.doctor import network, probing
from insitu.doctor.cluster import Cluster as Asked
from insitu.doctor.trial import MANAGER
from insitu.doctor.values import SiteValues
from tests.helm import merge
from tests.unit.receiver.certificates import Authority

from .cluster import Cluster, Namespace
from .launching import access, step_image
from .site import ClusterSite

PATIENCE = 60.0
ABSENT = "sha256:" + 64 * "0"
OURS = ",".join(f"{key}={value}" for key, value in MANAGER.items())
FRUGAL = {"resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}  # whatever else is on the node: there is room


@pytest.fixture(scope="module")
def kubeconfig(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cluster's own, as a file of ours."""
    file = tmp_path_factory.mktemp("doctor") / "kubeconfig"
    text = cluster.run("sh", "-c", 'cat "$KUBECONFIG"')
    file.touch(mode=0o600)
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """Values whose images are there."""
    repository, _, tag = step_image().rpartition(":")
    image = {"repository": repository, "tag": tag}
    small: dict[str, Any] = dict.fromkeys(("receiver", "api", "gateway", "dispatcher", "preparation"), FRUGAL)
    return {
        **small,
        "images": {"platform": image, "airflow": image, "objectStore": image},
        "database": {"bundled": FRUGAL},
        "objectStore": {"bundled": FRUGAL},
        "airflow": dict.fromkeys(("apiServer", "scheduler", "dagProcessor"), FRUGAL),
    }


@pytest.fixture
def account(cluster: Cluster, kubeconfig: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A kubeconfig of a service account that may do nothing so far, and the account as role bindings name it."""
    with cluster.namespace("doctor-account", {}) as home:
        home.kubectl("create", "serviceaccount", "site-it")
        document = yaml.safe_load(kubeconfig.read_text())
        document["users"] = [{"name": "it", "user": {"token": home.kubectl("create", "token", "site-it").strip()}}]
        document["contexts"][0]["context"]["user"] = "it"
        document["current-context"] = document["contexts"][0]["name"]
        file = tmp_path / "it.kubeconfig"
        file.write_text(yaml.safe_dump(document))
        yield file, f"{home.name}:site-it"


def command(kubeconfig: Path, namespace: str, *options: str, values: dict[str, Any] | None = None) -> list[str]:
    """The command line of the doctor; the values stand in a file beside the kubeconfig."""
    line = [sys.executable, "-m", "insitu.cli", "doctor", "--cluster", "--kubeconfig", str(kubeconfig), "-n", namespace]
    if values is not None:
        file = Path(tempfile.mkstemp(dir=kubeconfig.parent, suffix=".yaml")[1])
        file.write_text(yaml.safe_dump(values))
        line += ["--values", str(file)]
    return [*line, *options]


def doctor(
    cluster: Cluster,
    kubeconfig: Path,
    namespace: str,
    *options: str,
    values: dict[str, Any] | None = None,
    token: str = "",
) -> tuple[int, list[dict[str, str]]]:
    """Exit status and findings, as site IT would get them."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("INSITU_")}
    if token:
        variables["INSITU_TOKEN"] = token
    with cluster.network():
        done = subprocess.run(
            command(kubeconfig, namespace, "--json", *options, values=values),
            env=variables, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    assert done.stdout, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    print("\n".join(f"{each['state']:<5} {each['check']:<19} {each['says']}" for each in found))
    for each in found:
        assert each["state"] != "bad" or each["remedy"], f"no remedy: {each}"
    return done.returncode, found


def says(found: list[dict[str, str]], check: str, state: str) -> str:
    """The sentences of a check in one state; there must be one."""
    fitting = [each["says"] for each in found if each["check"] == check and each["state"] == state]
    assert fitting, f"no {state} {check} in {[(each['check'], each['state'], each['says']) for each in found]}"
    return "\n".join(fitting)


def leftovers(cluster: Cluster) -> list[str]:
    """What any doctor has made and is not about to vanish."""
    kinds = "namespaces,pods,secrets,networkpolicies,persistentvolumeclaims"
    items = cluster.get(kinds, "--all-namespaces", "-l", OURS)["items"]
    going = {
        item["metadata"]["name"]
        for item in items
        if item["kind"] == "Namespace" and "deletionTimestamp" in item["metadata"]
    }
    return [
        f"{item['kind']} {item['metadata']['name']}"
        for item in items
        if "deletionTimestamp" not in item["metadata"] and item["metadata"].get("namespace") not in going
    ]


def gone(cluster: Cluster) -> None:
    """Nothing of the doctor stays; those of other tests end within the time."""
    deadline = time.monotonic() + PATIENCE
    while left := leftovers(cluster):
        assert time.monotonic() < deadline, left
        time.sleep(1)


def test_everything_that_is_wrong_before_the_installation_is_found_at_once(
    cluster: Cluster, namespace: Namespace, kubeconfig: Path, values: dict[str, Any], tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority", "authority")
    late = authority.issue("late", days=-1)
    namespace.kubectl("create", "secret", "tls", "web", f"--cert={late.certificate}", f"--key={late.key}")
    wrong = merge(
        values,
        {
            "database": {"bundled": {"storage": {"storageClassName": "no-such-class"}}},
            "ingress": {
                "enabled": True,
                "className": "no-such-ingress",
                "host": "a.example",
                "tls": {"existingSecret": "web"},
            },
            "global": {"imagePullSecrets": ["no-such-secret"]},
            "priorityClass": {"name": "no-such-priority"},
            "admissionPolicy": {"create": False},
            "algorithms": {
                "createNamespace": False,
                "launcher": {"gpu_resource": "no.such/gpu", "node_selector": {"no-such": "label"}},
            },
            "images": {"airflow": {"repository": "registry.test/no-such-image", "digest": ABSENT}},
            "networkPolicy": {"dns": {"podLabels": {"k8s-app": "no-such-dns"}}},
        },
    )
    status, found = doctor(cluster, kubeconfig, namespace.name, values=wrong)
    assert status == 1
    for check, state, words in (
        ("version", "ok", "Kubernetes v1."),
        ("volume database", "bad", "no-such-class"),
        ("ingress class", "bad", "no-such-ingress"),
        ("web pages", "bad", "networkPolicy.apiFrom"),
        ("web certificate", "bad", "expired"),
        ("secret", "bad", "no-such-secret"),
        ("priority class", "bad", "no-such-priority"),
        ("admission policy", "bad", "any image runs there"),
        ("namespace", "bad", f"{namespace.name}-algorithms is not there"),
        ("gpu", "note", "no.such/gpu"),
        ("algorithms' nodes", "bad", "no-such"),
        ("image airflow", "bad", ABSENT),
        ("dns", "bad", "networkPolicy.dns"),
        ("image platform", "note", "a tag can be moved"),
        ("pod security", "ok", "refuses a privileged pod"),
    ):
        assert words in says(found, check, state)
    held = says(found, "network policies", "ok")
    assert "comes in" in held
    assert "goes out" in held
    gone(cluster)


def test_where_nothing_is_wrong_the_exit_status_is_0(
    cluster: Cluster, namespace: Namespace, kubeconfig: Path, values: dict[str, Any], tmp_path: Path
) -> None:
    """With a storage class, whose volumes here are two folders of this machine, which then is the node."""
    name = namespace.name
    folders = [tmp_path / server for server in ("database", "object-store")]
    made: list[dict[str, Any]] = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": name},
            "provisioner": "kubernetes.io/no-provisioner",
        }
    ]
    for folder in folders:
        folder.mkdir()
        folder.chmod(0o777)
        spec = {
            "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": name,
            "hostPath": {"path": str(folder)}, "persistentVolumeReclaimPolicy": "Retain",
        }  # fmt: skip
        made.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"{name}-{folder.name}"},
                "spec": spec,
            }
        )
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and str(parent).startswith(tempfile.gettempdir() + "/"):
            parent.chmod(parent.stat().st_mode | 0o111)
    namespace.apply(*made)
    storage = {"bundled": {"storage": {"storageClassName": name}}}
    try:
        right = merge(values, {"database": storage, "objectStore": merge(storage, {"bundled": {"synchronous": False}})})
        status, found = doctor(cluster, kubeconfig, namespace.name, values=right)
    finally:
        names = [item["metadata"]["name"] for item in made[1:]]
        cluster.kubectl("delete", "storageclass", name, "--ignore-not-found")
        cluster.kubectl("delete", "pv", *names, "--ignore-not-found", "--wait=false")
    assert [each for each in found if each["state"] == "bad"] == []
    assert status == 0
    assert "was made and written" in says(found, "volume database", "ok")
    assert "was made and written" in says(found, "volume object-store", "ok")
    assert list(folders[0].iterdir()) == []
    gone(cluster)


def test_without_any_right_it_says_what_it_may_not_look_at(
    cluster: Cluster, namespace: Namespace, account: tuple[Path, str], values: dict[str, Any]
) -> None:
    status, found = doctor(cluster, account[0], namespace.name, values=values)
    assert status == 1
    for check, words in (
        ("release", "no right to list deployments"),
        ("namespace", "no right to get namespaces"),
        ("volume", "no right to list persistentvolumeclaims"),
        ("room", "no right to list nodes"),
        ("gpu", "no right to list nodes"),
        ("network policies", "no right to create namespaces"),
    ):
        assert f"not checked: {words}" in says(found, check, "note")
    lacking = says(found, "rights", "bad")
    for words in ("deployments", "namespaces, which", "validatingadmissionpolicies, which", "list endpointslices"):
        assert words in lacking
    assert says(found, "version", "ok")


def test_a_login_that_the_cluster_does_not_know_is_one_sentence(
    cluster: Cluster, kubeconfig: Path, account: tuple[Path, str]
) -> None:
    document = yaml.safe_load(account[0].read_text())
    document["users"][0]["user"]["token"] = secrets.token_urlsafe(30)
    account[0].write_text(yaml.safe_dump(document))
    with cluster.network():
        done = subprocess.run(
            command(account[0], "imaging"), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("insitu: The cluster does not know who asks")
    assert "Traceback" not in done.stderr


def test_an_admin_of_the_namespace_alone_gets_the_trial_there(
    cluster: Cluster, namespace: Namespace, account: tuple[Path, str], values: dict[str, Any]
) -> None:
    namespace.kubectl("create", "rolebinding", "it", "--clusterrole=admin", f"--serviceaccount={account[1]}")
    status, found = doctor(cluster, account[0], namespace.name, values=values)
    assert status == 1
    assert f"you may make everything that the chart makes in {namespace.name}" in says(found, "rights", "ok")
    remedies = " ".join(each["remedy"] for each in found if each["check"] == "rights")
    for value in (
        "algorithms.createNamespace: false",
        "admissionPolicy.create: false",
        "networkPolicy.apiServer.cidrs",
    ):
        assert value in remedies
    assert len(says(found, "network policies", "ok").splitlines()) == 2
    gone(cluster)


@pytest.mark.parametrize(
    ("made", "open_directions"),
    [(["serve"], {"goes out"}), (["ask"], {"comes in"})],
    ids=["ingress only", "egress only"],
)
def test_what_no_policy_forbids_is_found_open(
    cluster: Cluster,
    values: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    made: list[str],
    open_directions: set[str],
) -> None:
    """A network plugin that ignores policies is a cluster in which they are not there: so the trial goes without some of them."""
    every = network.policies
    monkeypatch.setattr(
        network, "policies",
        lambda label, site: [each for each in every(label, site) if each["metadata"]["name"] in made],
    )  # fmt: skip
    monkeypatch.setattr(SiteValues, "images", lambda site: iter([site.image("platform")]))
    with cluster.network():
        found = list(probing.check(Asked(access()), SiteValues(values, f"absent-{secrets.token_hex(3)}", "insitu")))
    bad = [each.says for each in found if each.check == "network policies" and each.state == "bad"]
    assert {words for words in ("comes in", "goes out") if any(words in each for each in bad)} == open_directions
    assert len([each for each in found if each.check == "network policies"]) == 2
    gone(cluster)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_doctor_leaves_nothing_behind(
    cluster: Cluster, kubeconfig: Path, values: dict[str, Any], number: signal.Signals
) -> None:
    gone(cluster)
    absent = merge(values, {"images": {"platform": {"repository": "registry.test/absent", "digest": ABSENT}}})
    with cluster.network():
        process = subprocess.Popen(
            command(kubeconfig, "nowhere", values=absent), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not any(name.startswith("Pod") for name in leftovers(cluster)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE) != 0
        assert leftovers(cluster) == []
    finally:
        process.kill()
        process.communicate()


def test_a_component_that_does_not_start_says_why(
    cluster: Cluster, namespace: Namespace, kubeconfig: Path, values: dict[str, Any]
) -> None:
    labels = {
        "app.kubernetes.io/name": "insitu", "app.kubernetes.io/instance": "insitu", "app.kubernetes.io/component": "api",
    }  # fmt: skip
    container = {
        "name": "api",
        "image": f"registry.test/no-such-image@{ABSENT}",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    namespace.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "insitu-api", "labels": labels},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }
    )
    deadline = time.monotonic() + PATIENCE
    while "ErrImage" not in namespace.kubectl("get", "pods") and "ImagePull" not in namespace.kubectl("get", "pods"):
        assert time.monotonic() < deadline, namespace.trouble()
        time.sleep(0.5)
    status, found = doctor(cluster, kubeconfig, namespace.name, "--no-pods", values=values)
    assert status == 1
    assert "0 of 1 ready: api: " in says(found, "api", "bad")
    assert ABSENT in says(found, "api", "bad")
    assert f"{namespace.name} has no policy" in says(found, "default deny", "bad")


def test_an_installation_that_is_well_gets_a_study_in_and_out(site: ClusterSite, kubeconfig: Path) -> None:
    token = site.http.headers["Authorization"].split()[1]
    status, found = doctor(site.cluster, kubeconfig, site.namespace.name, token=token)
    assert [each for each in found if each["state"] == "bad"] == []
    assert status == 0
    for check in (
        "release", "api", "receiver", "database", "object-store", "airflow-scheduler", "default deny", "admission policy",
        "running database", "running airflow", "c-echo", "run gateway", "network policies", "round trip",
    ):  # fmt: skip
        assert says(found, check, "ok")
    assert "byte for byte" in says(found, "round trip", "ok")
    assert site.get("/dicom-web/studies", params={"PatientID": "INSITU-DOCTOR"}) == []
    gone(site.cluster)


def test_the_token_of_the_round_trip_is_seen_by_nobody_else(site: ClusterSite, kubeconfig: Path) -> None:
    """Where it is refused nothing is stored; neither it nor its encoding is in what the doctor says."""
    token = secrets.token_urlsafe(30)
    status, found = doctor(site.cluster, kubeconfig, site.namespace.name, token=token)
    assert status == 0
    assert "refuses the token (401)" in says(found, "round trip", "note")
    assert site.get("/dicom-web/studies", params={"PatientID": "INSITU-DOCTOR"}) == []
    told = json.dumps(found)
    assert token not in told
    assert base64.b64encode(token.encode()).decode() not in told
    gone(site.cluster)
