"""The job of an execution as the tasks see it: the launcher of this installation and the job's specification.

Not here: launchers (insitu.runs.launch).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .platform_client import JOBS

if TYPE_CHECKING:
    from insitu.runs.launch.specification import JobSpecification, Launcher


def launcher() -> Launcher:
    """The launcher that carries out jobs here."""
    from insitu.runs.launch.process import ProcessLauncher

    return ProcessLauncher(Path(os.environ[JOBS]))


def specification(prepared: dict[str, Any]) -> JobSpecification:
    """The specification in the platform's answer to prepare."""
    from insitu.runs.launch.specification import JobSpecification

    return JobSpecification.model_validate(prepared)
