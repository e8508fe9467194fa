"""The chart refuses values that it does not know or cannot use, in words that say where the mistake is."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml

from tests.helm import CHART, Refused, containers, need_helm, of_kind, pods, render

EXTERNAL = {
    "database": {
        "bundled": {"enabled": False},
        "external": {"host": "postgres.hospital.example", "existingSecret": "pg", "cidrs": ["198.51.100.7/32"]},
    },
    "objectStore": {
        "bundled": {"enabled": False},
        "external": {
            "url": "https://s3.hospital.example:9000/insitu",
            "existingSecret": "s3",
            "cidrs": ["198.51.100.8/32"],
        },
    },
}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"recevier": {}}, ["recevier"]),
        ({"receiver": {"service": {"typ": "NodePort"}}}, ["/receiver/service", "typ"]),
        ({"receiver": {"service": {"type": "External"}}}, ["/receiver/service/type", "LoadBalancer"]),
        ({"settings": {"ae_titel": "X"}}, ["/settings", "ae_titel"]),
        ({"settings": {"ae_title": "A_TITLE_THAT_IS_TOO_LONG"}}, ["/settings/ae_title", "16"]),
        ({"settings": {"object_store": "http://other/bucket"}}, ["/settings", "object_store"]),
        ({"settings": {"runs_at_once": "many"}}, ["/settings/runs_at_once", "integer"]),
        ({"algorithms": {"launcher": {"namespace": "x"}}}, ["/algorithms/launcher", "namespace"]),
        ({"algorithms": {"images": {"ct-tissue": "insitu/ct-tissue:latest"}}}, ["/algorithms/images/ct-tissue"]),
        ({"images": {"platform": {"digest": "sha256:12"}}}, ["/images/platform/digest"]),
        ({"networkPolicy": {"apiFrom": [{"namespaceLabels": {"a": "b"}}]}}, ["/networkPolicy/apiFrom/0"]),
        ({"networkPolicy": {"apiFrom": [{"namespaceLabels": {}, "podLabels": {}}]}}, ["/networkPolicy/apiFrom/0"]),
        ({"algorithms": {"namespace": "imaging"}}, ["algorithms.namespace", "another namespace"]),
        ({"ingress": {"enabled": True, "host": "insitu.example"}}, ["ingress.tls.existingSecret", "certManager"]),
        ({"receiver": {"tls": {"enabled": True}}}, ["receiver.tls.existingSecret", "certManager"]),
        ({"database": {"bundled": {"enabled": False}}}, ["database.external.host"]),
        ({"objectStore": {"bundled": {"enabled": False}}}, ["objectStore.external.url"]),
        (
            {"database": {"bundled": {"enabled": False}, "external": {"host": "x", "cidrs": ["192.0.2.1/32"]}}},
            ["database.external.existingSecret"],
        ),
        (
            {"priorityClass": {"trainings": {"create": False}}, "settings": {"trainings_at_once": 2}},
            ["settings.trainings_at_once", "priorityClass.trainings"],
        ),
        ({"networkPolicy": {"apiServer": {"cidrs": []}}}, ["networkPolicy.apiServer.cidrs", "kubectl get"]),
    ],
)
def test_a_mistake_in_the_values_is_refused_and_named(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        render(values)
    for word in words:
        assert word in str(refused.value)


def test_helm_finds_nothing_to_object_to() -> None:
    found = subprocess.run(
        [need_helm(), "lint", "--strict", str(CHART), "--set", "networkPolicy.apiServer.cidrs={192.0.2.1/32}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert "WARNING" not in found.stdout


@pytest.mark.parametrize(
    "values",
    [
        EXTERNAL,
        {"secrets": {"existing": "site-secrets"}},
        {"keepData": False, "priorityClass": {"create": True}, "tests": {"enabled": False}},
        {
            "receiver": {
                "replicas": 2,
                "service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"], "nodePort": 30112},
                "tls": {"enabled": True, "existingSecret": "dicom", "clientAuthoritiesSecret": "clients"},
            }
        },
        {
            "certManager": {"enabled": True, "issuer": {"name": "hospital"}},
            "ingress": {"enabled": True, "host": "insitu.hospital.example", "className": "nginx"},
            "receiver": {"tls": {"enabled": True, "dnsNames": ["dicom.hospital.example"]}},
        },
        {"gatewayRoute": {"enabled": True, "host": "insitu.hospital.example", "parent": {"name": "edge"}}},
        {"algorithms": {"createNamespace": False, "namespace": "gpu", "quota": {"enabled": True, "hard": {"pods": 9}}}},
        {"networkPolicy": {"create": False}, "admissionPolicy": {"create": False}},
        {"certificateAuthorities": {"configMap": "hospital-ca"}},
    ],
    ids=["external", "existing", "small", "balanced", "cert-manager", "route", "algorithms", "open", "authorities"],
)
def test_what_sites_choose_renders_with_every_reference_kept(values: dict[str, Any]) -> None:
    documents = render(values)
    names = {(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in documents}
    assert len(names) == len(documents), "two objects have one name"
    accounts = of_kind(documents, "ServiceAccount")
    for document in documents:
        template = (
            document.get("spec", {}).get("template")
            if document["kind"] in ("Deployment", "StatefulSet", "Job")
            else None
        )
        if template:
            # A hook runs before the release has anything, also with tools that run it before an installation.
            hook = "helm.sh/hook" in document["metadata"].get("annotations", {})
            assert template["spec"]["serviceAccountName"] in ({"default"} if hook else accounts)
            mounted = {
                mount["name"]
                for container in [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]
                for mount in container.get("volumeMounts", ())
            }
            volumes = [volume["name"] for volume in template["spec"].get("volumes", ())]
            volumes += [claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", ())]
            assert mounted == set(volumes), document["metadata"]["name"]
            assert len(volumes) == len(set(volumes))


def test_the_bundled_servers_are_gone_where_the_site_has_its_own() -> None:
    documents = render(EXTERNAL)
    assert not of_kind(documents, "StatefulSet")
    configuration = of_kind(documents, "ConfigMap")["insitu-configuration"]["data"]["insitu.yaml"]
    assert "postgres.hospital.example" in configuration
    assert "database_sslmode: verify-full" in configuration
    assert "https://s3.hospital.example:9000/insitu" in configuration


def test_an_upgrade_keeps_the_dicom_port_open_and_lets_associations_end() -> None:
    receiver = of_kind(render({"receiver": {"drainSeconds": 900}}), "Deployment")["insitu-receiver"]["spec"]
    assert receiver["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    pod = receiver["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 900
    assert pod["containers"][0]["lifecycle"]["preStop"]


def test_data_outlives_the_release_unless_the_site_says_otherwise() -> None:
    kept, removed = render(), render({"keepData": False})
    keep = {"helm.sh/resource-policy": "keep"}
    assert of_kind(kept, "Secret")["insitu-secrets"]["metadata"]["annotations"] == keep
    assert "annotations" not in of_kind(removed, "Secret")["insitu-secrets"]["metadata"]
    for documents, policy in ((kept, "Retain"), (removed, "Delete")):
        for server in of_kind(documents, "StatefulSet").values():
            assert server["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == policy


def test_the_schema_is_prepared_anew_with_every_version_and_configuration() -> None:
    def jobs(values: dict[str, Any]) -> set[str]:
        return set(of_kind(render(values), "Job")) - {"insitu-images"}

    first = jobs({})
    assert jobs({}) == first
    assert not first & jobs({"images": {"platform": {"tag": "next"}}})
    assert not first & jobs({"settings": {"quiet_time": 7}})


def test_a_long_preparation_is_no_failed_rollout() -> None:
    for name, deployment in of_kind(render({"preparation": {"patienceSeconds": 3600}}), "Deployment").items():
        assert deployment["spec"]["progressDeadlineSeconds"] > 3600, name


def test_an_upgrade_tries_every_image_before_anything_is_changed() -> None:
    job = of_kind(render(), "Job")["insitu-images"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"
    tried = {container["image"] for container in job["spec"]["template"]["spec"]["containers"]}
    used = {container["image"] for pod in pods(render()).values() for container in containers(pod)}
    assert tried == used
    assert "insitu-images" not in of_kind(render({"preparation": {"tryImages": False}}), "Job")


def test_trainings_have_a_class_below_others_or_none_is_carried_out() -> None:
    def configured(values: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        maps = of_kind(render(values), "ConfigMap").values()
        (config,) = [item["data"] for item in maps if "insitu.yaml" in item.get("data", {})]
        launcher = yaml.safe_load(config["launcher.yaml"])
        return launcher.get("training_priority_class"), yaml.safe_load(config["insitu.yaml"])

    name, settings = configured({})
    made = of_kind(render(), "PriorityClass")[str(name)]
    assert (made["value"], made["preemptionPolicy"]) == (-10, "Never")
    assert "trainings_at_once" not in settings
    left = {"priorityClass": {"trainings": {"create": False}}}
    assert configured(left)[1]["trainings_at_once"] == 0
    assert configured({"priorityClass": {"trainings": {"create": False, "name": "low"}}})[0] == "low"
