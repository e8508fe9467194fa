"""How a step tells its end: a small JSON file {failure, reason} and its exit status; a sentence in the log.

In a cluster the file that INSITU_REPORT names, which becomes part of the pod's status, gets the same.

Not here: what becomes of the run (insitu.runs.outcomes).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from insitu.runs.outcomes import Failure

REASON_CHARACTERS = 1000  # a pod's status holds 4096 bytes of a report


class StepFailed(Exception):
    """The step cannot do its work.

    Parameters
    ----------
    failure : Failure
    reason : str
        One sentence for a person, without patient data.
    """

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure
        self.reason = reason


def work_folder() -> Path:
    """The job's work folder, from the environment."""
    return Path(os.environ["INSITU_WORK"])


def carry_out(step: str, action: Callable[[], None]) -> int:
    """Do the work of a step, write `STEP.json` in the work folder, return the exit status."""
    other = Failure.FETCH_FAILED if step == "fetch" else Failure.PUBLISH_FAILED
    content: dict[str, str | None] = {"failure": None, "reason": None}
    try:
        action()
    except StepFailed as error:
        content = {"failure": str(error.failure), "reason": error.reason}
    except Exception as error:  # noqa: BLE001  # whatever broke, the run must learn that this step failed
        traceback.print_exc()
        # Not the error's own text: it could hold a value of the image's header.
        content = {"failure": str(other), "reason": f"The step {step} broke with {type(error).__name__}; see its log"}
    if content["reason"]:
        content["reason"] = content["reason"][:REASON_CHARACTERS]
        print(content["reason"], file=sys.stderr)
    text = json.dumps(content)
    (work_folder() / f"{step}.json").write_text(text)
    if "INSITU_REPORT" in os.environ:
        Path(os.environ["INSITU_REPORT"]).write_text(text)
    return 0 if content["failure"] is None else 1
