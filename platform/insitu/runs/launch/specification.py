"""What a job is and how it ended, and the seam `Launcher` that carries jobs out (process, Kubernetes).

Standard library and pydantic only, because the workflow engine's environment imports it too.
Not here: how a job is carried out (process, runner).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

STEPS = ("fetch", "algorithm", "publish")
ATTEMPTS = 2  # at most; a second one only where it can help


def job_name(execution: str, attempt: int = 1) -> str:
    """Name of the job of an attempt at an execution."""
    return f"run-{execution}-{attempt}"


def job_names(execution: str) -> tuple[str, ...]:
    """Names that the jobs of an execution can have, in the order of its attempts."""
    return tuple(job_name(execution, attempt) for attempt in range(1, ATTEMPTS + 1))


class Limits(BaseModel):
    """What a job may use at most; more ends it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float = Field(gt=0, description="Of the algorithm step.")
    memory_bytes: int = Field(gt=0, description="Of all processes of the algorithm together.")
    log_bytes: int = Field(default=10_000_000, ge=1000, description="Of the log of each step.")
    output_bytes: int = Field(default=4_000_000_000, gt=0, description="Of the algorithm's output and scratch folders.")
    cpu: int = Field(default=1, ge=1, description="Threads the algorithm is told to use.")
    gpu: int = Field(default=0, ge=0, description="GPUs of the algorithm step; known to the cluster's launcher only.")


class AlgorithmPackage(BaseModel):
    """The installed package that a job runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str
    digest: str = Field(description="sha256:... of the package.")
    location: Path = Field(description="Folder of the installed package.")
    entrypoint: tuple[str, ...] = Field(min_length=1, description="Command; `python` is that of the environment.")
    environment: Path | None = Field(
        None, description="Folder of its virtual environment; None: the platform's Python."
    )
    trusted: bool = Field(default=False, description="May run where it cannot be isolated.")
    image: str | None = Field(
        default=None, description="Image of the package by digest; the cluster runs nothing else."
    )
    purpose: Literal["inference", "training"] = Field(
        default="inference", description="A training gives way to inference."
    )


class JobSpecification(BaseModel):
    """Everything a launcher needs to carry out one attempt at an execution. Holds secrets: the step tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Deterministic: run-EXECUTION-ATTEMPT.")
    execution: str
    gateway_url: str
    fetch_token: str = Field(repr=False)
    publish_token: str = Field(repr=False)
    algorithm: AlgorithmPackage
    limits: Limits
    python: Path = Field(description="The platform's Python, which runs fetch and publish.")


class StepRecord(BaseModel):
    """One step as it went. Times are seconds since the epoch."""

    model_config = ConfigDict(extra="forbid")

    name: str
    started_at: float
    finished_at: float | None = None
    exit_code: int | None = None


class JobOutcome(BaseModel):
    """How a job ended. `failure` is a kind of `insitu.runs.outcomes`, `reason` one sentence for a person."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["succeeded", "failed", "cancelled"]
    failure: str | None = None
    reason: str | None = None
    steps: list[StepRecord] = []
    isolation: str | None = Field(default=None, description="bubblewrap, namespaces, none or, in a cluster, container.")
    peak_memory_bytes: int | None = None


OnStage = Callable[[str], None]


class Launcher(Protocol):
    """Carries jobs out. A job outlives the process that launched it; any process can attach to it by its name."""

    def launch(self, specification: JobSpecification) -> None:
        """Start the job, unless one of this name was started before (then nothing happens)."""

    def next_attempt(self, specification: JobSpecification, outcome: JobOutcome) -> JobSpecification | None:
        """The job of another attempt that can end better than this one did; None where there is no such.

        One of the same name does not count as another attempt: what is left of this job is to be removed first.
        """

    def wait(self, name: str, timeout: float, on_stage: OnStage | None = None) -> JobOutcome | None:
        """The outcome, or None if the job still runs after `timeout` seconds.

        `on_stage` is called once per Launcher object with the name of each step that began.
        """

    def cancel(self, name: str) -> None:
        """Ask the job to end; `wait` then gives an outcome with state `cancelled`. No-op for one that has ended."""

    def log(self, name: str, step: str) -> str:
        """The log of a step so far; empty where the step has not begun."""

    def remove(self, name: str) -> None:
        """Remove what is left of a job that has ended."""
