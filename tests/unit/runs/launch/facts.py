"""Jobs and pods as the API tells them, for the tests of what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from insitu.runs.launch.kubernetes import manifest
from insitu.runs.launch.kubernetes.configuration import LauncherConfiguration
from insitu.runs.launch.specification import AlgorithmPackage, JobSpecification, Limits

IMAGE = "registry.example/tissue@sha256:" + "1" * 64
STEP_IMAGE = "registry.example/platform@sha256:" + "2" * 64
NOW = 1_800_000_000.0
BEGUN = "2027-01-15T08:00:00Z"  # NOW


def configuration(**changes: Any) -> LauncherConfiguration:
    """Of a site."""
    return LauncherConfiguration(**{"namespace": "algorithms", "step_image": STEP_IMAGE, **changes})


def specification(*, purpose: Literal["inference", "training"] = "inference", **changes: Any) -> JobSpecification:
    """Of a job; `changes` replace limits."""
    return JobSpecification(
        name="run-abc-1-1",
        execution="abc-1",
        gateway_url="http://gateway.insitu.internal:8090",
        fetch_token="the-fetch-token",
        publish_token="the-publish-token",
        algorithm=AlgorithmPackage(
            name="tissue",
            version="1.0.0",
            digest="sha256:0",
            location=Path("/nowhere"),
            entrypoint=("python", "main.py"),
            image=IMAGE,
            purpose=purpose,
        ),
        limits=Limits(**{"seconds": 60, "memory_bytes": 200 * 2**20, "output_bytes": 20_000_000, **changes}),
        python=Path("/nowhere"),
    )


def job(*, purpose: Literal["inference", "training"] = "inference", **status: Any) -> dict[str, Any]:
    """A Job that was released."""
    made = manifest.job(specification(purpose=purpose), configuration(), "10.0.0.1")
    made["metadata"] |= {"uid": "u1", "resourceVersion": "1"}
    made["spec"]["suspend"] = False
    made["status"] = {"startTime": BEGUN, **status}
    return made


def failed(reason: str, message: str = "") -> dict[str, Any]:
    """A Job that failed."""
    return job(conditions=[{"type": "Failed", "status": "True", "reason": reason, "message": message}])


def pod(*, phase: str = "Failed", node: str | None = "node-1", **facts: Any) -> dict[str, Any]:
    """Its pod; `fetch`, `algorithm`, `publish` are the states of the containers, everything else its status."""
    steps = {name: facts.pop(name) for name in ("fetch", "algorithm", "publish") if name in facts}
    return {
        "metadata": {"name": "run-abc-1-1-x", "creationTimestamp": BEGUN, "ownerReferences": [{"uid": "u1"}]},
        "spec": {} if node is None else {"nodeName": node},
        "status": {
            "phase": phase,
            "initContainerStatuses": [
                {"name": name, "state": state} for name, state in steps.items() if name != "publish"
            ],
            "containerStatuses": [{"name": name, "state": state} for name, state in steps.items() if name == "publish"],
            **facts,
        },
    }


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    """State of a container that ended."""
    return {
        "terminated": {
            "exitCode": code, "reason": reason, "message": message, "startedAt": BEGUN, "finishedAt": "2027-01-15T08:00:05Z",
        }
    }  # fmt: skip


DONE = ended(0, "Completed")
RUNNING = {"running": {"startedAt": BEGUN}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """State of a container that waits."""
    return {"waiting": {"reason": reason, "message": message}}


def taken_away(reason: str, message: str = "") -> list[dict[str, Any]]:
    """Conditions of a pod that the cluster takes off its node."""
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]
