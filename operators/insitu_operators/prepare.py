"""PrepareOperator: has the platform prepare the job of an execution, and finds out early where it cannot.

Its answer holds tokens, so it goes nowhere: the operator that launches the job asks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from .platform_client import PlatformClient, PlatformError


class PrepareOperator(BaseOperator):
    """Prepare an execution.

    Parameters
    ----------
    execution : str
        Identifier of the execution; templated.
    """

    template_fields: Sequence[str] = ("execution",)

    def __init__(self, *, execution: str, **options: Any) -> None:
        super().__init__(**options)
        self.execution = execution

    def execute(self, context: Any) -> None:
        """Ask the platform to prepare. A refusal is final: asking again would not change it."""
        try:
            PlatformClient.from_environment().prepare(self.execution)
        except PlatformError as error:
            raise AirflowFailException(f"The platform does not prepare {self.execution}: {error}") from error
