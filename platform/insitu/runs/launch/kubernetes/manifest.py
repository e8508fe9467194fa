"""The Job and the Secret of a specification, as the API takes them. Pure.

What each container of the pod sees:

    fetch       /step (its own), /step/source and /step/input to write, its token, /parameters to write
    algorithm   /input and /parameters.json to read, /output, /scratch, /tmp and /dev/shm to write; no token, no headers; in a
                folder that only root may enter the file of its termination message, whose size no kubelet limits
    publish     /step (its own), /step/source, /step/input and /step/output to read, its token

All run as one user without rights, so that publish can read what the algorithm wrote whatever its mode.
Not here: when the Job is made and ended (launcher).
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from insitu.errors import Invalid

from ..specification import JobSpecification
from .configuration import LauncherConfiguration, StepResources

PREFIX = "insitu.internal"
EXECUTION = f"{PREFIX}/execution"
DESCRIPTION = f"{PREFIX}/description"
VERDICT = f"{PREFIX}/verdict"
USER = 65534
WORK = "/step"
TOKENS = "/run/insitu"
REPORT = "/dev/termination-log"
CLOSED = "/run/closed"
MESSAGE = "termination-log"
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)  # fmt: skip
SMALL = 64 * 2**20  # bytes of folders that hold next to nothing
SPARE_SECONDS = (
    60.0  # between the launcher's own limits and the cluster's, which come into force where no launcher lives
)
TAKEN_AWAY = "DisruptionTarget"


class Description(BaseModel):
    """What a Job says about itself, so that any launcher can judge it: no secret is in it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    version: str
    image: str
    seconds: float
    step_seconds: float
    memory_bytes: int
    output_bytes: int
    log_bytes: int
    purpose: str = "inference"


def job(specification: JobSpecification, configuration: LauncherConfiguration, address: str | None) -> dict[str, Any]:
    """The Job of a specification, suspended: its pod starts when the Secret is there.

    Parameters
    ----------
    specification : JobSpecification
    configuration : LauncherConfiguration
    address : str or None
        Address of the gateway, where its URL has a host name.

    Raises
    ------
    Invalid
        The algorithm has no image.
    """
    image = specification.algorithm.image
    if image is None:
        raise Invalid(
            "This algorithm has no image, so it cannot run in the cluster",
            value=f"{specification.algorithm.name} {specification.algorithm.version}",
            remedy="Install it with --image NAME@sha256:...",
        )
    limits = specification.limits
    labels = {
        "app.kubernetes.io/name": "insitu-algorithm",
        "app.kubernetes.io/part-of": "insitu",
        "app.kubernetes.io/component": "algorithm",
        "app.kubernetes.io/managed-by": "insitu-launcher",
        EXECUTION: specification.execution,
        **configuration.labels,
    }
    description = Description(
        name=specification.algorithm.name,
        version=specification.algorithm.version,
        image=image,
        seconds=limits.seconds,
        step_seconds=configuration.step_seconds,
        memory_bytes=limits.memory_bytes,
        output_bytes=limits.output_bytes,
        log_bytes=limits.log_bytes,
        purpose=specification.algorithm.purpose,
    )
    whole = (
        limits.seconds
        + 2 * configuration.step_seconds
        + configuration.seconds_for_room(specification.algorithm.purpose)
        + configuration.image_seconds
        + SPARE_SECONDS
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": specification.name,
            "namespace": configuration.namespace,
            "labels": labels,
            "annotations": {DESCRIPTION: description.model_dump_json()},
        },
        "spec": {
            "suspend": True,
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(whole),
            "ttlSecondsAfterFinished": configuration.ttl_seconds,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onPodConditions": [{"type": TAKEN_AWAY, "status": "True"}]},
                    *(
                        {
                            "action": "FailJob",
                            "onExitCodes": {"containerName": step, "operator": "NotIn", "values": [0]},
                        }
                        for step in ("fetch", "algorithm", "publish")
                    ),
                ]
            },
            "template": {
                "metadata": {
                    "labels": labels,
                    # An autoscaler must not take the node from under a run to save it.
                    "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
                },
                "spec": _pod(specification, configuration, address, image),
            },
        },
    }


def secret(specification: JobSpecification, configuration: LauncherConfiguration, uid: str) -> dict[str, Any]:
    """The Secret with the tokens of the steps; it goes when the Job of this uid goes."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": specification.name,
            "namespace": configuration.namespace,
            "labels": {"app.kubernetes.io/part-of": "insitu", EXECUTION: specification.execution},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": specification.name, "uid": uid}],
        },
        "immutable": True,
        "type": "Opaque",
        "stringData": {"fetch": specification.fetch_token, "publish": specification.publish_token},
    }


def gateway_host(url: str) -> str | None:
    """The host name in the gateway's URL that pods cannot look up; None where it is an address."""
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return None


def _pod(
    specification: JobSpecification, configuration: LauncherConfiguration, address: str | None, image: str
) -> dict[str, Any]:
    host = gateway_host(specification.gateway_url)
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostname": "algorithm",
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},  # nobody answers there: the pod has no names to look up
        "terminationGracePeriodSeconds": configuration.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,  # a volume of its own belongs to root otherwise
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [
            *configuration.tolerations,
            *(
                {
                    "key": f"node.kubernetes.io/{what}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": configuration.node_lost_seconds,
                }
                for what in ("not-ready", "unreachable")
            ),
        ],
        "initContainers": [
            _step("fetch", specification, configuration),
            _algorithm(specification, configuration, image),
        ],
        "containers": [_step("publish", specification, configuration)],
        "volumes": _volumes(specification, configuration),
    }
    if host is not None and address is not None:
        pod["hostAliases"] = [{"ip": address, "hostnames": [host]}]
    training = specification.algorithm.purpose == "training"
    optional = {
        "nodeSelector": configuration.node_selector,
        "runtimeClassName": configuration.runtime_class,
        "priorityClassName": configuration.training_priority_class if training else configuration.priority_class,
        "imagePullSecrets": [{"name": name} for name in configuration.image_pull_secrets],
    }
    return pod | {name: value for name, value in optional.items() if value}


def _container(name: str, image: str, configuration: LauncherConfiguration) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": configuration.image_pull_policy,
        # A step's report or, where it left none, the end of its log becomes part of the pod's status.
        "terminationMessagePath": REPORT,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _step(step: str, specification: JobSpecification, configuration: LauncherConfiguration) -> dict[str, Any]:
    variables = {
        "LANG": "C.UTF-8",
        "HOME": WORK,
        "TMPDIR": WORK,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "INSITU_GATEWAY": specification.gateway_url,
        "INSITU_EXECUTION": specification.execution,
        "INSITU_STEP_TOKEN_FILE": f"{TOKENS}/token",
        "INSITU_WORK": WORK,
        "INSITU_REPORT": REPORT,
        "INSITU_OUTPUT_BYTES": str(specification.limits.output_bytes),
        **(
            {"INSITU_PARAMETERS": "/parameters/parameters.json", "INSITU_CLOSED": f"/parameters/closed/{MESSAGE}"}
            if step == "fetch"
            else {}
        ),
    }
    mounts: list[dict[str, Any]] = [
        {"name": f"{step}-work", "mountPath": WORK},
        {"name": f"{step}-token", "mountPath": TOKENS, "readOnly": True},
    ]
    if step == "fetch":
        mounts += [
            {"name": "source", "mountPath": f"{WORK}/source"},
            {"name": "input", "mountPath": f"{WORK}/input"},
            {"name": "parameters", "mountPath": "/parameters"},
        ]
    else:
        mounts += [
            {"name": name, "mountPath": f"{WORK}/{name}", "readOnly": True} for name in ("source", "input", "output")
        ]
    asked: StepResources = configuration.steps
    training = specification.algorithm.purpose == "training"
    cpu = (
        _cpu_request(specification, configuration) if training else asked.cpu_request
    )  # the largest counts for the pod
    return _container(step, configuration.step_image, configuration) | {
        "command": [configuration.step_python, "-P", "-m", f"insitu.runs.steps.{step}"],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "volumeMounts": mounts,
        "resources": {
            "requests": {"cpu": cpu, "memory": asked.memory_request},
            "limits": {"cpu": asked.cpu_limit, "memory": asked.memory_limit},
        },
    }


def _algorithm(specification: JobSpecification, configuration: LauncherConfiguration, image: str) -> dict[str, Any]:
    limits = specification.limits
    variables = {
        "LANG": "C.UTF-8",
        "HOME": "/scratch",
        "TMPDIR": "/tmp",  # noqa: S108  # of the container
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "INSITU_INPUT": "/input",
        "INSITU_OUTPUT": "/output",
        "INSITU_PARAMETERS": "/parameters.json",
        **{name: str(limits.cpu) for name in THREAD_VARIABLES},
    }
    amounts: dict[str, str] = {"cpu": str(limits.cpu), "memory": str(limits.memory_bytes)}
    if limits.gpu:
        amounts[configuration.gpu_resource] = str(limits.gpu)
    return _container("algorithm", image, configuration) | {
        "command": list(specification.algorithm.entrypoint),
        # Where the container does not get at it. The message is the end of its log all the same.
        "terminationMessagePath": f"{CLOSED}/{MESSAGE}",
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "volumeMounts": [
            {"name": "input", "mountPath": "/input", "readOnly": True},
            # Made by fetch before this container starts: a single file can only be mounted where it is there.
            {
                "name": "parameters",
                "mountPath": "/parameters.json",
                "subPath": "parameters.json",
                "readOnly": True,
            },
            # Made by fetch too, without any permission; being read-only it stays so, although its owner is this container's user.
            {"name": "parameters", "mountPath": CLOSED, "subPath": "closed", "readOnly": True},
            {"name": "output", "mountPath": "/output"},
            {"name": "scratch", "mountPath": "/scratch"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # of the container
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  # of the container
        ],
        "resources": {
            "requests": amounts | {"cpu": _cpu_request(specification, configuration)},
            "limits": amounts,
        },
    }


def _cpu_request(specification: JobSpecification, configuration: LauncherConfiguration) -> str:
    training = specification.algorithm.purpose == "training"
    share = configuration.training_cpu_request_share if training else configuration.cpu_request_share
    return f"{specification.limits.cpu * share:g}"


def _volumes(specification: JobSpecification, configuration: LauncherConfiguration) -> list[dict[str, Any]]:
    limits = specification.limits
    folders = {
        "source": None,
        "input": None,
        "parameters": SMALL,
        "fetch-work": None,
        "publish-work": None,
        "output": limits.output_bytes,
        "tmp": configuration.scratch.bytes,
    }
    volumes: list[dict[str, Any]] = [
        {"name": name, "emptyDir": {} if size is None else {"sizeLimit": str(size)}} for name, size in folders.items()
    ]
    volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(limits.memory_bytes)}})
    volumes.append({"name": "scratch", **_scratch(configuration)})
    for step in ("fetch", "publish"):
        items = [{"key": step, "path": "token"}]
        volumes.append(
            {
                "name": f"{step}-token",
                "secret": {"secretName": specification.name, "items": items, "defaultMode": 0o444},
            }
        )
    return volumes


def _scratch(configuration: LauncherConfiguration) -> dict[str, Any]:
    scratch = configuration.scratch
    if scratch.volume_above_bytes is None or scratch.bytes <= scratch.volume_above_bytes:
        return {"emptyDir": {"sizeLimit": str(scratch.bytes)}}
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": str(scratch.bytes)}},
    }
    if scratch.storage_class is not None:
        claim["storageClassName"] = scratch.storage_class
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def description(job: dict[str, Any]) -> Description:
    """What a Job says about itself."""
    return Description.model_validate(json.loads(job["metadata"]["annotations"][DESCRIPTION]))
