"""The launcher of one machine: a job is a folder and a detached runner that holds the folder's lock while it lives.

    FOLDER/lock                 held (flock) by the runner; free means that nobody carries the job out
    FOLDER/specification.json   what to do; holds secrets, mode 0600
    FOLDER/status.json          how it goes, replaced as a whole
    FOLDER/cancel               its existence asks the runner to end
    FOLDER/logs/STEP.log        FOLDER/work/...  files of the steps

Standard library and pydantic only, because the workflow engine's environment imports it too. Not here: the runner.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from insitu.errors import Conflict, Invalid, NotFound, Unavailable
from insitu.runs.outcomes import Failure

from . import processes
from .specification import STEPS, JobOutcome, JobSpecification, OnStage, StepRecord

LOOK_SECONDS = 0.1  # between two looks at the status; the end of the runner is noticed at once
START_SECONDS = 30.0
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class ProcessLauncher:
    """Carries jobs out as processes of this machine. See `Launcher` for the contract.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the jobs.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._reported: dict[str, int] = {}

    def folder(self, name: str) -> Path:
        """Folder of a job."""
        if not name or not set(name) <= NAME_CHARACTERS:
            raise Invalid(
                "This is not the name of a job", value=name, why="letters a to z, digits and - can stand in it"
            )
        return self._root / name

    def launch(self, specification: JobSpecification) -> None:
        """Start the job, unless it was started before.

        Raises
        ------
        Unavailable
            The runner could not be started.
        """
        folder = self.folder(specification.name)
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if self._take_lock(folder, lock) and _status(folder) is None:
                _write_secret(folder / "specification.json", specification.model_dump_json())
                _start(specification.python, folder, lock)
        finally:
            os.close(lock)  # where a runner was started, it holds the same lock on

    def _take_lock(self, folder: Path, lock: int) -> bool:
        # One who waits holds the lock for a moment only; a runner writes its status within moments.
        deadline = time.monotonic() + START_SECONDS
        while not _lock(lock):
            if _status(folder) is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def next_attempt(self, specification: JobSpecification, outcome: JobOutcome) -> JobSpecification | None:
        """None: on the same machine with the same memory an attempt ends as the one before did."""
        return None

    def wait(self, name: str, timeout: float, on_stage: OnStage | None = None) -> JobOutcome | None:
        """The outcome, or None if the job still runs after `timeout` seconds.

        Raises
        ------
        NotFound
            No job of this name was ever launched here.
        """
        folder = self.folder(name)
        deadline = time.monotonic() + timeout
        while True:
            status = _status(folder)
            self._report(name, status, on_stage)
            if status is not None and status["outcome"] is not None:
                return JobOutcome.model_validate(status["outcome"])
            settled = self._settle_if_abandoned(name, folder)
            if settled is not None:
                self._report(name, settled, on_stage)
                return JobOutcome.model_validate(settled["outcome"])
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            _sleep_while_alive(None if status is None else status["pid"], min(LOOK_SECONDS, left))

    def _report(self, name: str, status: dict[str, Any] | None, on_stage: OnStage | None) -> None:
        steps = [] if status is None else status["steps"]
        known = self._reported.get(name, 0)
        self._reported[name] = max(known, len(steps))
        if on_stage is not None:
            for step in steps[known:]:
                on_stage(step["name"])

    def _abandoned(self, folder: Path) -> bool:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            return _lock(lock)
        finally:
            os.close(lock)

    def _settle_if_abandoned(self, name: str, folder: Path) -> dict[str, Any] | None:
        """The final status of a job that nobody carries out any more; written here where its runner could not."""
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound("There is no such job", value=name, remedy="Launch it first") from error
        try:
            if not _lock(lock):
                return None
            status = _status(folder)
            if status is not None and status["outcome"] is not None:
                return status
            if status is None and not (folder / "specification.json").exists():
                raise NotFound("There is no such job", value=name, remedy="Launch it first")
            processes.kill_with_variable("INSITU_JOB", name)
            lost = {"version": 1, "pid": 0, "steps": [], **(status or {})}
            lost["outcome"] = _lost(lost["steps"], (folder / "cancel").exists()).model_dump(mode="json")
            _write_secret(folder / "status.json", json.dumps(lost))
            return lost
        finally:
            os.close(lock)

    def cancel(self, name: str) -> None:
        """Ask the job to end. No-op for one that has ended."""
        folder = self.folder(name)
        if not folder.is_dir():
            raise NotFound("There is no such job", value=name)
        (folder / "cancel").touch()

    def log(self, name: str, step: str) -> str:
        """The log of a step so far; empty where the step has not begun."""
        if step not in STEPS:
            raise Invalid("There is no such step", value=step, remedy=f"The steps are {', '.join(STEPS)}")
        try:
            return (self.folder(name) / "logs" / f"{step}.log").read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def remove(self, name: str) -> None:
        """Remove the job's files; results that failed their check are kept in `work/rejected`.

        Raises
        ------
        Conflict
            The job still runs.
        """
        folder = self.folder(name)
        if not folder.is_dir():
            return
        if (folder / "lock").exists() and not self._released(folder):
            raise Conflict("This job still runs", value=name, remedy="Cancel it first")
        rejected = folder / "work" / "rejected"
        if not rejected.is_dir() or not any(rejected.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
            return
        for path in (*folder.iterdir(), *(folder / "work").iterdir()):
            if path not in (folder / "work", rejected, folder / "lock", folder / "status.json", folder / "logs"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _released(self, folder: Path) -> bool:
        # The outcome is written just before the runner ends, so it may hold the lock a moment longer.
        deadline = time.monotonic() + START_SECONDS
        while not self._abandoned(folder):
            status = _status(folder)
            if status is None or status["outcome"] is None or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def _lost(steps: list[dict[str, Any]], cancelled: bool) -> JobOutcome:
    if cancelled:
        return JobOutcome(
            state="cancelled", failure=str(Failure.CANCELLED), reason="The run was cancelled", steps=_records(steps)
        )
    return JobOutcome(
        state="failed",
        failure=str(Failure.RUNNER_LOST),
        reason="The process that carried out this job ended without an outcome"
        " (was it killed, or was the machine restarted?)",
        steps=_records(steps),
    )


def _records(steps: list[dict[str, Any]]) -> list[StepRecord]:
    return [StepRecord.model_validate(step) for step in steps]


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _status(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / "status.json").read_bytes())
    except (FileNotFoundError, ValueError):  # an unreadable one is what a machine that lost power leaves
        return None
    return content if isinstance(content, dict) and "outcome" in content else None


def _write_secret(file: Path, text: str) -> None:
    partial = file.with_name(file.name + ".part")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(file)


def _start(python: Path, folder: Path, lock: int) -> None:
    """Start the runner; it holds `lock` on. The process started here ends as soon as the runner has left it."""
    (folder / "logs").mkdir(exist_ok=True)
    with (folder / "logs" / "runner.log").open("ab") as log:
        try:
            done = subprocess.run(
                [str(python), "-P", "-m", "insitu.runs.launch.runner", str(folder), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=runner_environment(folder),
                pass_fds=(lock,),
                start_new_session=True,
                timeout=START_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable("The runner of a job cannot be started", value=str(python), why=str(error)) from error
    if done.returncode != 0:
        text = (folder / "logs" / "runner.log").read_text(errors="replace").strip()
        raise Unavailable(
            "The runner of a job cannot be started", value=str(python), why=text.splitlines()[-1] if text else None
        )


def runner_environment(folder: Path) -> dict[str, str]:
    """Environment of a runner: nothing of the launching process but where it tests isolation and finds programs."""
    kept = {name: os.environ[name] for name in ("INSITU_TEST_ISOLATION",) if name in os.environ}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(folder), **kept}


def _sleep_while_alive(pid: int | None, seconds: float) -> None:
    """Sleep, but wake up when the process `pid` ends."""
    try:
        descriptor = os.pidfd_open(pid) if pid else -1
    except OSError:
        descriptor = -1
    if descriptor < 0:
        time.sleep(min(seconds, 0.05))
        return
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll(seconds * 1000)
    finally:
        os.close(descriptor)
