"""ConcludeOperator: tells the platform how the job of an execution ended, with its logs, and removes what is left of it.

It asks the launcher, not the task before it: so an outcome is told also where that task was lost. Mostly that task has
told it already, which saves the time Airflow takes between two tasks; then this one only tidies up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, TriggerRule
from airflow.sdk.exceptions import AirflowFailException

from .jobs import launcher, tell
from .platform_client import PlatformClient, PlatformError

if TYPE_CHECKING:
    from insitu.runs.launch.specification import JobOutcome, Launcher

CANCEL_SECONDS = 30.0  # for a job that still runs although its task has failed


class ConcludeOperator(BaseOperator):
    """Conclude an execution, whatever became of the tasks before.

    Parameters
    ----------
    execution : str
        Identifier of the execution; templated.
    """

    template_fields: Sequence[str] = ("execution",)

    def __init__(self, *, execution: str, trigger_rule: str = TriggerRule.ALL_DONE, **options: Any) -> None:
        super().__init__(trigger_rule=trigger_rule, **options)
        self.execution = execution

    def execute(self, context: Any) -> None:
        """Tell the outcome; the task, and with it the DAG run, fails where the job did."""
        from insitu.runs.launch.specification import job_names

        launch = launcher()
        job, outcome = self._last(launch)
        try:
            state = tell(PlatformClient.from_environment(), self.execution, launch, job, outcome)
        except PlatformError as error:
            raise AirflowFailException(
                f"The platform does not take the outcome of {self.execution}: {error}"
            ) from error
        names = job_names(self.execution)
        for name in reversed(names[: names.index(job) + 1]):
            launch.remove(name)
        if state != "succeeded":
            raise AirflowFailException(f"{self.execution} {state}: {outcome.reason or outcome.failure or ''}")

    def _last(self, launch: Launcher) -> tuple[str, JobOutcome]:
        """The job of the last attempt that was made, and its outcome."""
        from insitu.errors import NotFound
        from insitu.runs.launch.specification import job_names

        first, *others = job_names(self.execution)
        for name in reversed(others):
            try:
                launch.wait(name, 0.0)
            except NotFound:
                continue
            return name, self._outcome(launch, name)
        return first, self._outcome(launch, first)

    def _outcome(self, launch: Launcher, job: str) -> JobOutcome:
        from insitu.errors import NotFound
        from insitu.runs.launch.specification import JobOutcome

        try:
            outcome = launch.wait(job, 0.0)
            if outcome is None:
                self.log.warning("job %s still runs without a task: cancelling it", job)
                launch.cancel(job)
                outcome = launch.wait(job, CANCEL_SECONDS)
        except NotFound:
            outcome = JobOutcome(
                state="failed", failure="engine-lost", reason="The job was never started, or its folder is gone"
            )
        return outcome or JobOutcome(
            state="failed",
            failure="engine-lost",
            reason="The job was left without a task and did not end when asked to",
        )
