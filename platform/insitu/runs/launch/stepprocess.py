"""One step as a process: started with a clean environment, its log captured without ever blocking it, its limits watched.

Not here: the order of steps and what their end means (runner, insitu.runs.outcomes).
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from insitu.runs.outcomes import Ended

from . import processes

TICK = 0.2  # seconds between two looks at memory and cancellation
OUTPUT_TICK = 1.0  # seconds between two looks at the size of the output
TAIL_BYTES = 16_384  # end of the log that is always kept
PROCESSES = 1000  # at most in a step
CHUNK = 65_536


@dataclass(frozen=True)
class Bounds:
    """Limits of a step; None where there is none."""

    seconds: float
    memory_bytes: int | None = None
    output_bytes: int | None = None
    output_folders: tuple[Path, ...] = ()
    left_out: tuple[int, ...] = ()  # processes below the runner that are not of this step
    aside: bool = False  # it gets only the processors' time that others leave; known where there is a limit of memory


@dataclass(frozen=True)
class End:
    """How a step ended."""

    ended: Ended
    exit_code: int
    tail: str
    peak_memory: int


class StepLog:
    """The log of a step: its beginning up to the limit, and always its end."""

    def __init__(self, file: Path, limit: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._stream = os.fdopen(descriptor, "wb", buffering=0)
        self._room = max(0, limit - TAIL_BYTES)
        self._rest = bytearray()
        self._dropped = 0
        self.tail = bytearray()

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self.tail += data
        del self.tail[:-TAIL_BYTES]
        if self._room:
            self._stream.write(data[: self._room])
        rest = data[self._room :]
        self._room = max(0, self._room - len(data))
        self._rest += rest
        surplus = len(self._rest) - TAIL_BYTES
        if surplus > 0:
            self._dropped += surplus
            del self._rest[:surplus]

    def close(self) -> None:
        """Write what was kept of the end."""
        if self._dropped:
            self._stream.write(f"\n... {self._dropped} bytes left out ...\n".encode())
        self._stream.write(self._rest)
        self._stream.close()


class StepProcess:
    """A step that was started.

    Parameters
    ----------
    name : str
        Of the step.
    command, environment, working_folder : sequence of str, mapping, pathlib.Path
        What is started; nothing of our own environment is passed on.
    job : pathlib.Path
        The job's folder; the log is written below it.
    log_bytes : int
        Largest log.
    waits : bool
        The process waits for a line on its standard input, given by `go`.
    largest_file : int, optional
        Size in bytes that no file it writes can exceed; set for algorithms only, with a low priority beside.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        working_folder: Path,
        job: Path,
        log_bytes: int,
        *,
        waits: bool = False,
        largest_file: int | None = None,
    ) -> None:
        self.name = name
        self._log = StepLog(job / "logs" / f"{name}.log", log_bytes)

        def before_exec() -> None:
            processes.die_with_parent()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold patient data
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
                os.nice(5)
                with contextlib.suppress(OSError):
                    Path("/proc/self/oom_score_adj").write_text("1000")  # before the platform's processes

        self._pipe, write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=working_folder,
            stdin=subprocess.PIPE if waits else subprocess.DEVNULL,
            stdout=write_end,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=before_exec,  # safe: the runner has one thread
        )
        os.close(write_end)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def go(self) -> None:
        """Give the word to a process that waits for it."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(b"go\n")
                self._process.stdin.close()
            self._process.stdin = None

    def supervise(self, bounds: Bounds, cancel_asked: Callable[[], bool]) -> End:
        """Watch the step to its end, and end it where it goes over a limit or somebody asks; no process of it is left."""
        pipe = self._pipe
        watch = _Watch(bounds, cancel_asked)
        exit_watch = os.pidfd_open(self.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(pipe, selectors.EVENT_READ)
                selector.register(exit_watch, selectors.EVENT_READ)
                ended = self._until_end(selector, pipe, watch)
        finally:
            os.close(exit_watch)
        processes.end_all(os.getpid(), without=(*bounds.left_out, self.pid))
        if ended is not Ended.BY_ITSELF:
            self._process.kill()
        exit_code = self._process.wait()
        processes.end_all(os.getpid(), without=bounds.left_out)
        self._drain(pipe)
        os.close(pipe)
        self._log.close()
        return End(ended, exit_code, self._log.tail.decode(errors="replace"), watch.peak)

    def _until_end(self, selector: selectors.BaseSelector, pipe: int, watch: _Watch) -> Ended:
        while True:
            events = selector.select(watch.seconds_to_next())
            for key, _ in events:
                if key.fd == pipe and not self._drain(pipe):
                    selector.unregister(pipe)
            ended = watch.look()
            if ended is not None:
                return ended
            if any(key.fd != pipe for key, _ in events):
                return Ended.BY_ITSELF

    def _drain(self, pipe: int) -> bool:
        """Take what is in the pipe; False at its end. At most 4 MiB at a time, so that limits are looked at too."""
        for _ in range(64):
            try:
                data = os.read(pipe, CHUNK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self._log.write(data)
        return True


class _Watch:
    def __init__(self, bounds: Bounds, cancel_asked: Callable[[], bool]) -> None:
        self._bounds = bounds
        self._cancel_asked = cancel_asked
        self._deadline = time.monotonic() + bounds.seconds
        self._next = self._next_output = 0.0
        self.peak = 0

    def seconds_to_next(self) -> float:
        now = time.monotonic()
        return max(0.0, min(self._next, self._deadline) - now)

    def look(self) -> Ended | None:
        now = time.monotonic()
        if now >= self._deadline:
            return Ended.AT_DEADLINE
        if now < self._next:
            return None
        self._next = now + TICK
        if self._cancel_asked():
            return Ended.CANCELLED
        bounds = self._bounds
        if bounds.memory_bytes is not None:
            below = processes.descendants(os.getpid(), bounds.left_out)
            if len(below) > PROCESSES:
                return Ended.OVER_PROCESSES
            if bounds.aside:
                processes.step_aside(below)
            used = processes.memory(below, bounds.memory_bytes)
            self.peak = max(self.peak, used)
            if used > bounds.memory_bytes:
                return Ended.OVER_MEMORY
        if bounds.output_bytes is not None and now >= self._next_output:
            self._next_output = now + OUTPUT_TICK
            if disk_use(bounds.output_folders) > bounds.output_bytes:
                return Ended.OVER_OUTPUT
        return None


def disk_use(folders: Sequence[Path]) -> int:
    """Bytes on disk below folders; links are not followed, what vanishes meanwhile does not count."""
    total = 0
    waiting = [str(folder) for folder in folders]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
