"""What only pods can find out: whether images are pulled, policies hold, names resolve, volumes are made and keep what they get.

Not here: how a pod of the doctor is made and removed (trial), and what the network's answers mean (network).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from insitu.runs.launch.kubernetes.api import ApiRefused

from . import network, programs
from .cluster import Cluster, NoRight
from .finding import BAD, NOTE, OK, Finding
from .storage import SMALLEST_VOLUME, VOLUME_SECONDS, storage_class, volume_finding
from .trial import NoPlace, Problem, Trial, container_state, ended, homeless, pulled
from .values import Image, SiteValues

IMAGE_SECONDS = 600.0  # for all of them
POD_SECONDS = 180.0  # for a program whose image is there


def check(cluster: Cluster, values: SiteValues, *, image_seconds: float = IMAGE_SECONDS) -> Iterator[Finding]:
    """Make the pods, look, judge, and remove them."""
    try:
        with Trial(cluster, instead=values.namespace) as trial:
            yield from _with_pods(trial, values, image_seconds)
    except NoPlace as error:
        for what in ("pod security", "images", "network policies", "dns"):
            yield Finding(
                what,
                NOTE,
                f"not checked: {error}",
                "Let somebody run the doctor who may create namespaces, or make the namespace before",
            )


def _with_pods(trial: Trial, values: SiteValues, image_seconds: float) -> Iterator[Finding]:
    if trial.own:
        yield pod_security(trial)
    secrets = _copied_secrets(trial, values)
    images = list(values.images())
    scheduling = values["api.scheduling"]
    for number, image in enumerate(images):
        if image.name == "platform" and not image.algorithm:
            continue
        theirs = values.launcher
        trial.start(
            f"image-{number}", image.reference, ["true"], pull_policy=image.pull_policy,
            pull_secrets=secrets[image.algorithm],
            scheduling={"nodeSelector": theirs.node_selector, "tolerations": theirs.tolerations}
            if image.algorithm else scheduling,
        )  # fmt: skip
    platform = values.image("platform")
    line = {"pull_policy": platform.pull_policy, "pull_secrets": secrets[False], "scheduling": scheduling}
    volumes = yield from _volumes(trial, values, platform, line)
    refused = network_policies(trial, values)
    trial.start(
        "serve", platform.reference, ["python", "-c", programs.text("network")],
        asked={"serve": [network.CONTROL, network.INGRESS, network.EGRESS], "places": network.places(values), "seconds": 600},
        labels={"insitu/doctor-role": "serve"}, **line,
    )  # fmt: skip
    problem = _waited(trial, "serve", image_seconds, _runs)
    if problem is not None:
        yield image_finding(platform, problem)
        for what in ("network policies", "dns", *(f"volume {each}" for each in volumes)):
            yield Finding(what, NOTE, "not checked: no pod with the platform's image starts")
    else:
        yield image_finding(platform, None)
        yield from _network(trial, values, platform, line, refused)
        yield from _judged_volumes(trial, volumes)
    yield from _judged_images(trial, images, image_seconds)


def pod_security(trial: Trial) -> Finding:
    """Whether the API server refuses a privileged pod in a namespace with the label; nothing is made."""
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "privileged"},
        "spec": {"hostPID": True, "containers": [{"name": "c", "image": "c", "securityContext": {"privileged": True}}]},
    }
    try:
        trial.cluster.create(f"/api/v1/namespaces/{trial.namespace}/pods", body, dry=True)
    except ApiRefused as error:
        by = "Pod Security" if "PodSecurity" in error.message else "the cluster"
        if error.status == 403:
            return Finding("pod security", OK, f"{by} refuses a privileged pod in a namespace that enforces restricted")
        return Finding("pod security", NOTE, f"not checked: the API server says {error.message}")
    return Finding(
        "pod security", BAD, "a privileged pod is accepted in a namespace that enforces restricted",
        "Turn the admission plugin PodSecurity on at the API server: without it an algorithm can take over a node",
    )  # fmt: skip


def network_policies(trial: Trial, values: SiteValues) -> NoRight | None:
    """Make the policies of the trial; the right that is lacking, if one is."""
    try:
        for policy in network.policies(trial.id, values):
            name = trial.name(policy["metadata"]["name"])
            trial.make("/apis/networking.k8s.io/v1/networkpolicies", {**policy, "metadata": {"name": name}})
    except NoRight as error:
        return error
    return None


def _network(
    trial: Trial, values: SiteValues, platform: Image, line: Mapping[str, Any], refused: NoRight | None
) -> Iterator[Finding]:
    serving = trial.pods()["serve"]
    if refused is None:
        asked = {
            "host": serving["status"]["podIP"], "control": network.CONTROL, "ingress": network.INGRESS, "egress": network.EGRESS,
        }  # fmt: skip
        trial.start(
            "ask", platform.reference, ["python", "-c", programs.text("network")], asked=asked,
            labels={"insitu/doctor-role": "ask"}, **line,
        )  # fmt: skip
        trial.until(lambda pods: ended(pods.get("ask")), POD_SECONDS)
    ask = None if refused is not None else trial.said("ask")
    trial.until(lambda pods: trial.said("serve") is not None or ended(pods.get("serve")), POD_SECONDS)
    serve = trial.said("serve")
    if serve is None:
        yield Finding(
            "network policies", NOTE, f"not checked: the doctor's pod said nothing within {POD_SECONDS:.0f} s",
            "Try again when the cluster has less to do",
        )  # fmt: skip
        return
    pods = trial.pods()
    where = {pods[name]["spec"].get("nodeName") for name in ("serve", "ask") if name in pods}
    if ask is not None:
        yield from network.judge(serve, ask, nodes=len(where), own=trial.own)
    else:
        why = str(refused) if refused is not None else f"the doctor's pod said nothing within {POD_SECONDS:.0f} s"
        yield Finding("network policies", NOTE, f"not checked: {why}")
    yield network.dns(serve, ask)
    yield from network.node_clock(serve, str(serving["spec"].get("nodeName")))
    yield from network.site_servers(serve, values)
    if str(serve["processes"]).isdigit():
        yield Finding("processes per pod", OK, f"at most {serve['processes']}, as a pod sees it")


def _copied_secrets(trial: Trial, values: SiteValues) -> dict[bool, list[str]]:
    """Names of pull secrets in the place: the platform's (False) and the algorithms' (True), copied where the place is the doctor's."""
    found: dict[bool, list[str]] = {False: [], True: []}
    sources = (
        (False, values.namespace, values["global.imagePullSecrets"]),
        (True, values.algorithms, values.launcher.image_pull_secrets),
    )
    for algorithm, where, given in sources:
        for name in given:
            if where == trial.namespace:
                found[algorithm].append(name)
                continue
            try:
                secret = trial.cluster.get(f"/api/v1/namespaces/{where}/secrets/{name}")
            except NoRight:
                secret = None
            if secret is not None:
                copy = trial.name(f"pull-{len(found[False]) + len(found[True])}")
                trial.make(
                    "/api/v1/secrets",
                    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": copy}, "type": secret["type"], "data": secret["data"]},
                )  # fmt: skip
                found[algorithm].append(copy)
    return found


def _waited(
    trial: Trial, what: str, seconds: float, done: Callable[[Mapping[str, Any] | None], bool]
) -> Problem | None:
    """Wait for a pod; why it does not come so far, if it does not."""
    found = trial.until(lambda pods: done(pods.get(what)) or trial.problem(what) is not None, seconds).get(what)
    if done(found):
        return None
    return trial.problem(what) or Problem(f"it was not there within {seconds:.0f} s", of_image=True)


def _runs(found: Mapping[str, Any] | None) -> bool:
    return "running" in container_state(found) or ended(found)


def image_finding(image: Image, problem: Problem | None) -> Finding:
    """How one image is in the cluster. Pure."""
    check = f"image {image.name}"
    if problem is not None and not problem.of_image:
        return Finding(
            check, NOTE, f"not checked: no node takes a pod with {image.reference}: {problem.says}",
            "Make room, or correct the nodeSelector and tolerations of `scheduling`",
        )  # fmt: skip
    if problem is not None:
        return Finding(
            check, BAD, f"{image.reference} ({image.value}) is not pulled: {problem.says}",
            "Push it to the registry, or correct the value or global.imageRegistry; a registry with a login needs global.imagePullSecrets"
            + (" (algorithms.launcher.image_pull_secrets)" if image.algorithm else ""),
        )  # fmt: skip
    if not image.by_digest:
        return Finding(
            check, NOTE, f"{image.reference} is there; but a tag can be moved to another image", f"Set {image.value}.digest",
        )  # fmt: skip
    return Finding(check, OK, f"{image.reference} is there")


def _judged_images(trial: Trial, images: list[Image], seconds: float) -> Iterator[Finding]:
    for number, image in enumerate(images):
        if f"image-{number}" in trial.pods():
            yield image_finding(image, _waited(trial, f"image-{number}", seconds, pulled))


def _volumes(
    trial: Trial, values: SiteValues, platform: Image, line: Mapping[str, Any]
) -> Generator[Finding, None, dict[str, tuple[str, bool, bool]]]:
    """Ask for a small volume of each class that would be used, with a pod that tries it; returns server names by volume."""
    started: dict[str, tuple[str, bool, bool]] = {}
    try:
        classes = {
            item["metadata"]["name"]: item for item in trial.cluster.items("/apis/storage.k8s.io/v1/storageclasses")
        }
    except NoRight:
        return started
    for volume in values.volumes():
        found = None if volume.existing else storage_class(volume.storage_class, classes)
        if found is None:
            continue
        if found.get("reclaimPolicy") == "Retain":
            yield Finding(
                f"volume {volume.server}", NOTE, f"not tried: storage class {found['metadata']['name']} keeps what is given back (Retain)",
                "Try one by hand, and remove it",
            )  # fmt: skip
            continue
        name = trial.name(f"volume-{volume.server}")
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": found["metadata"]["name"],
                "resources": {"requests": {"storage": SMALLEST_VOLUME}},
            },
        }
        trial.make("/api/v1/persistentvolumeclaims", claim)
        trial.start(
            f"volume-{volume.server}", platform.reference, ["python", "-c", programs.text("volume")],
            volumes=[({"persistentVolumeClaim": {"claimName": name}}, "/data")], **line,
        )  # fmt: skip
        store = volume.server == "object-store"
        started[volume.server] = (
            str(found["metadata"]["name"]),
            store and bool(values["objectStore.bundled.synchronous"]),
            store and not values["objectStore.bundled.sidecarMetadata"],
        )
    return started


def _judged_volumes(trial: Trial, started: Mapping[str, tuple[str, bool, bool]]) -> Iterator[Finding]:
    for server, (name, synchronous, attributes) in started.items():
        pods = trial.until(lambda pods, server=server: ended(pods.get(f"volume-{server}")), VOLUME_SECONDS)  # type: ignore[misc]
        found = trial.said(f"volume-{server}") if ended(pods.get(f"volume-{server}")) else None
        yield volume_finding(server, name, found, homeless(pods.get(f"volume-{server}")), synchronous, attributes)
