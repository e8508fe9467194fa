"""What the doctor says to what it was told: pure judgement, each with the value and the remedy. What it is told stands in tests/cluster."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from insitu.doctor import certificates, network, nodes, release, secrets, storage, visit
from insitu.doctor.apiserver import clock_finding
from insitu.doctor.cluster import NoRight, refusal
from insitu.doctor.finding import Finding
from insitu.doctor.namespaces import namespaces
from insitu.doctor.trial import homeless, pull_failure, pulled
from insitu.doctor.values import Need, SiteValues, Volume, WantedSecret
from insitu.runs.launch.kubernetes.api import ApiRefused
from tests.unit.receiver.certificates import Authority, Issued

VALUES = SiteValues({}, "imaging", "insitu")
SHUT = {"first": "silent", "last": "silent", "seconds": 0.0}
OPEN = {"first": "open", "last": "open", "seconds": 15.0}
SERVE = {"node": "open", "api": "open", "dns": True, "ahead": 0.0, "processes": "max", "places": []}
ASK = {"ingress": SHUT, "egress": SHUT, "control": OPEN, "node": "silent", "api": "silent", "dns": True}


def policies(
    serve: dict[str, Any] | None = None, ask: dict[str, Any] | None = None, own: bool = True
) -> dict[str, str]:
    """States by check and sentence."""
    found = network.judge({**SERVE, **(serve or {})}, {**ASK, **(ask or {})}, nodes=2, own=own)
    return {f"{finding.check}: {finding.says}": finding.state for finding in found}


def test_policies_that_hold_are_ok() -> None:
    assert set(policies().values()) == {"ok"}


@pytest.mark.parametrize(("direction", "words"), [("ingress", "comes in"), ("egress", "goes out")])
def test_a_direction_that_is_open_is_bad_and_one_that_shuts_late_a_note(direction: str, words: str) -> None:
    bad = [says for says, state in policies(ask={direction: OPEN}).items() if state == "bad"]
    assert len(bad) == 1
    assert words in bad[0]
    late = {"first": "open", "last": "silent", "seconds": 2.5}
    (note,) = [says for says, state in policies(ask={direction: late}).items() if state == "note"]
    assert "2.5 s after" in note


def test_nothing_is_said_of_policies_where_the_control_fails() -> None:
    control = {"control": {"first": "silent", "last": "silent", "seconds": 25.0}}
    (says, state), = policies(ask=control).items()  # fmt: skip
    assert (says.split(":")[0], state) == ("pod to pod", "bad")
    (says, state), = policies(ask=control, own=False).items()  # fmt: skip
    assert state == "note"
    assert "not checked" in says


def test_that_a_pod_reaches_its_own_node_in_spite_of_the_policy_is_said() -> None:
    (note,) = [says for says, state in policies(ask={"node": "open"}).items() if state == "note"]
    assert "reaches its own node in spite of" in note
    # Where nothing answers even without a policy, nothing is proved by silence.
    found = policies(serve={"node": "silent"})
    assert any("with a policy or without" in says for says in found)


def test_dns_of_another_name_than_the_policys_is_bad() -> None:
    assert network.dns(SERVE, ASK).state == "ok"
    finding = network.dns(SERVE, {**ASK, "dns": False})
    assert (finding.state, "networkPolicy.dns" in finding.remedy) == ("bad", True)
    assert network.dns({**SERVE, "dns": False}, ASK).state == "bad"


def test_a_server_of_the_site_must_be_found_reached_and_allowed() -> None:
    values = SiteValues(
        {
            "database": {
                "bundled": {"enabled": False},
                "external": {"host": "db.example", "port": 5433, "cidrs": ["192.0.2.0/24"]},
            }
        },
        "imaging",
        "insitu",
    )
    (place,) = network.places(values)
    for address, state, expected, words in (
        ("192.0.2.7", "open", "ok", "reaches"),
        ("192.0.2.7", "silent", "bad", "does not reach"),
        ("", "silent", "bad", "does not resolve"),
        ("198.51.100.1", "open", "bad", "198.51.100.1"),
    ):
        (finding,) = network.site_servers({"places": [{**place, "address": address, "state": state}]}, values)
        assert finding.state == expected
        assert words in finding.says


@pytest.mark.parametrize(("ahead", "state"), [(0.4, "ok"), (-3, "ok"), (20, "note"), (-20, "note"), (4000, "bad")])
def test_a_clock_that_is_off(ahead: float, state: str) -> None:
    assert clock_finding("this machine", ahead).state == state


def kind(name: str, default: bool = False) -> dict[str, Any]:
    annotations = {storage.DEFAULT_CLASS: "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}, "provisioner": "disks.example"}


def volume(**changes: Any) -> Volume:
    return Volume(**{
        "server": "database", "value": "database.bundled.storage", "size": 2e10, "storage_class": "",
        "claim": "data-insitu-database-0", "existing": False, **changes,
    })  # fmt: skip


def test_where_a_volume_comes_from() -> None:
    def judged(wanted: Volume, claim: Any = None, classes: Any = (), volumes: Any = ()) -> Finding:
        known = {item["metadata"]["name"]: item for item in classes}
        return storage.storage_finding(wanted, claim, known, list(volumes), VALUES)

    assert judged(volume()).state == "bad"
    assert judged(volume(), classes=[kind("slow"), kind("fast", default=True)]).says.startswith("by storage class fast")
    nothing = judged(volume(), classes=[kind("slow")])
    assert (nothing.state, "slow" in nothing.says) == ("bad", True)
    absent = judged(volume(storage_class="gold"), classes=[kind("slow", default=True)])
    assert (absent.state, "gold" in absent.says, "slow" in absent.says) == ("bad", True, True)
    assert judged(volume(), claim={"status": {"phase": "Bound"}}).state == "ok"
    assert judged(volume(existing=True, claim="mine")).state == "bad"
    spec = {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"]}
    free = {"metadata": {"name": "disk"}, "spec": spec, "status": {"phase": "Available"}}
    assert judged(volume(), volumes=[free]).state == "bad"  # too small
    assert judged(volume(size=2**30), volumes=[free]).state == "ok"
    reserved = {"claimRef": {"namespace": "imaging", "name": "data-insitu-database-0"}}
    assert judged(volume(), volumes=[{**free, "spec": {**spec, **reserved}}]).state == "ok"


def test_a_fresh_volume_that_loses_what_was_acknowledged_is_bad() -> None:
    well = {"writes": "", "file_system": "ext4", "attributes": True, "synchronous": ""}

    def judged(**found: Any) -> str:
        return storage.volume_finding(
            "object-store", "fast", {**well, **found}, None, synchronous=True, attributes=True
        ).state

    assert judged() == "ok"
    for changes in ({"writes": "Permission denied"}, {"attributes": False}, {"synchronous": "not supported"}):
        assert judged(**changes) == "bad"
    assert storage.volume_finding("database", "fast", None, "no provisioner", False, False).state == "bad"


def node(name: str, cpu: str = "4", memory: str = "8Gi", taints: Any = (), **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": list(taints)},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def test_room_is_what_other_pods_leave_on_single_nodes() -> None:
    needs = [Need("api", 1, 3 * 2**30, {}), Need("scheduler", 1, 3 * 2**30, {})]
    assert nodes.room_finding([node("a")], [], needs).state == "ok"
    # Together there is room for both, but not for the second on any one node.
    small = [node("a", memory="4Gi"), node("b", memory="2Gi"), node("c", memory="2Gi")]
    finding = nodes.room_finding(small, [], needs)
    assert (finding.state, "no room for scheduler" in finding.says) == ("bad", True)
    busy = {
        "spec": {
            "nodeName": "a",
            "containers": [{"resources": {"requests": {"memory": "3Gi"}}}],
            "initContainers": [{"resources": {"requests": {"memory": "6Gi"}}}],
        },
        "status": {"phase": "Running"},
    }
    assert nodes.room_finding([node("a")], [busy], needs).state == "bad"
    assert nodes.room_finding([node("a")], [{**busy, "status": {"phase": "Succeeded"}}], needs).state == "ok"
    tainted = node("a", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}], zone="1")
    assert nodes.room_finding([tainted], [], needs).state == "bad"
    scheduling = {"tolerations": [{"key": "gpu", "operator": "Exists"}], "nodeSelector": {"zone": "1"}}
    assert nodes.room_finding([tainted], [], [Need("api", 1, 1, scheduling)]).state == "ok"
    assert (
        nodes.room_finding([tainted], [], [Need("api", 1, 1, {**scheduling, "nodeSelector": {"zone": "2"}})]).state
        == "bad"
    )


class Answers:
    """A cluster that knows some objects."""

    def __init__(self, **objects: Any) -> None:
        self._objects = objects

    def get(self, path: str, **query: Any) -> Any:
        return self._objects.get(path.rpartition("/")[2].replace("-", "_"))

    def items(self, path: str, **query: Any) -> Any:
        return self._objects.get(path.rpartition("/")[2], [])


def test_a_namespace_that_helm_would_not_take_over_is_bad() -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    theirs = {"metadata": {"name": "imaging-algorithms", "labels": labels}}
    ours = {"metadata": {"name": "imaging", "labels": labels}}
    found = list(namespaces(Answers(imaging=ours, imaging_algorithms=theirs), VALUES))  # type: ignore[arg-type]
    assert [finding.state for finding in found] == ["ok", "bad", "ok"]
    assert "createNamespace: false" in found[1].remedy
    bare = {"metadata": {"name": "imaging"}}
    found = list(namespaces(Answers(imaging=bare), VALUES))  # type: ignore[arg-type]
    assert [finding.state for finding in found] == ["bad", "ok"]


def test_gpus_behind_a_taint_that_the_algorithms_do_not_tolerate() -> None:
    there = node("g", taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])
    there["status"]["allocatable"]["nvidia.com/gpu"] = "2"
    plain = node("p")
    answers = Answers(nodes=[there, plain])
    (finding,) = nodes.gpu(answers, VALUES)  # type: ignore[arg-type]
    assert (finding.state, "g (2)" in finding.says) == ("bad", True)
    launcher = {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}
    tolerant = SiteValues({"algorithms": {"launcher": launcher}}, "imaging", "insitu")
    (finding,) = nodes.gpu(answers, tolerant)  # type: ignore[arg-type]
    assert finding.state == "ok"


def test_a_secret_tells_its_missing_keys_and_never_a_value() -> None:
    wanted = WantedSecret("keys", "objectStore.external.existingSecret", ("access", "secret"), "imaging")
    value = base64.b64encode(b"do-not-show").decode()
    finding = secrets.finding(wanted, {"data": {"access": value}}, set())
    assert (finding.state, "secret" in finding.says) == ("bad", True)
    assert value not in str(finding)
    assert secrets.finding(wanted, None, set()).state == "bad"
    assert secrets.finding(wanted, {"data": {"access": value, "secret": value}}, set()).state == "ok"


def test_a_login_for_another_registry_is_a_note() -> None:
    login = base64.b64encode(json.dumps({"auths": {"https://registry.example/v2/": {}}}).encode()).decode()
    wanted = WantedSecret("pull", "global.imagePullSecrets", (".dockerconfigjson",), "imaging")
    found = {"data": {".dockerconfigjson": login}}
    assert secrets.finding(wanted, found, {"registry.example"}).state == "ok"
    finding = secrets.finding(wanted, found, {"registry.example", "other.example:5000"})
    assert (finding.state, "other.example:5000" in finding.says) == ("note", True)


def in_secret(issued: Issued, *chain: Path) -> dict[str, str]:
    """A certificate as a Secret holds it."""
    text = b"".join(file.read_bytes() for file in (issued.certificate, *chain))
    return {
        "tls.crt": base64.b64encode(text).decode(),
        "tls.key": base64.b64encode(issued.key.read_bytes()).decode(),
    }


def test_a_certificate_is_judged_as_a_client_does(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "one", "one"), Authority(tmp_path / "two", "two")
    root = authority.certificate.read_text()
    good = authority.issue("good", days=300, hosts="DNS:insitu.example")
    late, soon = authority.issue("late", days=-1, hosts="DNS:insitu.example"), authority.issue("soon", days=20)

    def judged(data: dict[str, str], hosts: tuple[str, ...] = (), authorities: str = root) -> list[tuple[str, str]]:
        return [(item.state, item.says) for item in certificates.judge("web", "s", data, hosts, authorities)]

    ((state, says),) = judged(in_secret(good), ("insitu.example",))
    assert (state, "insitu.example" in says) == ("ok", True)
    for data, hosts, authorities, expected, words in (
        (in_secret(late), (), root, "bad", "expired"),
        (in_secret(soon), (), root, "note", "only"),
        (in_secret(good), ("other.example",), root, "bad", "not for other.example"),
        (in_secret(good), (), "", "note", "signed by nobody"),
        (in_secret(good), (), other.certificate.read_text(), "note", "signed by nobody"),
        (in_secret(good, other.certificate), (), root, "bad", "do not lead"),
        (in_secret(good, authority.certificate), ("insitu.example",), root, "ok", "good until"),
        (in_secret(good) | {"tls.key": in_secret(late)["tls.key"]}, (), root, "bad", "another certificate"),
        (in_secret(good) | {"tls.crt": "bm8="}, (), root, "bad", "cannot be read"),
        ({}, (), root, "bad", "lacks"),
    ):  # fmt: skip
        found = judged(data, hosts, authorities)
        assert (expected, True) in [(state, words in says) for state, says in found], (expected, words, found)


def test_a_lacking_right_is_named_as_roles_name_it() -> None:
    message = 'nodes is forbidden: User "u" cannot list resource "nodes" in API group "" at the cluster scope'
    found = refusal(ApiRefused(403, "Forbidden", message))
    assert isinstance(found, NoRight)
    assert str(found) == "no right to list nodes"
    message = (
        'secrets "x" is forbidden: User "u" cannot get resource "secrets" in API group "" in the namespace "imaging"'
    )
    assert str(refusal(ApiRefused(403, "Forbidden", message))) == "no right to get secrets in imaging"
    other = ApiRefused(403, "Forbidden", "denied by a policy")
    assert refusal(other) is other


def pod(state: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": [{"name": "c", "state": state, **status}]}}


def test_a_refused_pull_is_told_from_an_image_that_is_there_without_the_program() -> None:
    message = 'Back-off pulling image "x": ErrImagePull: not found'
    assert pull_failure(pod({"waiting": {"reason": "ImagePullBackOff", "message": message}})) == "not found"
    started = pod({"waiting": {"reason": "RunContainerError"}}, imageID="sha256:1")
    assert pull_failure(started) is None
    assert pulled(started)
    assert not pulled(pod({"waiting": {"reason": "ContainerCreating"}}))
    assert (
        homeless({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no cpu"}]}})
        == "no cpu"
    )


def test_a_workload_that_is_not_ready_says_why() -> None:
    labels = {"app.kubernetes.io/component": "api"}
    item = {"kind": "deployments", "metadata": {"name": "insitu-api", "labels": labels}, "spec": {"replicas": 2}}
    well = {**item, "status": {"readyReplicas": 2}}
    assert release.workload_finding(well, [], [], "imaging").state == "ok"
    died = {"reason": "OOMKilled", "exitCode": 137}
    killed = pod({"running": {}}, ready=True, restartCount=7, lastState={"terminated": died})
    finding = release.workload_finding(well, [killed], [], "imaging")
    assert (finding.state, "7 restarts" in finding.says, "OOMKilled" in finding.says) == ("note", True, True)
    event = {"involvedObject": {"name": "p"}, "message": "no such volume"}
    finding = release.workload_finding(
        item, [pod({"waiting": {"reason": "CreateContainerConfigError", "message": "no key"}})], [event], "imaging"
    )
    assert finding.state == "bad"
    for words in ("0 of 2", "CreateContainerConfigError", "no key", "no such volume"):
        assert words in finding.says


def test_a_load_balancer_without_an_address_is_bad() -> None:
    service = {"spec": {"type": "LoadBalancer", "ports": [{"port": 11112}]}, "status": {"loadBalancer": {}}}
    assert release.service_finding(service).state == "bad"
    service["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}
    assert "192.0.2.9" in release.service_finding(service).says


def test_a_visit_that_failed_in_one_step_tells_the_others_too() -> None:
    ready = {
        "found": {
            "components": {
                "database": {"state": "away", "says": "does not answer"},
                "disk": {"state": "ok", "says": ""},
            }
        }
    }
    found = {"ready": ready, "echo": {"failed": "refused"}, "gateway": {"found": ""}, "denied": {"failed": "reaches"}}
    states = {finding.check: finding.state for finding in visit.judge(found, token=False, run=None)}
    assert states == {
        "running database": "bad", "running disk": "ok", "c-echo": "bad", "run gateway": "ok", "network policies": "bad",
        "round trip": "note",
    }  # fmt: skip


def test_a_token_that_could_not_take_the_study_away_again_is_no_fault_of_the_platform() -> None:
    well = {"ready": {"found": {}}, "echo": {"found": ""}, "gateway": {"found": ""}}
    for token in ({"found": "the platform refuses the token (401)"}, {"failed": "the api does not answer"}):
        *_, finding = visit.judge({**well, "token": token}, token=True, run="ct-tissue")
        assert (finding.check, finding.state) == ("round trip", "note")
        assert finding.says.startswith("not checked: the ")
    stored = {"stored": 0.2, "found": 0.1, "fetched": 0.1, "removed": 0.1}
    more = {"token": {"found": ""}, "round trip": {"found": stored}, "run": {"failed": "the run x failed: no output"}}
    *_, trip, run = visit.judge({**well, **more}, token=True, run="ct-tissue")
    assert (trip.state, run.state) == ("ok", "bad")
    assert "no output" in run.says


@pytest.mark.parametrize(("limits", "state"), [({"a": 4096}, "ok"), ({"a": 4096, "b": -1}, "note"), ({"a": 0}, "note")])
def test_nodes_without_a_limit_of_processes_are_named(limits: dict[str, int], state: str) -> None:
    assert nodes.pids_finding(limits).state == state
