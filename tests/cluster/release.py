"""An installation of the chart in a cluster of the tests: its images, its volumes, its values.

Not here: the cluster (cluster.py) and how images are made (images.py).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.helm import CHART, merge

from .cluster import Cluster, Namespace
from .images import Images

NAME = "insitu"
VALUES = Path(__file__).with_name("values.yaml")
SERVERS = ("database", "object-store")


class Release:
    """The release in a namespace.

    Parameters
    ----------
    namespace : Namespace
    values : dict
        Over tests/cluster/values.yaml.
    """

    def __init__(self, namespace: Namespace, values: dict[str, Any]) -> None:
        self.namespace = namespace
        self.algorithms = Namespace(namespace.cluster, f"{namespace.name}-algorithms")
        self.values = merge(yaml.safe_load(VALUES.read_text()), values)
        self.chart = CHART  # or a packaged one

    def apply(self, command: str, *options: str, values: dict[str, Any] | None = None, timeout: float = 600) -> str:
        """`helm install` or `helm upgrade`; what Helm says."""
        self.values = merge(self.values, values or {})
        line = ("helm", command, NAME, str(self.chart), "--namespace", self.namespace.name, "--values", "-", *options)
        return self.namespace.cluster.run(*line, stdin=yaml.safe_dump(self.values), timeout=timeout)

    def helm(self, command: str, *options: str, timeout: float = 600) -> str:
        """Another command of Helm about the release."""
        return self.namespace.cluster.helm(command, NAME, "--namespace", self.namespace.name, *options, timeout=timeout)


def chosen(images: Images) -> dict[str, Any]:
    """The images of the tests as values."""
    found = {}
    for key, name in (("platform", "platform"), ("airflow", "airflow"), ("objectStore", "object-store")):
        repository, _, tag = images[name].rpartition(":")
        found[key] = {"repository": repository, "tag": tag}
    return {"images": found}


@contextmanager
def released(cluster: Cluster, values: dict[str, Any]) -> Iterator[Release]:
    """A namespace with volumes, and a release that is not installed yet; all of it is removed at the end."""
    with cluster.namespace("release") as namespace, volumes(namespace):
        release = Release(namespace, values)
        try:
            yield release
        finally:
            release.helm("uninstall", "--ignore-not-found", "--wait")
            namespace.kubectl("delete", "pvc", "--all", "--timeout=60s", check=False)
            cluster.kubectl("delete", "namespace", release.algorithms.name, "--ignore-not-found", "--wait=false")


@contextmanager
def volumes(namespace: Namespace) -> Iterator[None]:
    """Volumes for the bundled servers where the cluster makes none by itself: folders of this machine, which then is its node."""
    cluster = namespace.cluster
    if cluster.get("storageclasses")["items"]:
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="insitu-volumes-"))
    folder.chmod(0o755)
    names = {server: f"{namespace.name}-{server}" for server in SERVERS}
    for server, name in names.items():
        (folder / server).mkdir()
        (folder / server).chmod(0o777)  # a volume of this kind is given to nobody
        namespace.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "capacity": {"storage": "5Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "hostPath": {"path": str(folder / server)},
                    "claimRef": {"namespace": namespace.name, "name": f"data-{NAME}-{server}-0"},
                },
            }
        )
    try:
        yield
    finally:
        cluster.kubectl("delete", "pv", *names.values(), "--ignore-not-found", "--wait=false")
        shutil.rmtree(folder, ignore_errors=True)
