"""The platform that a release put into the cluster as a site: its API and DICOM port by their Services, its algorithms, its pods.

The Services' addresses must be reachable from where the tests run, as they are on a node. Not here: the installation (release.py).
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from insitu.runs.launch.kubernetes.manifest import EXECUTION
from tests import doubles
from tests.helm import merge
from tests.site import Site

from .cluster import Cluster, Namespace
from .images import Images
from .launching import self_contained
from .release import NAME, Release, chosen, released

INSTALL_SECONDS = 900  # with nothing else to do it is one minute


class InCluster(httpx.HTTPTransport):
    """Opens its connections where the cluster is reachable."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._cluster.network():
            return super().handle_request(request)


class ClusterSite(Site):
    """The platform of an installed release.

    Parameters
    ----------
    release : Release
    images : Images
        For the algorithms that tests install.
    install_seconds : float, optional
        How long the installation took; None where it was there.
    """

    def __init__(self, release: Release, images: Images, install_seconds: float | None = None) -> None:
        self.install_seconds = install_seconds
        self.release = release
        self.namespace = release.namespace
        self.algorithms = release.algorithms
        self.cluster = release.namespace.cluster
        self._images = images
        super().__init__(self.client(), self.service("receiver"))
        self.http.headers["Authorization"] = f"Bearer {self._token()}"

    def network(self) -> AbstractContextManager[None]:
        return self.cluster.network()

    def service(self, component: str) -> tuple[str, int]:
        """Address and first port of a Service."""
        found = self.namespace.get("service", f"{NAME}-{component}")["spec"]
        return found["clusterIP"], found["ports"][0]["port"]

    def client(self) -> httpx.Client:
        """A client of the API that is not logged in."""
        host, port = self.service("api")
        return httpx.Client(base_url=f"http://{host}:{port}", transport=InCluster(self.cluster), timeout=60)

    def _token(self) -> str:
        password = base64.b64decode(self.namespace.get("secret", f"{NAME}-secrets")["data"]["admin-password"]).decode()
        with self.client() as browser:
            answer = browser.post("/api/v1/session", json={"name": "admin", "password": password})
            assert answer.status_code == 200, answer.text
            answer = browser.post(
                "/api/v1/tokens",
                json={"name": f"tests-{secrets.token_hex(3)}"},
                headers={"Origin": str(browser.base_url).rstrip("/")},
            )
        assert answer.status_code == 201, answer.text
        token: str = answer.json()["token"]
        return token

    def insitu(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line on this machine, speaking to the platform in the cluster."""
        host, port = self.service("api")
        variables = {name: value for name, value in os.environ.items() if not name.startswith("INSITU_")}
        variables |= {
            "INSITU_URL": f"http://{host}:{port}",
            "INSITU_TOKEN": self.http.headers["Authorization"].split()[1],
        }
        with self.network():
            return subprocess.run(
                [sys.executable, "-m", "insitu.cli", *arguments],
                env=variables, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip

    def install_double(self, kind: str, folder: Path, **changes: Any) -> str:
        """Install a double that runs in the platform's image, its program an argument; its name."""
        package = doubles.build(kind, folder, entrypoint=["python", "-c", self_contained(kind)], **changes)
        done = self.insitu("algorithm", "install", str(package), "--image", self._double_image())
        assert done.returncode == 0, done.stderr
        name: str = changes.get("name") or doubles.manifest(kind)["name"]
        return name

    def _double_image(self) -> str:
        """The platform's image by a digest that the release allows, which is not today's where the release stayed from before."""
        values = json.loads(
            self.cluster.helm("get", "values", NAME, "--namespace", self.namespace.name, "--output", "json")
        )["algorithms"]
        repository = values["images"]["ct-tissue"].rpartition("/")[0]
        return f"{repository}/platform@{values['allowedDigests'][0]}"

    def pods(self, component: str) -> list[dict[str, Any]]:
        """The pods of a component of the platform, those that end left out."""
        found = self.namespace.get("pods", "-l", f"app.kubernetes.io/component={component}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def jobs(self, execution: str) -> list[dict[str, Any]]:
        """The Jobs of a run."""
        items: list[dict[str, Any]] = self.algorithms.get("jobs")["items"]
        return [job for job in items if job["metadata"]["labels"].get(EXECUTION) == execution]


def settled(images: Images) -> dict[str, Any]:
    """The values of a site that can run the shipped CT algorithm and the doubles."""
    double = images.by_digest("platform").rpartition("@")[2]
    return merge(
        chosen(images),
        {"algorithms": {"images": {"ct-tissue": images.by_digest("ct-tissue")}, "allowedDigests": [double]}},
    )


@contextmanager
def site(cluster: Cluster, images: Images) -> Iterator[ClusterSite]:
    """An installed platform that is removed afterwards; INSITU_TEST_RELEASE names the namespace of one that is there and stays."""
    there = os.environ.get("INSITU_TEST_RELEASE")
    if there:
        yield ClusterSite(Release(Namespace(cluster, there), {}), images)
        return
    with released(cluster, settled(images)) as release:
        began = time.monotonic()
        release.apply("install", "--wait", "--timeout", f"{INSTALL_SECONDS}s", timeout=INSTALL_SECONDS + 30)
        yield ClusterSite(release, images, time.monotonic() - began)
