"""Run in Airflow's own environment by test_operators.py: `scenarios.py URL TOKEN_FILE JOBS` prints what came of each.

The launcher is scripted except where the name of the execution says `real`; everything else is the shipped code.
"""

import json
import os
import sys
import traceback

url, token_file, jobs = sys.argv[1:]
os.environ |= {"INSITU_ENGINE_URL": url, "INSITU_ENGINE_TOKEN_FILE": token_file, "INSITU_ENGINE_JOBS": jobs}

from airflow.sdk.exceptions import AirflowFailException  # noqa: E402

from insitu.errors import NotFound  # noqa: E402
from insitu.runs.launch.specification import JobOutcome  # noqa: E402
from insitu_operators import algorithm_job, conclude, prepare  # noqa: E402
from insitu_operators import jobs as jobs_module  # noqa: E402

algorithm_job.LOOK_EVERY = 0.05
algorithm_job.SIGN_EVERY = 0.1
conclude.CANCEL_SECONDS = 5.0
real = jobs_module.launcher


class Scripted:
    """Jobs that end after some looks, or when they are cancelled. Kept for all tasks of an execution."""

    def __init__(self):
        self.calls = []
        self.displaced = False
        self.running = {}

    def launch(self, specification):
        self.calls.append(["launch", specification.name])
        self.running.setdefault(specification.name, 4)

    def next_attempt(self, specification, outcome):
        if "displaced" in specification.name and outcome.state == "failed":
            return specification
        if "again" not in specification.name or specification.name.endswith("-2"):
            return None
        limits = specification.limits.model_copy(update={"memory_bytes": 2 * specification.limits.memory_bytes})
        return specification.model_copy(update={"name": specification.name[:-1] + "2", "limits": limits})

    def wait(self, name, timeout, on_stage=None):
        if name not in self.running:
            raise NotFound("There is no such job", value=name)
        left = self.running[name]
        if on_stage and left == 4:
            on_stage("fetch")
        if isinstance(left, str):
            return JobOutcome(state=left, reason=f"it {left}")
        if "endless" not in name:
            self.running[name] = left - 1 if left > 1 else ("failed" if self._fails(name) else "succeeded")
        return None

    def _fails(self, name):
        return "fails" in name or "again-1" in name or ("displaced" in name and not self.displaced)

    def cancel(self, name):
        self.calls.append(["cancel", name])
        self.running[name] = "cancelled"

    def log(self, name, step):
        return f"log of {step}" if step == "fetch" else ""

    def remove(self, name):
        self.calls.append(["remove", name])
        if "displaced" in name:
            self.displaced = self.running.pop(name) == "failed" or self.displaced


def carry_out(execution, scripted, tasks):
    """Run tasks of an execution; how each ended."""
    launcher = real if "real" in execution else (lambda: scripted)
    algorithm_job.launcher = conclude.launcher = launcher
    ends = {}
    for task in tasks:
        operator = {
            "prepare": prepare.PrepareOperator,
            "run": algorithm_job.AlgorithmJobOperator,
            "conclude": conclude.ConcludeOperator,
        }[task.removesuffix(" again").removesuffix(" killed")](task_id="task", execution=execution)
        try:
            if task == "run killed":
                operator._job = f"run-{execution}-1"
                operator.on_kill()
            elif operator.execute({}) is not None:
                ends[task] = "returned something, which Airflow would store"
                continue
            ends[task] = "success"
        except AirflowFailException as error:
            ends[task] = f"fail: {error}"
        except Exception:  # noqa: BLE001  # the test shows it
            ends[task] = traceback.format_exc()
    return ends


EVERYTHING = ("prepare", "run", "conclude")
SCENARIOS = {
    "well": EVERYTHING,
    "fails": EVERYTHING,
    "again": ("prepare", "run", "run again", "conclude"),
    "displaced": EVERYTHING,
    "real": EVERYTHING,
    "away": EVERYTHING,
    "ended": EVERYTHING,
    "unwanted-endless": EVERYTHING,
    "settled-endless": EVERYTHING,
    "attached": ("run", "run again", "conclude"),
    "abandoned-endless": ("conclude",),
    "never": ("conclude",),
    "stopped-endless": ("run killed",),
    "killed-endless": ("run killed",),
}
results = {}
for execution, tasks in SCENARIOS.items():
    scripted = Scripted()
    if execution in ("abandoned-endless", "stopped-endless", "killed-endless"):
        scripted.running[f"run-{execution}-1"] = 3
    results[execution] = {"tasks": carry_out(execution, scripted, tasks), "launcher": scripted.calls}
results["jobs left"] = sorted(os.listdir(jobs))
print("RESULTS " + json.dumps(results))
