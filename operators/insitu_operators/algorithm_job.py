"""AlgorithmJobOperator: launches the job of an execution and stays with it until it ends.

How the job ends is no matter of Airflow: a failed algorithm is not a failed task, its outcome is told to the platform.
A retry or a second try after a lost scheduler only attaches to the same job again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from .jobs import launcher, specification, tell
from .platform_client import PlatformClient, PlatformError, PlatformUnavailable

if TYPE_CHECKING:
    from insitu.runs.launch.specification import JobOutcome, JobSpecification, Launcher

LOOK_EVERY = 1.0  # seconds; the launcher answers at once when the job ends
SIGN_EVERY = 2.0  # seconds between two signs of life; also the longest wait until a wish to cancel is seen
ACTIVE = ("submitted", "running")  # states of an execution that may go on


class AlgorithmJobOperator(BaseOperator):
    """Run the job of an execution.

    Parameters
    ----------
    execution : str
        Identifier of the execution; templated.
    """

    template_fields: Sequence[str] = ("execution",)

    def __init__(self, *, execution: str, **options: Any) -> None:
        super().__init__(**options)
        self.execution = execution
        self._job: str | None = None

    def execute(self, context: Any) -> None:
        """Launch the job or attach to it, tell its stages, carry a wish to cancel to it, return when it has ended."""
        platform = PlatformClient.from_environment()
        try:
            job = specification(platform.prepare(self.execution))
        except PlatformError as error:
            raise AirflowFailException(f"The platform does not prepare {self.execution}: {error}") from error
        launch = launcher()
        while True:
            outcome = self._carry_out(platform, launch, job)
            again = launch.next_attempt(job, outcome)
            if again is None:
                break
            self.log.info("job %s ended by %s: another attempt can help", job.name, outcome.failure)
            self._tell_attempt(platform, again, outcome)
            if again.name == job.name:  # it made room for others and begins anew
                launch.remove(job.name)
                self._prepare(platform)  # its tokens last for the time of its attempts only
            job = again
        try:
            tell(platform, self.execution, launch, job.name, outcome)
        except (PlatformError, PlatformUnavailable) as error:
            self.log.warning("the outcome is not told yet: %s", error)

    def _prepare(self, platform: PlatformClient) -> None:
        try:
            platform.prepare(self.execution)
        except (PlatformError, PlatformUnavailable) as error:  # then its first sign of life tells what became of it
            self.log.warning("the tokens are not renewed: %s", error)

    def _carry_out(self, platform: PlatformClient, launch: Launcher, job: JobSpecification) -> JobOutcome:
        """Launch a job or attach to it, and stay with it until it ends."""
        self._job = job.name
        launch.launch(job)
        self.log.info("attached to job %s", job.name)
        stages: list[str] = []
        signed = 0.0
        while True:
            outcome = launch.wait(job.name, LOOK_EVERY, on_stage=stages.append)
            if stages or time.monotonic() - signed >= SIGN_EVERY:
                signed = time.monotonic()
                self._sign(platform, launch, job.name, stages)
            if outcome is not None:
                self.log.info("job %s ended: %s", job.name, outcome.state)
                return outcome

    def _tell_attempt(self, platform: PlatformClient, job: JobSpecification, before: JobOutcome) -> None:
        """Write into the history of the run why it is tried once more; a repeat after a lost scheduler writes it again."""
        detail = {"job": job.name, "memory": job.limits.memory_bytes, "why": before.failure, "reason": before.reason}
        try:
            platform.stage(self.execution, "attempt", detail)
        except (PlatformError, PlatformUnavailable) as error:
            self.log.warning("the next attempt is not told: %s", error)

    def _sign(self, platform: PlatformClient, launch: Launcher, job: str, stages: list[str]) -> None:
        """Give a sign of life with the stages that were reached; cancel the job where nobody wants it any more."""
        try:
            while True:
                answer = platform.stage(self.execution, stages[0] if stages else None)
                if stages:
                    stages.pop(0)
                if not stages:
                    break
        except PlatformUnavailable as error:
            self.log.warning("the platform does not answer, the job goes on: %s", error)
            return
        except PlatformError as error:
            self.log.error("the platform refuses the sign of life, the job goes on: %s", error)
            return
        if answer["cancel_asked"] or answer["state"] not in ACTIVE:
            self.log.info("cancelling job %s", job)
            launch.cancel(job)

    def on_kill(self) -> None:
        """Cancel the job where the platform no longer wants it.

        Airflow also ends a task because the machine stops, or because a second try took over: then the job goes on.
        """
        if self._job is None:
            return
        try:
            answer = PlatformClient.from_environment().stage(self.execution)
        except (PlatformError, PlatformUnavailable):
            return
        if answer["cancel_asked"] or answer["state"] not in ACTIVE:
            launcher().cancel(self._job)
