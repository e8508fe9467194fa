"""A place in the cluster for pods of the doctor's own, all of which is removed at the end, whatever happens.

A namespace that nobody else uses, or where none may be made the platform's own: then policies select the doctor's pods only.
Not here: what is tried in it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from insitu.errors import Unavailable
from insitu.runs.launch.kubernetes.api import ApiRefused

from .cluster import Cluster, NoRight, refusal

MANAGER = {"app.kubernetes.io/managed-by": "insitu-doctor"}
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
LIFE = 900  # seconds after which the cluster itself ends a pod that a killed doctor has left
LOOK = 0.5
ACCOUNT_SECONDS = 20.0  # until a new namespace has its service account
PULL_FAILURES = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
REPEATED_SECONDS = 12.0  # a pull may fail once for a moment
HOMELESS_SECONDS = 20.0  # and a node may be full for one


@dataclass(frozen=True)
class Problem:
    """Why a pod does not start: its image is not pulled, or no node takes it."""

    says: str
    of_image: bool


class NoPlace(Exception):
    """Pods cannot be tried: the message says why, after "not checked: "."""


class Trial:
    """The place; a context manager.

    Parameters
    ----------
    cluster : Cluster
    instead : str
        Namespace to use where the caller may make none.
    only : str, optional
        Namespace to use in any case.
    """

    def __init__(self, cluster: Cluster, instead: str, only: str | None = None) -> None:
        self.cluster = cluster
        self.id = secrets.token_hex(4)
        self.labels = {**MANAGER, "insitu/doctor": self.id}
        self.namespace = only or f"insitu-doctor-{self.id}"
        self.own = only is None
        self._instead = instead
        self._made: list[str] = []
        self._earlier: Any = None
        self._since: dict[tuple[str, bool], float] = {}
        self._told: dict[tuple[str, bool], str] = {}

    def __enter__(self) -> Trial:
        with contextlib.suppress(ValueError):  # only the first thread has signals
            self._earlier = signal.signal(signal.SIGTERM, _leave)
        if not self.own:
            return self
        body = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": {**self.labels, **RESTRICTED}},
        }
        try:
            self.cluster.create("/api/v1/namespaces", body)
        except ApiRefused as error:
            known = refusal(error)
            if not isinstance(known, NoRight):
                raise
            self.own = False
            self.namespace = self._instead
            self._need_room(known)
        return self

    def _need_room(self, known: NoRight) -> None:
        try:
            there = self.cluster.get(f"/api/v1/namespaces/{self.namespace}/pods", limit=1)
        except NoRight:
            there = None
        if there is None or not self.cluster.may("create", "pods", namespace=self.namespace):
            raise NoPlace(f"{known}, and none to create pods in {self.namespace}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove everything; a second Ctrl-C does not keep it from that."""
        earlier = None
        with contextlib.suppress(ValueError):
            earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for path in reversed(self._made):
                with contextlib.suppress(ApiRefused, Unavailable):
                    self.cluster.delete(path, gracePeriodSeconds=0)
            if self.own:
                self.cluster.delete(f"/api/v1/namespaces/{self.namespace}")
        finally:
            with contextlib.suppress(ValueError):
                signal.signal(signal.SIGINT, earlier or signal.SIG_DFL)
                signal.signal(signal.SIGTERM, self._earlier or signal.SIG_DFL)

    def make(self, collection: str, body: Mapping[str, Any]) -> None:
        """Make an object in the place; `collection` as in `/api/v1/pods`, without the namespace."""
        root, _, resource = collection.rpartition("/")
        path = f"{root}/namespaces/{self.namespace}/{resource}"
        labels = {**self.labels, **body["metadata"].get("labels", {})}
        body = {**body, "metadata": {**body["metadata"], "labels": labels}}
        deadline = time.monotonic() + ACCOUNT_SECONDS
        while True:
            self._made.append(f"{path}/{body['metadata']['name']}")
            try:
                self.cluster.create(path, body)
                return
            except ApiRefused as error:
                if "service account" not in error.message and "serviceaccount" not in error.message:
                    self._made.pop()
                    raise refusal(error) from error
                if time.monotonic() > deadline:
                    raise
            self._made.pop()
            time.sleep(LOOK)

    def name(self, what: str) -> str:
        """A name that no other doctor has."""
        return f"insitu-doctor-{what}-{self.id}"

    def start(
        self,
        what: str,
        image: str,
        command: Sequence[str] | None,
        *,
        asked: Mapping[str, Any] | None = None,
        pull_policy: str = "IfNotPresent",
        pull_secrets: Sequence[str] = (),
        scheduling: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        volumes: Sequence[tuple[Mapping[str, Any], str]] = (),
    ) -> None:
        """Start a pod as Pod Security "restricted" wants it.

        Parameters
        ----------
        what : str
            Part of its name.
        image : str
        command : sequence of str, optional
            None: that of the image.
        asked : mapping, optional
            Given to its program as the variable ASKED.
        pull_policy, pull_secrets, scheduling, labels
            As in the chart's values.
        volumes : sequence of (volume, path)
            Volumes without their names, and where they are mounted.
        """
        self.make(
            "/api/v1/pods",
            pod(
                self.name(what), image, command, asked=asked, pull_policy=pull_policy, pull_secrets=pull_secrets,
                scheduling=scheduling or {}, labels=labels or {}, volumes=volumes, apart={"insitu/doctor": self.id},
            ),
        )  # fmt: skip

    def pods(self) -> dict[str, dict[str, Any]]:
        """The pods of this trial by what they are for."""
        found = self.cluster.items(
            f"/api/v1/namespaces/{self.namespace}/pods", labelSelector=f"insitu/doctor={self.id}"
        )
        begin, end = "insitu-doctor-", f"-{self.id}"
        pods = {item["metadata"]["name"].removeprefix(begin).removesuffix(end): item for item in found}
        for what, item in pods.items():
            for of_image, says in ((True, pull_failure(item)), (False, homeless(item))):
                key = what, of_image
                if says is not None:
                    self._since.setdefault(key, time.monotonic())
                    # Before it pulls again a node may tell less than at first.
                    self._told[key] = max(says, self._told.get(key, ""), key=len)
                elif not of_image or pulled(item):
                    self._since.pop(key, None)
        return pods

    def problem(self, what: str) -> Problem | None:
        """What keeps a pod from starting, if it has done so for a while."""
        for of_image, seconds in ((True, REPEATED_SECONDS), (False, HOMELESS_SECONDS)):
            since = self._since.get((what, of_image))
            if since is not None and time.monotonic() - since >= seconds:
                return Problem(self._told[what, of_image], of_image)
        return None

    def until(self, done: Callable[[dict[str, dict[str, Any]]], bool], seconds: float) -> dict[str, dict[str, Any]]:
        """Look at the pods until `done(pods)` or the time is over; the last look."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.pods()
            if done(found) or time.monotonic() > deadline:
                return found
            time.sleep(LOOK)

    def said(self, what: str) -> dict[str, Any] | None:
        """The JSON that the program of a pod has printed so far; None where there is none."""
        try:
            lines = self.cluster.log(self.namespace, self.name(what)).strip().splitlines()
        except ApiRefused:
            return None
        for line in reversed(lines):
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    return found
        return None


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def pod(
    name: str,
    image: str,
    command: Sequence[str] | None,
    *,
    asked: Mapping[str, Any] | None,
    pull_policy: str,
    pull_secrets: Sequence[str],
    scheduling: Mapping[str, Any],
    labels: Mapping[str, str],
    volumes: Sequence[tuple[Mapping[str, Any], str]],
    apart: Mapping[str, str],
) -> dict[str, Any]:
    """The manifest of such a pod; see Trial.start. It prefers another node than those of the labels `apart`."""
    container: dict[str, Any] = {
        "name": "doctor",
        "image": image,
        "imagePullPolicy": pull_policy,
        "env": [
            {"name": "ASKED", "value": json.dumps(asked or {})},
            {"name": "NODE_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "RES_OPTIONS", "value": "timeout:2 attempts:3"},
            {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # of the pod
            *({"name": f"v{number}", "mountPath": path} for number, (_, path) in enumerate(volumes)),
        ],
    }
    if command is not None:
        container["command"] = list(command)
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": dict(apart)}}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LIFE,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]
            }
        },
        "imagePullSecrets": [{"name": each} for each in pull_secrets],
        "nodeSelector": dict(scheduling.get("nodeSelector") or {}),
        "tolerations": list(scheduling.get("tolerations") or ()),
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            *({"name": f"v{number}", **volume} for number, (volume, _) in enumerate(volumes)),
        ],
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": dict(labels)}, "spec": spec}


def container_state(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """State of a pod's one container; empty while there is none. Pure."""
    statuses = ((found or {}).get("status") or {}).get("containerStatuses") or [{}]
    return dict(statuses[0].get("state") or {})


def ended(found: Mapping[str, Any] | None) -> bool:
    """Whether a pod's container has ended. Pure."""
    return "terminated" in container_state(found)


def pulled(found: Mapping[str, Any] | None) -> bool:
    """Whether a pod's image is on its node. Pure."""
    statuses = ((found or {}).get("status") or {}).get("containerStatuses") or [{}]
    return bool(statuses[0].get("imageID")) or bool({"running", "terminated"} & set(statuses[0].get("state") or {}))


def pull_failure(found: Mapping[str, Any] | None) -> str | None:
    """What the registry, or the node, said to the pull of a pod's image; None where it was not refused so far. Pure."""
    waiting = container_state(found).get("waiting") or {}
    if waiting.get("reason") not in PULL_FAILURES:
        return None
    return str(waiting.get("message") or waiting["reason"]).rpartition("ErrImagePull: ")[2]


def homeless(found: Mapping[str, Any] | None) -> str | None:
    """Why no node takes a pod; None where one does, or nobody has looked so far. Pure."""
    for each in ((found or {}).get("status") or {}).get("conditions") or ():
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return str(each.get("message") or each.get("reason"))
    return None
