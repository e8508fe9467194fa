"""Every pod keeps to the Pod Security level "restricted", gets its own secrets only, and takes any image a site names."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.helm import containers, of_kind, pods, render

TALKS_TO_KUBERNETES = {"Deployment insitu-airflow-scheduler", "Deployment insitu-dispatcher"}
FULL: dict[str, Any] = {
    "receiver": {"replicas": 2, "tls": {"enabled": True, "existingSecret": "dicom", "clientAuthoritiesSecret": "ca"}},
    "certificateAuthorities": {"configMap": "hospital-ca"},
    "priorityClass": {"create": True},
}
# Kinds of volumes that "restricted" allows and that we use.
VOLUMES = {"emptyDir", "configMap", "secret", "projected", "persistentVolumeClaim"}


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    return render(FULL)


def test_every_pod_is_restricted(documents: list[Any]) -> None:
    assert len(pods(documents)) == 13
    for name, pod in pods(documents).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec), name
        for volume in spec.get("volumes", ()):
            assert set(volume) - {"name"} <= VOLUMES, name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }, name  # fmt: skip
            assert not any("hostPort" in port for port in container.get("ports", ())), name


def test_only_those_who_talk_to_kubernetes_have_a_token(documents: list[Any]) -> None:
    with_token = {name for name, pod in pods(documents).items() if pod["spec"]["automountServiceAccountToken"]}
    assert with_token == TALKS_TO_KUBERNETES
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in pods(documents).values())
    assert all(item["automountServiceAccountToken"] is False for item in of_kind(documents, "ServiceAccount").values())


def test_whoever_runs_on_is_started_anew_when_it_hangs(documents: list[Any]) -> None:
    for name, pod in pods(documents).items():
        if name.split()[0] in ("Deployment", "StatefulSet"):
            assert all("livenessProbe" in container for container in pod["spec"]["containers"]), name


def test_every_container_says_what_it_needs_and_what_it_may_take(documents: list[Any]) -> None:
    for name, pod in pods(documents).items():
        for container in containers(pod):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name


def test_all_requests_together_fit_a_machine_with_two_cores(documents: list[Any]) -> None:
    def total(what: str) -> float:
        found = 0.0
        for name, pod in pods(render()).items():
            if not name.startswith(("Job", "Pod")):
                found += sum(
                    _number(container["resources"]["requests"][what]) for container in pod["spec"]["containers"]
                )
        return found

    assert total("cpu") <= 1.0
    assert total("memory") <= 3e9


def _number(quantity: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


def test_every_image_comes_from_the_sites_registry_by_its_digest() -> None:
    digest = "sha256:" + 64 * "a"
    documents = render(
        {
            "global": {"imageRegistry": "registry.hospital.example/mirror", "imagePullSecrets": ["pull"]},
            "images": {name: {"digest": digest} for name in ("platform", "airflow", "objectStore")},
        }
    )
    for name, pod in pods(documents).items():
        assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}], name
        for container in containers(pod):
            assert re.fullmatch(rf"registry\.hospital\.example/mirror/insitu/[a-z-]+@{digest}", container["image"]), (
                name
            )
    launcher = yaml.safe_load(of_kind(documents, "ConfigMap")["insitu-configuration"]["data"]["launcher.yaml"])
    assert launcher["step_image"] == f"registry.hospital.example/mirror/insitu/platform@{digest}"


def test_no_secret_stands_in_a_configmap_or_in_the_environment(documents: list[Any]) -> None:
    secrets = [
        value for secret in of_kind(documents, "Secret").values() for value in {**secret["data"]}.values()
    ]  # in base64
    assert len(secrets) >= 15
    assert len(set(secrets)) == len(secrets)
    elsewhere = yaml.safe_dump([document for document in documents if document["kind"] != "Secret"])
    assert not [value for value in secrets if value in elsewhere]
    from_secrets = {
        (name, variable["name"])
        for name, pod in pods(documents).items()
        for container in containers(pod)
        for variable in container.get("env", ())
        if "valueFrom" in variable
    }
    # The S3 server takes its keys from nowhere else.
    assert from_secrets == {
        ("StatefulSet insitu-object-store", "ROOT_ACCESS_KEY_ID"),
        ("StatefulSet insitu-object-store", "ROOT_SECRET_ACCESS_KEY"),
    }


def test_each_container_gets_no_other_secret_files_than_the_guide_says(documents: list[Any]) -> None:
    from tests.unit.chart.guide import table

    said = {
        row[0]: set(filter(None, row[1].replace("`", "").replace(",", " ").split())) for row in table("Secret files")
    }
    got: dict[str, set[str]] = {}
    for pod in pods(documents).values():
        files = {
            volume["name"]: {
                item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]
            }
            for volume in pod["spec"].get("volumes", ())
            if "projected" in volume
        }
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for container in containers(pod):
            mounts = [mount for mount in container.get("volumeMounts", ()) if mount["name"] in files]
            found = {
                file
                for mount in mounts
                for file in ({mount["subPath"]} if "subPath" in mount else files[mount["name"]])
            }
            if found:
                got.setdefault(f"{component}: {container['name']}", set()).update(found)
    assert got == said
