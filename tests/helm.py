"""Helm as a program that renders our chart; a test that lacks it is skipped."""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

VERSION = "2.0.1"  # of the package tests/install_helm.sh takes it from
CHART = Path(__file__).parents[1] / "charts" / "insitu"
MISSING = "needs Helm, which `make setup-tests` fetches"
API_SERVER = {"networkPolicy": {"apiServer": {"cidrs": ["192.0.2.1/32"]}}}  # without a cluster it cannot be looked up


def need_helm() -> str:
    """Path of the program; the test is skipped where it is not there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "insitu-tests"
    found = shutil.which("helm") or shutil.which(str(folder / f"helm-{VERSION}" / "helm"))
    if found is None:
        pytest.skip(MISSING)
    return found


def render(values: dict[str, Any] | None = None, *, release: str = "insitu", namespace: str = "imaging") -> list[Any]:
    """The objects of the chart with `values` over its own.

    Raises
    ------
    Refused
        Helm does not render it; the message is what a site's IT would read.
    """
    return copy.deepcopy(_rendered(json.dumps(merge(API_SERVER, values or {}), sort_keys=True), release, namespace))


@functools.lru_cache(maxsize=64)
def _rendered(values: str, release: str, namespace: str) -> list[Any]:
    found = subprocess.run(
        [need_helm(), "template", release, str(CHART), "--namespace", namespace, "--values", "-"],
        input=values, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if found.returncode != 0:
        raise Refused(found.stderr.strip())
    return [document for document in yaml.safe_load_all(found.stdout) if document]


class Refused(Exception):
    """Helm refuses the values."""


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, object by object."""
    merged = dict(base)
    for key, value in over.items():
        earlier = merged.get(key)
        merged[key] = merge(earlier, value) if isinstance(earlier, dict) and isinstance(value, dict) else value
    return merged


def of_kind(documents: list[Any], kind: str) -> dict[str, Any]:
    """Objects of a kind by name; by namespace and name where a name stands in two."""
    found: dict[str, Any] = {}
    for document in documents:
        if document["kind"] == kind:
            name = document["metadata"]["name"]
            key = f"{document['metadata'].get('namespace')}/{name}" if name in found else name
            found[key] = document
    return found


def pods(documents: list[Any]) -> dict[str, Any]:
    """Pod templates by kind and name, and single pods."""
    found = {}
    for document in documents:
        spec = document if document["kind"] == "Pod" else document.get("spec", {}).get("template")
        if spec and "containers" in spec.get("spec", {}):
            found[f"{document['kind']} {document['metadata']['name']}"] = spec
    return found


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Init containers and containers of a pod template."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
