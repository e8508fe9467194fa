"""The runner: a detached process that carries out one job, step by step, and writes down how it went.

`python -m insitu.runs.launch.runner FOLDER LOCK_DESCRIPTOR`, started by the process launcher, which hands over the
held lock. It outlives its launcher; whoever wants to know reads `status.json`. Single-threaded on purpose.

Not here: what a step does (insitu.runs.steps), what its end means (insitu.runs.outcomes), isolation.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from insitu.runs.outcomes import Verdict

    from .specification import AlgorithmPackage, JobSpecification
    from .stepprocess import StepProcess

STEP_SECONDS = 900.0  # for fetch and for publish
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)  # fmt: skip


class Runner:
    """Carries out the job of a folder.

    Parameters
    ----------
    folder : pathlib.Path
        The job's folder, with `specification.json`.
    """

    def __init__(self, folder: Path) -> None:
        from .specification import JobSpecification

        self.folder = folder
        self.work = folder / "work"
        self.specification: JobSpecification = JobSpecification.model_validate_json(
            (folder / "specification.json").read_bytes()
        )
        self.steps: list[dict[str, Any]] = []
        self.isolation: str | None = None
        self.peak = 0
        self.publish: StepProcess | None = None

    def run(self) -> None:
        """Carry out the job to its end; the outcome stands in `status.json` then."""
        from insitu.runs.outcomes import Failure, Verdict

        self._write_status()
        try:
            verdict = self._carry_out()
        except Exception as error:  # noqa: BLE001  # whatever broke, the job must have an outcome
            import traceback

            traceback.print_exc()
            verdict = Verdict(Failure.RUNNER_LOST, f"The runner of this job broke ({type(error).__name__}): {error}")
        self._end_everything()
        self._write_status(self._outcome(verdict))

    def _outcome(self, verdict: Verdict | None) -> dict[str, Any]:
        state = "succeeded" if verdict is None else "cancelled" if verdict.failure == "cancelled" else "failed"
        return {
            "state": state,
            "failure": None if verdict is None else str(verdict.failure),
            "reason": None if verdict is None else verdict.reason,
            "steps": self.steps,
            "isolation": self.isolation,
            "peak_memory_bytes": self.peak or None,
        }

    def _carry_out(self) -> Verdict | None:
        for name in ("source", "input", "output", "scratch/tmp", "scratch/shm", "rejected"):
            (self.work / name).mkdir(parents=True, exist_ok=True)
        refusal = self._refusal()
        if refusal is not None:
            return refusal
        from .stepprocess import StepProcess

        fetch = StepProcess("fetch", *self._platform_step("fetch"), self.folder, self.specification.limits.log_bytes)
        verdict = self._platform_verdict(fetch)
        if verdict is not None:
            return verdict
        # Importing what publish needs takes longer than many an algorithm: it begins now and waits for its word.
        self.publish = StepProcess(
            "publish", *self._platform_step("publish"), self.folder, self.specification.limits.log_bytes, waits=True
        )
        verdict = self._algorithm_verdict()
        if verdict is not None:
            return verdict
        return self._platform_verdict(self.publish)

    def _refusal(self) -> Verdict | None:
        from insitu.runs.outcomes import Failure, Verdict

        from . import isolation

        package = self.specification.algorithm
        if not package.location.is_dir():
            return Verdict(
                Failure.ENVIRONMENT_MISSING, f"The package of {package.name} {package.version} is not there any more"
            )
        if not (environment(self.specification) / "bin" / "python").exists():
            return Verdict(
                Failure.ENVIRONMENT_MISSING,
                f"The Python environment of {package.name} {package.version} is not there; install the package again",
            )
        report = isolation.probe()
        hidden = not isolation.under_system(self.folder)
        self.isolation = report.kind if hidden else "none"
        if self.isolation == "none" and not package.trusted:
            why = report.why if hidden else "the job's folder is below a folder of the system"
            return Verdict(
                Failure.NOT_ISOLATED,
                f"{package.name} {package.version} is not a trusted package and this machine cannot isolate it ({why})",
            )
        return None

    def _platform_step(self, step: str) -> tuple[list[str], dict[str, str], Path]:
        specification = self.specification
        variables = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self.work / "scratch"),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "INSITU_JOB": specification.name,
            "INSITU_GATEWAY": specification.gateway_url,
            "INSITU_EXECUTION": specification.execution,
            "INSITU_STEP_TOKEN": specification.fetch_token if step == "fetch" else specification.publish_token,
            "INSITU_WORK": str(self.work),
            "INSITU_OUTPUT_BYTES": str(specification.limits.output_bytes),
        }
        wait = ["--wait"] if step == "publish" else []
        return [str(specification.python), "-P", "-m", f"insitu.runs.steps.{step}", *wait], variables, self.work

    def _platform_verdict(self, process: StepProcess) -> Verdict | None:
        from insitu.runs import outcomes

        from .stepprocess import Bounds

        record = self._begin(process.name)
        process.go()
        end = process.supervise(Bounds(STEP_SECONDS), self._cancel_asked)
        self._finish(record, end.exit_code)
        report = _json(self.work / f"{process.name}.json")
        return outcomes.judge_step(process.name, end.ended, end.exit_code, report, end.tail)

    def _algorithm_verdict(self) -> Verdict | None:
        from insitu.runs import outcomes

        from . import isolation
        from .stepprocess import Bounds, StepProcess

        limits = self.specification.limits
        enclosure, variables = self._enclosure()
        kind: Any = self.isolation
        record = self._begin("algorithm")
        process = StepProcess(
            "algorithm",
            isolation.command(kind, enclosure),
            variables,
            Path("/") if kind != "none" else self.specification.algorithm.location,
            self.folder,
            limits.log_bytes,
            largest_file=limits.output_bytes,
        )
        bounds = Bounds(
            limits.seconds, limits.memory_bytes, limits.output_bytes, (self.work / "output", self.work / "scratch"),
            left_out=() if self.publish is None else (self.publish.pid,),
            aside=self.specification.algorithm.purpose == "training",
        )  # fmt: skip
        end = process.supervise(bounds, self._cancel_asked)
        self.peak = end.peak_memory
        self._finish(record, end.exit_code)
        return outcomes.judge_algorithm(
            end.ended,
            end.exit_code,
            seconds=limits.seconds,
            memory_bytes=limits.memory_bytes,
            output_bytes=limits.output_bytes,
            peak_memory_bytes=end.peak_memory,
            log_tail=end.tail,
        )

    def _enclosure(self) -> tuple[Any, dict[str, str]]:
        from . import isolation

        package: AlgorithmPackage = self.specification.algorithm
        python = environment(self.specification)
        inside = self.isolation != "none"
        places = {name: f"/{name}" if inside else str(self.work / name) for name in ("input", "output", "scratch")}
        parameters = "/parameters.json" if inside else str(self.work / "parameters.json")
        variables = {
            "PATH": f"{python}/bin:{isolation.FIXED_PATH}",
            "LANG": "C.UTF-8",
            "HOME": places["scratch"],
            "TMPDIR": "/tmp" if inside else str(self.work / "scratch" / "tmp"),  # noqa: S108  # of the enclosure
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "INSITU_INPUT": places["input"],
            "INSITU_OUTPUT": places["output"],
            "INSITU_PARAMETERS": parameters,
            **{name: str(self.specification.limits.cpu) for name in THREAD_VARIABLES},
        }
        binds, links = isolation.python_view(python)
        enclosure = isolation.Enclosure(
            command=package.entrypoint,
            environment=variables,
            working_folder="/package",
            read_only=(
                *binds,
                (package.location, "/package"),
                (self.work / "input", "/input"),
                (self.work / "parameters.json", "/parameters.json"),
            ),
            writable=(
                (self.work / "output", "/output"),
                (self.work / "scratch", "/scratch"),
                (self.work / "scratch" / "tmp", "/tmp"),  # noqa: S108  # of the enclosure
                (self.work / "scratch" / "shm", "/dev/shm"),  # noqa: S108  # of the enclosure
            ),
            links=tuple(links),
        )
        marker = {"INSITU_JOB": self.specification.name}
        return enclosure, marker | ({"PATH": isolation.FIXED_PATH} if inside else variables)

    def _cancel_asked(self) -> bool:
        return (self.folder / "cancel").exists()

    def _begin(self, step: str) -> dict[str, Any]:
        record: dict[str, Any] = {"name": step, "started_at": time.time(), "finished_at": None, "exit_code": None}
        self.steps.append(record)
        self._write_status()
        return record

    def _finish(self, record: dict[str, Any], exit_code: int) -> None:
        record.update(finished_at=time.time(), exit_code=exit_code)
        self._write_status()

    def _end_everything(self) -> None:
        from . import processes

        processes.end_all(os.getpid())
        shutil.rmtree(self.work / "scratch", ignore_errors=True)

    def _write_status(self, outcome: dict[str, Any] | None = None) -> None:
        write_json(
            self.folder / "status.json",
            {"version": 1, "pid": os.getpid(), "steps": self.steps, "outcome": outcome},
            durable=outcome is not None,
        )


def environment(specification: JobSpecification) -> Path:
    """Folder of the virtual environment that the algorithm runs in."""
    return specification.algorithm.environment or specification.python.parent.parent


def write_json(file: Path, content: dict[str, Any], *, durable: bool = False) -> None:
    """Replace a file at once: a reader sees the old content or the new, never a part."""
    partial = file.with_name(file.name + ".part")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(content, stream)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    partial.rename(file)


def _json(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def detach() -> None:
    """Leave the process that started this one: a child goes on in a session of its own, this process ends."""
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def main() -> None:
    """Carry out the job of the folder on the command line, detached, holding the lock that was handed over."""
    folder, lock = Path(sys.argv[1]), int(sys.argv[2])
    detach()
    os.set_inheritable(lock, False)
    from . import processes

    processes.adopt_orphans()
    Runner(folder).run()


if __name__ == "__main__":
    main()
