"""The Job of a specification: what its containers may see and do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from insitu.errors import Invalid
from insitu.runs.launch.kubernetes import manifest
from insitu.runs.launch.kubernetes.configuration import load_configuration

from .facts import IMAGE, STEP_IMAGE, configuration, specification


def pod(**changes: Any) -> dict[str, Any]:
    """Specification of the pod; `changes` are of the configuration."""
    made = manifest.job(specification(gpu=1), configuration(**changes), "10.0.0.1")
    return dict(made["spec"]["template"]["spec"])


def containers(**changes: Any) -> dict[str, dict[str, Any]]:
    """By name."""
    made = pod(**changes)
    return {item["name"]: item for item in (*made["initContainers"], *made["containers"])}


def test_steps_run_one_after_another_each_in_its_image() -> None:
    made = pod()
    assert [item["name"] for item in made["initContainers"]] == ["fetch", "algorithm"]
    assert [item["name"] for item in made["containers"]] == ["publish"]
    assert {name: item["image"] for name, item in containers().items()} == {
        "fetch": STEP_IMAGE,
        "algorithm": IMAGE,
        "publish": STEP_IMAGE,
    }


def test_the_algorithm_sees_neither_token_nor_headers_nor_anything_it_could_change() -> None:
    mounts = {item["mountPath"]: item for item in containers()["algorithm"]["volumeMounts"]}
    assert set(mounts) == {"/input", "/parameters.json", "/run/closed", "/output", "/scratch", "/tmp", "/dev/shm"}
    assert {path for path, item in mounts.items() if item.get("readOnly")} == {
        "/input",
        "/parameters.json",
        "/run/closed",
    }
    assert not any("token" in item["name"] or item["name"] == "source" for item in mounts.values())


def test_each_step_gets_its_own_token_and_publish_changes_nothing_it_reads() -> None:
    volumes = {item["name"]: item for item in pod()["volumes"]}
    for step in ("fetch", "publish"):
        assert volumes[f"{step}-token"]["secret"]["items"] == [{"key": step, "path": "token"}]
    other = {"fetch": "publish", "publish": "fetch"}
    for step, not_its in other.items():
        assert all(item["name"] != f"{not_its}-token" for item in containers()[step]["volumeMounts"])
    published = {item["name"]: item.get("readOnly") for item in containers()["publish"]["volumeMounts"]}
    assert all(published[name] for name in ("source", "input", "output"))


def test_the_message_of_the_algorithm_lies_in_a_folder_that_fetch_has_closed() -> None:
    """Its size is limited by nobody: a file that the algorithm could write would fill the node's disk."""
    algorithm, fetch = containers()["algorithm"], containers()["fetch"]
    (closed,) = [item for item in algorithm["volumeMounts"] if item["mountPath"] == "/run/closed"]
    assert algorithm["terminationMessagePath"] == "/run/closed/termination-log"
    (variable,) = [item["value"] for item in fetch["env"] if item["name"] == "INSITU_CLOSED"]
    (parameters,) = [item for item in fetch["volumeMounts"] if item["mountPath"] == "/parameters"]
    assert (closed["name"], closed["readOnly"]) == (parameters["name"], True)
    assert variable == f"/parameters/{closed['subPath']}/termination-log"


def test_no_token_is_in_the_job() -> None:
    text = json.dumps(manifest.job(specification(), configuration(), "10.0.0.1"))
    assert "the-fetch-token" not in text
    assert "the-publish-token" not in text
    made = manifest.secret(specification(), configuration(), "u1")
    assert made["stringData"] == {"fetch": "the-fetch-token", "publish": "the-publish-token"}
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u1"


def test_no_environment_of_ours_reaches_the_algorithm() -> None:
    names = {item["name"] for item in containers()["algorithm"]["env"]}
    assert not {"INSITU_GATEWAY", "INSITU_EXECUTION", "INSITU_STEP_TOKEN", "INSITU_STEP_TOKEN_FILE"} & names
    assert "envFrom" not in containers()["algorithm"]


def test_every_container_keeps_to_pod_security_restricted() -> None:
    made = pod()
    assert made["automountServiceAccountToken"] is False
    assert made["enableServiceLinks"] is False
    assert made["dnsPolicy"] == "None"
    for item in containers().values():
        context = item["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == 65534
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_limits_of_the_manifest_are_the_containers() -> None:
    resources = containers()["algorithm"]["resources"]
    assert resources["limits"] == {"cpu": "1", "memory": str(200 * 2**20), "nvidia.com/gpu": "1"}
    assert resources["requests"] == {**resources["limits"], "cpu": "0.5"}
    assert containers(cpu_request_share=1)["algorithm"]["resources"]["requests"]["cpu"] == "1"
    volumes = {item["name"]: item for item in pod()["volumes"]}
    assert volumes["output"]["emptyDir"] == {"sizeLimit": "20000000"}


def test_a_training_is_what_others_may_take_the_place_of() -> None:
    site = configuration(priority_class="clinical", training_priority_class="trainings", unschedulable_seconds=5.0)
    for asked, expected, seconds in (
        (specification(), "clinical", 5),
        (specification(purpose="training"), "trainings", 86_400),
    ):
        made = manifest.job(asked, site, "10.0.0.1")["spec"]
        assert made["template"]["spec"]["priorityClassName"] == expected
        requests = {
            item["resources"]["requests"]["cpu"]
            for item in (*made["template"]["spec"]["initContainers"], *made["template"]["spec"]["containers"])
        }
        assert requests == ({"0.01"} if asked.algorithm.purpose == "training" else {"0.5", "250m"})
        assert made["activeDeadlineSeconds"] == 60 + 2 * 900 + seconds + 120 + 60


def test_large_scratch_folder_becomes_a_volume_of_its_own() -> None:
    large = {"bytes": 500_000_000_000, "volume_above_bytes": 100_000_000_000, "storage_class": "fast"}
    volumes = {item["name"]: item for item in pod(scratch=large)["volumes"]}
    claim = volumes["scratch"]["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim["storageClassName"] == "fast"
    assert claim["resources"]["requests"]["storage"] == "500000000000"


def test_the_gateways_name_is_known_without_dns_and_only_where_it_is_a_name() -> None:
    assert pod()["hostAliases"] == [{"ip": "10.0.0.1", "hostnames": ["gateway.insitu.internal"]}]
    assert manifest.gateway_host("http://10.0.0.7:8090") is None


def test_an_algorithm_without_image_is_refused_with_what_to_do() -> None:
    without = specification()
    without = without.model_copy(update={"algorithm": without.algorithm.model_copy(update={"image": None})})
    with pytest.raises(Invalid, match=r"no image.*--image"):
        manifest.job(without, configuration(), None)


def test_a_word_the_configuration_does_not_know_is_named(tmp_path: Any) -> None:
    file = tmp_path / "launcher.yaml"
    file.write_text("namespace: a\nstep_image: b\nnodeselector: {}\n")
    with pytest.raises(Invalid, match="nodeselector"):
        load_configuration(file)
