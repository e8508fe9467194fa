"""What the doctor takes for the chart's is what Helm renders: kinds, rights, room, images, keys, volumes."""

from __future__ import annotations

from typing import Any

import pytest

from insitu.doctor import nodes, permissions
from insitu.doctor.quantities import quantity
from insitu.doctor.values import SiteValues, read_values
from insitu.errors import Invalid
from tests.helm import containers, merge, of_kind, pods, render

DIGEST = "sha256:" + 64 * "1"
HERE = {"networkPolicy": {"apiServer": {"cidrs": ["192.0.2.1/32"]}}}
SITES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "global": {"imageRegistry": "registry.hospital.example/mirror", "imagePullSecrets": ["pull"]},
        "images": {"platform": {"digest": DIGEST}, "airflow": {"tag": "other"}},
        "fullnameOverride": "imaging-ai",
        "receiver": {
            "replicas": 2,
            "tls": {"enabled": True, "dnsNames": ["r.example"], "clientAuthoritiesSecret": "who"},
        },
        "api": {"replicas": 3, "resources": {"requests": {"cpu": "2", "memory": "4Gi"}}},
        "preparation": {"resources": {"requests": {"cpu": "200m", "memory": "1Gi"}}},
        "priorityClass": {"create": True},
        "ingress": {"enabled": True, "host": "insitu.example"},
        "gatewayRoute": {"enabled": True, "host": "insitu.example", "parent": {"name": "gate"}},
        "certManager": {"enabled": True, "issuer": {"name": "site"}},
        "algorithms": {
            "namespace": "elsewhere",
            "quota": {"enabled": True, "hard": {"pods": "10"}},
            "images": {"ct-tissue": f"registry.hospital.example/ct@{DIGEST}"},
        },
    },
    "external": {
        "database": {
            "bundled": {"enabled": False},
            "external": {"host": "db", "existingSecret": "roles", "cidrs": ["192.0.2.5/32"]},
        },
        "objectStore": {
            "bundled": {"enabled": False},
            "external": {"url": "https://s3.example/insitu", "existingSecret": "keys", "cidrs": ["192.0.2.6/32"]},
        },
        "secrets": {"existing": "ours"},
    },
    "nothing of the cluster's": {
        "algorithms": {"createNamespace": False, "limitRange": {"enabled": False}},
        "admissionPolicy": {"create": False},
        "networkPolicy": {"create": False},
        "tests": {"enabled": False},
        "receiver": {"podDisruptionBudget": {"enabled": False}},
        "api": {"podDisruptionBudget": {"enabled": False}},
        "gateway": {"podDisruptionBudget": {"enabled": False}},
        "dispatcher": {"podDisruptionBudget": {"enabled": False}},
        "secrets": {"existing": "ours"},
        "database": {"bundled": {"storage": {"existingClaim": "mine"}}},
    },
}


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest) -> tuple[SiteValues, list[Any]]:
    """The doctor's view of a site's values, and what Helm makes of them."""
    given = merge(HERE, SITES[request.param])
    return SiteValues(given, "imaging", "insitu"), render(given)


def test_kinds_are_those_that_are_rendered(site: tuple[SiteValues, list[Any]]) -> None:
    values, documents = site
    rendered: dict[str | None, set[str]] = {}
    for item in documents:
        rendered.setdefault(item["metadata"].get("namespace"), set()).add(item["kind"])
    helms_own = {"Secret"}  # Helm keeps its record in one, whether the chart makes any or not
    found = permissions.namespaced(values)
    assert {name: kinds - helms_own for name, kinds in found.items()} == {
        name: kinds - helms_own for name, kinds in rendered.items() if name is not None
    }
    assert set(permissions.cluster_scoped(values)) == rendered.get(None, set())


def test_rights_to_give_are_those_of_the_rendered_roles(site: tuple[SiteValues, list[Any]]) -> None:
    values, documents = site
    rendered: set[tuple[bool, str, str, str]] = set()
    for role in of_kind(documents, "Role").values():
        algorithms = role["metadata"]["namespace"] == values.algorithms
        for rule in role["rules"]:
            rendered |= {
                (algorithms, group, resource, verb)
                for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]
            }  # fmt: skip
    assert rendered == {
        (algorithms, kind.group, kind.resource, verb)
        for algorithms, rules in permissions.GRANTED.items() for kind, verbs in rules for verb in verbs
    }  # fmt: skip


def test_pods_ask_for_what_is_rendered(site: tuple[SiteValues, list[Any]]) -> None:
    values, documents = site
    rendered = []
    for item in documents:
        passing = "helm.sh/hook" in item["metadata"].get("annotations", {})
        if item["kind"] in ("Deployment", "StatefulSet", "Job") and not passing:
            name = item["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
            cpu, memory = nodes.asked(item["spec"]["template"]["spec"])
            rendered += [(name, round(cpu, 3), memory)] * item["spec"].get("replicas", 1)
    assert sorted((need.name, round(need.cpu, 3), need.memory) for need in values.needs()) == sorted(rendered)


def test_images_are_those_that_are_rendered(site: tuple[SiteValues, list[Any]]) -> None:
    values, documents = site
    rendered = {container["image"] for pod in pods(documents).values() for container in containers(pod)}
    assert {image.reference for image in values.images() if not image.algorithm} == rendered


def test_volumes_are_those_that_are_rendered(site: tuple[SiteValues, list[Any]]) -> None:
    values, documents = site
    rendered = set()
    for name, item in of_kind(documents, "StatefulSet").items():
        for template in item["spec"].get("volumeClaimTemplates", ()):
            size = quantity(template["spec"]["resources"]["requests"]["storage"])
            rendered.add((f"{template['metadata']['name']}-{name}-0", size))
    assert {(volume.claim, volume.size) for volume in values.volumes() if not volume.existing} == rendered


def test_keys_of_secrets_are_those_that_pods_mount(site: tuple[SiteValues, list[Any]]) -> None:
    """Only of Secrets that the chart does not make, but for certificates."""
    values, documents = site
    made = set(of_kind(documents, "Secret")) | {"who", "imaging-ai-dicom-tls"}
    mounted: dict[str, set[str]] = {}
    for pod in pods(documents).values():
        for volume in pod["spec"].get("volumes", ()):
            for source in (volume.get("projected") or {}).get("sources", ()):
                if "secret" in source:
                    keys = {item["key"] for item in source["secret"]["items"]}
                    mounted.setdefault(source["secret"]["name"], set()).update(keys)
        for container in containers(pod):
            for variable in container.get("env", ()):
                key = (variable.get("valueFrom") or {}).get("secretKeyRef")
                if key:
                    mounted.setdefault(key["name"], set()).add(key["key"])
        for secret in pod["spec"].get("imagePullSecrets", ()):
            mounted.setdefault(secret["name"], set()).add(".dockerconfigjson")
    assert {wanted.name: set(wanted.keys) for wanted in values.secrets()} == {
        name: keys for name, keys in mounted.items() if name not in made
    }


def test_names_are_those_that_are_rendered(site: tuple[SiteValues, list[Any]]) -> None:
    values, documents = site
    assert f"{values.name}-receiver" in of_kind(documents, "Service")
    for item in of_kind(documents, "Deployment").values():
        labels = item["metadata"]["labels"]
        assert values.selector(labels["app.kubernetes.io/component"]).items() <= labels.items()


def test_a_value_of_the_wrong_form_is_one_sentence() -> None:
    with pytest.raises(Invalid, match=r"receiver\.service\.type"):
        SiteValues({"receiver": {"service": "LoadBalancer"}}, "imaging", "insitu")["receiver.service.type"]
    with pytest.raises(Invalid, match=r"algorithms\.launcher\.gpu"):
        _ = SiteValues({"algorithms": {"launcher": {"gpu": 1}}}, "imaging", "insitu").launcher


def test_a_later_file_of_values_wins_and_a_broken_one_is_named() -> None:
    files = {"a": "api: {replicas: 2, service: {port: 1}}", "b": "api: {replicas: 3}", "c": "[", "d": "- 1"}
    assert read_values(["a", "b"], files.__getitem__) == {"api": {"replicas": 3, "service": {"port": 1}}}
    for name in ("c", "d"):
        with pytest.raises(Invalid, match=f"'{name}'"):
            read_values([name], files.__getitem__)


@pytest.mark.parametrize(("text", "number"), [("100m", 0.1), ("2", 2), ("1Gi", 2**30), ("1500k", 1.5e6), (0.5, 0.5)])
def test_quantities(text: object, number: float) -> None:
    assert quantity(text) == pytest.approx(number)
