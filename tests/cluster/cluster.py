"""A Kubernetes cluster for tests: one that is given, or the one beside this clone, or a plain sentence about what is missing.

- `INSITU_TEST_KUBECONFIG` names any cluster; `INSITU_TEST_CLUSTER_LOAD` says how images get into it: the name of a registry that
  this machine pushes to and the cluster pulls from, `kind` (its name in `KIND_CLUSTER_NAME`), or `containerd` (this machine is its node).
- Else `../shared/testcluster/testcluster`, where it exists. That one is reachable only in its own network namespace: kubectl and
  helm run in it, and `Cluster.network` lets the calling thread open its sockets in it.

Not here: what images there are (images.py), and starting the shared cluster's processes.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "testcluster" / "testcluster"
CLONE_NEWNET = 0x40000000
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}


class CommandFailed(Exception):
    """A command of kubectl, helm or the cluster failed: what it was and what it said."""


class Cluster:
    """A running cluster.

    Parameters
    ----------
    prefix
        What a command line begins with to reach the cluster; empty where this machine reaches it as it is.
    environment
        Variables of those commands.
    load_by
        `testcluster`, `kind`, `containerd`, or the name of a registry.
    network_namespace
        File of the network namespace in which it is reachable; None: everywhere.
    """

    def __init__(
        self,
        prefix: Sequence[str],
        environment: Mapping[str, str],
        load_by: str,
        network_namespace: Path | None = None,
    ) -> None:
        self._prefix = list(prefix)
        self._environment = dict(environment)
        self.load_by = load_by
        self.network_namespace = network_namespace

    def run(self, *line: str, stdin: str | None = None, timeout: float = 180, check: bool = True) -> str:
        """Run a command where the cluster is reachable; its standard output. `CommandFailed` carries what it said."""
        outcome = subprocess.run(
            [*self._prefix, *line],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=os.environ | self._environment,
        )
        if check and outcome.returncode != 0:
            said = (outcome.stderr.strip() or outcome.stdout.strip())[-3000:]
            raise CommandFailed(f"{' '.join(line)[:500]} ended with {outcome.returncode}: {said}")
        return outcome.stdout

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 180, check: bool = True) -> str:
        """Run kubectl."""
        return self.run("kubectl", *arguments, stdin=stdin, timeout=timeout, check=check)

    def get(self, *arguments: str) -> Any:
        """What `kubectl get ... -o json` answers, decoded."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def raw(self, path: str) -> Any:
        """What the API server answers to a GET of a path, decoded."""
        return json.loads(self.kubectl("get", f"--raw={path}"))

    def helm(self, *arguments: str, timeout: float = 600, check: bool = True) -> str:
        """Run Helm."""
        return self.run("helm", *arguments, timeout=timeout, check=check)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Let this thread, and the threads and processes it starts, open sockets where the cluster is reachable.

        Sockets stay where they were opened: what was connected before or in here goes on afterwards.
        """
        if self.network_namespace is None:
            yield
            return
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/thread-self/ns/net").open() as ours, self.network_namespace.open() as theirs:
            if libc.setns(theirs.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {self.network_namespace}")
            try:
                yield
            finally:
                if libc.setns(ours.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "cannot return to the network namespace of the tests")

    @contextmanager
    def reach(self, namespace: str, target: str, port: int) -> Iterator[tuple[str, int]]:
        """Address and port at which a pod or Service (`svc/insitu-api`) answers this thread, by way of kubectl port-forward.

        It goes past network policies: tests of those open connections from pods.
        """
        line = [*self._prefix, "kubectl", "-n", namespace, "port-forward", "--address", "127.0.0.1", target, f":{port}"]
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | self._environment
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+) ", said)
            if not found:
                raise CommandFailed(f"kubectl port-forward {target} in {namespace}: {said}{process.stdout.read()}")
            with self.network():
                yield "127.0.0.1", int(found[1])
        finally:
            process.terminate()
            process.wait(timeout=20)
            if process.stdout is not None:
                process.stdout.close()

    @contextmanager
    def namespace(self, name: str, labels: Mapping[str, str] = RESTRICTED) -> Iterator[Namespace]:
        """A namespace of its own, Pod Security `restricted` unless told otherwise; it is removed with all that is in it."""
        namespace = Namespace(self, f"{name}-{secrets.token_hex(3)}")
        manifest = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace.name, "labels": dict(labels)},
        }
        self.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
        try:
            yield namespace
        finally:
            self.kubectl("delete", "namespace", namespace.name, "--wait=false", "--ignore-not-found")

    def images(self) -> set[str]:
        """Names of the images that the nodes report."""
        nodes = self.get("nodes")["items"]
        return {
            name for node in nodes for image in node["status"].get("images", []) for name in image.get("names") or []
        }

    def load(self, archive: Path, name: str) -> str:
        """Bring a docker-archive into the cluster; the reference by which a pod names it."""
        if self.load_by == "testcluster":
            self.run_outside(str(SHARED), "load", str(archive))
        elif self.load_by == "kind":
            cluster = os.environ.get("KIND_CLUSTER_NAME", "kind")
            self.run_outside("kind", "load", "image-archive", "--name", cluster, str(archive))
        elif self.load_by == "containerd":
            self.run_outside("ctr", "-n", "k8s.io", "images", "import", str(archive))
        else:
            self.run_outside(
                "skopeo", "copy", "--insecure-policy", f"docker-archive:{archive}", f"docker://{self.load_by}/{name}"
            )
            return f"{self.load_by}/{name}"
        return name

    def push(self, archive: Path, name: str) -> str:
        """Bring a docker-archive into the registry the cluster pulls from; the reference by digest, as algorithms are named."""
        if self.load_by == "testcluster":
            if not self._registry_answers():
                self.run_outside(str(SHARED), "registry", "up")
            return self.run_outside(str(SHARED), "registry", "push", str(archive), name).split()[-1]
        if self.load_by in {"kind", "containerd"}:
            pytest.skip(
                f"INSITU_TEST_CLUSTER_LOAD={self.load_by} gives no digest: what runs by digest needs a registry"
            )
        reference = self.load(archive, name)
        line = ("skopeo", "inspect", "--format", "{{.Digest}}", f"docker://{reference}")
        return f"{reference.rpartition(':')[0]}@{self.run_outside(*line).strip()}"

    def registry(self) -> tuple[list[str], str]:
        """The registry that nodes pull from: how a program that sends images is told of it, and how the nodes call it."""
        if self.load_by == "testcluster":
            if not self._registry_answers():
                self.run_outside(str(SHARED), "registry", "up")
            return [f"{self._node_address()}:5000", "--plain-http"], "registry.test"
        if self.load_by in {"kind", "containerd"}:
            pytest.skip(f"INSITU_TEST_CLUSTER_LOAD={self.load_by} names no registry, and this needs one")
        return [self.load_by], self.load_by

    def run_outside(self, *line: str, timeout: float = 600) -> str:
        """Run a command on this machine, outside the cluster's network."""
        outcome = subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)
        if outcome.returncode != 0:
            raise CommandFailed(
                f"{' '.join(line)[:500]} ended with {outcome.returncode}: {outcome.stderr.strip()[-2000:]}"
            )
        return outcome.stdout

    def _node_address(self) -> str:
        (node,) = self.get("nodes")["items"]
        return str(next(entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP"))

    def _registry_answers(self) -> bool:
        address = self._node_address()
        with self.network():
            try:
                socket.create_connection((address, 5000), timeout=2).close()
            except OSError:
                return False
        return True


class Namespace:
    """A namespace of a test."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 180, check: bool = True) -> str:
        """Run kubectl in this namespace."""
        return self.cluster.kubectl("-n", self.name, *arguments, stdin=stdin, timeout=timeout, check=check)

    def get(self, *arguments: str) -> Any:
        """What `kubectl get ... -o json` answers, decoded."""
        return self.cluster.get("-n", self.name, *arguments)

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Create or change objects."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([dict(manifest) for manifest in manifests]))

    def run_pod(
        self, name: str, image: str, command: Sequence[str] | None = None, timeout: float = 240, **container: Any
    ) -> tuple[int, str]:
        """Run one container to its end as `restricted` demands it, with a read-only root; its exit code and what it said.

        Parameters
        ----------
        command
            Replaces the image's entrypoint; None: as the image is made.
        container
            Further fields of the container.
        """
        fields: dict[str, Any] = {
            "name": "c",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            # Without a request a pod gets nearly nothing of a machine on which others work.
            "resources": {"requests": {"cpu": "500m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            **container,
        }
        if command is not None:
            fields["command"] = list(command)
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 1,
                    "automountServiceAccountToken": False,
                    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [fields],
                    "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
                },
            }
        )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status = self.get("pod", name)["status"]
            (state,) = [entry["state"] for entry in status.get("containerStatuses", [])] or [{}]
            if "terminated" in state:
                return state["terminated"]["exitCode"], self.kubectl("logs", name)
            time.sleep(0.3)
        raise CommandFailed(f"pod {name} of {image} did not end within {timeout:.0f} s\n{self.trouble()}")

    def trouble(self) -> str:
        """What helps to see why a test failed: pods, events, and the last lines of every container."""
        parts = [
            self.kubectl("get", "pods,jobs", "-o", "wide", check=False),
            self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-6000:],
        ]
        for pod in self.get("pods")["items"]:
            spec = pod["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                name = pod["metadata"]["name"]
                said = self.kubectl("logs", name, "-c", container["name"], "--tail=40", check=False)
                parts.append(f"--- {name}/{container['name']}\n{said}")
        return "\n".join(parts)


def find_cluster() -> Cluster:
    """The cluster of the tests; where there is none, the test is skipped and says what is missing."""
    given = os.environ.get("INSITU_TEST_KUBECONFIG")
    if given:
        if not Path(given).is_file():
            pytest.fail(f"INSITU_TEST_KUBECONFIG names {given}, and there is no such file")
        load_by = os.environ.get("INSITU_TEST_CLUSTER_LOAD")
        if not load_by:
            pytest.fail(
                "INSITU_TEST_CLUSTER_LOAD must say how images get into the cluster: a registry's name, kind or containerd"
            )
        for program in ("kubectl", "helm"):
            if shutil.which(program) is None:
                pytest.skip(f"needs a Kubernetes cluster: {program} is not installed")
        return Cluster([], {"KUBECONFIG": given}, load_by)
    if not SHARED.exists():
        pytest.skip("needs a Kubernetes cluster: name one by INSITU_TEST_KUBECONFIG and INSITU_TEST_CLUSTER_LOAD")
    if os.geteuid() != 0:
        pytest.skip("needs a Kubernetes cluster: the one beside this clone is started by root only")
    network = Path("/run/netns") / os.environ.get("KUBE_NETNS", "kc")
    cluster = Cluster([str(SHARED), "exec"], {}, "testcluster", network)
    if not network.exists() or "ok" not in cluster.kubectl("get", "--raw=/readyz", check=False, timeout=20):
        outcome = subprocess.run([str(SHARED), "up"], capture_output=True, text=True, timeout=1500, check=False)
        if outcome.returncode != 0:
            pytest.fail(
                f"the cluster beside this clone does not start: {(outcome.stderr or outcome.stdout).strip()[-2000:]}"
            )
    return cluster
