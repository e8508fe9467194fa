"""The launcher of a cluster under test: a namespace of its own for algorithm pods, and the images of steps and doubles.

Its pods must be able to reach this machine, where the gateway of the tests is.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from insitu.runs.launch.kubernetes.api import Access
from insitu.runs.launch.kubernetes.configuration import LauncherConfiguration
from insitu.runs.launch.kubernetes.launcher import KubernetesLauncher
from insitu.runs.launch.specification import JobSpecification

from .. import doubles
from .cluster import Cluster, Namespace, find_cluster
from .images import Images


def access() -> Access:
    """To the cluster under test, from within its network; the test is skipped where there is none."""
    return Access.of_kubeconfig(Path(find_cluster().run("sh", "-c", 'echo "$KUBECONFIG"').strip()))


def own_address(access: Access) -> str:
    """This machine's address as the cluster's pods can reach it: the one from which the API server is reached."""
    server = urlsplit(access.url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect((server.hostname or "", server.port or 443))
        return str(probe.getsockname()[0])


@dataclass(frozen=True)
class Ground:
    """A namespace of its own for algorithm pods, and how to launch into it."""

    access: Access
    configuration: LauncherConfiguration
    cluster: Cluster
    namespace: Namespace

    def launcher(self, **changes: object) -> KubernetesLauncher:
        """A launcher of its own, as another process would have it; `changes` are of its configuration."""
        return KubernetesLauncher(self.configuration.model_copy(update=changes), self.access)

    @property
    def address(self) -> str:
        """Of this machine, for the pods."""
        return own_address(self.access)


@contextlib.contextmanager
def ground(**configuration: object) -> Iterator[Ground]:
    """A namespace under Pod Security "restricted" that vanishes afterwards; the calling thread is in the cluster's network."""
    cluster = find_cluster()
    step_image()  # building it needs this machine's own network
    with cluster.network(), cluster.namespace("launcher") as namespace:
        settled = {
            "namespace": namespace.name,
            "step_image": step_image(),
            "steps": {"memory_request": "64Mi", "cpu_request": "50m"},
            "cpu_request_share": 0.1,  # tests and their platforms share a node
            **configuration,
        }
        yield Ground(access(), LauncherConfiguration.model_validate(settled), cluster, namespace)


@cache
def step_image() -> str:
    """Image of fetch and publish in the cluster; INSITU_TEST_STEP_IMAGE names one that is there already."""
    return os.environ.get("INSITU_TEST_STEP_IMAGE") or Images(find_cluster())["platform"]


def self_contained(kind: str) -> str:
    """The program of a double as one text: any image with Python can run it as an argument."""
    nifti, code = ((doubles.FOLDER / f"{name}.py").read_text() for name in ("nifti", kind))
    return (
        "import sys, types\n"
        "nifti = sys.modules['nifti'] = types.ModuleType('nifti')\n"
        f"exec({nifti!r}, nifti.__dict__)\n"
        f"exec({code!r})\n"
    )


def fit(kind: str, specification: JobSpecification) -> JobSpecification:
    """The job of a double as the cluster can carry it out."""
    algorithm = specification.algorithm.model_copy(
        update={"image": step_image(), "entrypoint": ("python", "-c", self_contained(kind))}
    )
    return specification.model_copy(update={"algorithm": algorithm})
