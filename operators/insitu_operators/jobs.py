"""The job of an execution as the tasks see it: the launcher of this installation and the job's specification.

Not here: launchers (insitu.runs.launch).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .platform_client import JOBS, PlatformClient

if TYPE_CHECKING:
    from insitu.runs.launch.specification import JobOutcome, JobSpecification, Launcher


def launcher() -> Launcher:
    """The launcher that carries out jobs here."""
    from insitu.runs.launch.choice import launcher_for

    return launcher_for(Path(os.environ.get(JOBS, "")))


def specification(prepared: dict[str, Any]) -> JobSpecification:
    """The specification in the platform's answer to prepare."""
    from insitu.runs.launch.specification import JobSpecification

    return JobSpecification.model_validate(prepared)


def tell(platform: PlatformClient, execution: str, launch: Launcher, job: str, outcome: JobOutcome) -> str:
    """Tell the platform how a job ended, with its logs; the state the execution is in then. A repeat changes nothing."""
    from insitu.runs.launch.specification import STEPS

    logs = {step: launch.log(job, step) for step in STEPS}
    told = {step: text for step, text in logs.items() if text}
    return str(platform.conclude(execution, outcome.model_dump(mode="json"), told)["state"])
