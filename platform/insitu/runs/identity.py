"""What makes two requests the same run: the digest of everything that can change the result.

Not here: the executions of a run (insitu.runs.executions).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class RunInput(BaseModel):
    """One input series of a run, in the revision whose content the digest names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # of the input in the algorithm's manifest
    series_instance_uid: str
    revision: int
    content_digest: str  # hexadecimal, of the series revision


def run_identity(
    project: str, algorithm_digest: str, publish_version: str, inputs: list[RunInput], parameters: dict[str, Any]
) -> str:
    """SHA-256, hexadecimal, over project, algorithm, version of publish, input content and parameters (RUN-6).

    The revision number and the order of the inputs do not count: the same content is the same input.
    """
    canonical = {
        "project": project,
        "algorithm": algorithm_digest,
        "publish": publish_version,
        "inputs": sorted([item.name, item.series_instance_uid, item.content_digest] for item in inputs),
        "parameters": parameters,
    }
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def execution_id(identity: str, number: int) -> str:
    """Identifier of the `number`-th execution of a run; dag run id, job name and result UIDs derive from it."""
    return f"{identity[:20]}-{number}"
