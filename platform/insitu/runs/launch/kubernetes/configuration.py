"""What a site says about its algorithm pods: one YAML file, named by the environment variable INSITU_LAUNCHER_FILE."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from insitu.errors import Invalid

FILE_VARIABLE = "INSITU_LAUNCHER_FILE"


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Service(_Closed):
    """A Service of the cluster."""

    namespace: str
    name: str


class Scratch(_Closed):
    """The algorithm's scratch folder: on the node's disk, or on a volume of its own where it may be large."""

    bytes: int = Field(default=20_000_000_000, gt=0, description="Largest scratch folder.")
    volume_above_bytes: int | None = Field(
        default=None, gt=0, description="From this size on it is a volume of its own; None: always the node's disk."
    )
    storage_class: str | None = Field(default=None, description="Of that volume; None: the cluster's default.")


class StepResources(_Closed):
    """What fetch and publish ask for and may use at most."""

    cpu_request: str = "250m"
    cpu_limit: str = "2"
    memory_request: str = "512Mi"
    memory_limit: str = "2Gi"


class LauncherConfiguration(_Closed):
    """Everything the launcher needs to know of its cluster. Namespace and step image have no default."""

    namespace: str = Field(description="Of the algorithm pods.")
    step_image: str = Field(description="Image of fetch and publish, by digest.")
    step_python: str = Field(default="python", description="Python in the step image.")
    kubeconfig: Path | None = Field(default=None, description="None: the service account of the launcher's own pod.")
    gateway_service: Service | None = Field(
        default=None, description="Its address is given to fetch and publish for the host name of the gateway's URL."
    )
    gateway_address: str | None = Field(default=None, description="That address itself, where it is no Service's.")
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    runtime_class: str | None = None
    priority_class: str | None = None
    training_priority_class: str | None = Field(
        default=None, description="Of the pods of trainings; below that of the others, so that these take their place."
    )
    image_pull_secrets: list[str] = []
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    labels: dict[str, str] = Field(default={}, description="More labels of Job and pod.")
    gpu_resource: str = "nvidia.com/gpu"
    cpu_request_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Part of the algorithm's cores that its pod asks for; 1 keeps them free for it, less lets more pods share a node.",
    )
    training_cpu_request_share: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="The same for a training. Nodes divide the processors' time by what pods ask for, so it gets what others leave.",
    )
    memory_cap: int | None = Field(
        default=None, gt=0, description="Bytes up to which an algorithm that ran out of memory gets more, once."
    )
    scratch: Scratch = Scratch()
    steps: StepResources = StepResources()
    step_seconds: float = Field(default=900, gt=0, description="For fetch and for publish.")
    unschedulable_seconds: float = Field(default=600, ge=0, description="A pod may wait so long for room on a node.")
    training_unschedulable_seconds: float = Field(
        default=86_400, ge=0, description="The pod of a training, which others may put off, may wait so long."
    )
    image_seconds: float = Field(
        default=120, ge=0, description="The pull of an image may fail again and again so long."
    )
    node_lost_seconds: int = Field(
        default=60, ge=0, description="A node may be away so long before its run is given up."
    )
    grace_seconds: int = Field(default=2, ge=0, description="Between SIGTERM and SIGKILL.")
    ttl_seconds: int = Field(
        default=86_400, ge=0, description="A Job that ended and that nobody removed stays so long."
    )

    def seconds_for_room(self, purpose: str) -> float:
        """How long a pod may wait for room on a node."""
        return self.training_unschedulable_seconds if purpose == "training" else self.unschedulable_seconds


def load_configuration(file: Path) -> LauncherConfiguration:
    """The configuration in a YAML file.

    Raises
    ------
    Invalid
        The file cannot be read or says something else than the model allows.
    """
    try:
        content = yaml.safe_load(file.read_text())
        return LauncherConfiguration.model_validate(content)
    except (OSError, yaml.YAMLError) as error:
        raise Invalid("The launcher's configuration cannot be read", value=str(file), why=str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Invalid(
            "The launcher's configuration is wrong", value=str(file), why=f"{place}: {first['msg']}"
        ) from error
