"""Processes are started, ended with their descendants, and die with the one who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from insitu.processes import ProcessRecord, alive, members, start_ticks
from insitu_services.supervisor import process as process_module
from insitu_services.supervisor.process import Definition, Process, end_leftover, kill
from insitu_services.supervisor.supervisor import GUARDIAN

PATIENCE = 120.0  # seconds; a busy machine is slow
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
# A leader with a child that outlives it unless somebody sees to it; both sleep.
FAMILY = ["/bin/sh", "-c", "sleep 600 & echo $!; wait"]


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def definition(command: list[str], **more: object) -> Definition:
    """A process of the tests."""
    return Definition("trial", command, ENVIRONMENT, ready=lambda _: True, **more)  # type: ignore[arg-type]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Definition], Process]]:
    """Starts processes and ends them after the test."""
    started: list[Process] = []

    def begin(wanted: Definition) -> Process:
        process = Process(wanted, tmp_path, lambda line: None)
        started.append(process)
        process.start()
        return process

    yield begin
    for process in started:
        process.end()


def session(process: Process) -> int:
    """Number of the session of a process."""
    assert process.record.pid is not None
    return process.record.pid


def test_death_is_noticed_and_the_next_start_planned(start: Callable[[Definition], Process]) -> None:
    process = start(definition(["/bin/sh", "-c", "echo good-bye; exit 3"]))
    until(process.poll, "the death was not noticed")
    assert process.last_exit == 3
    assert process.record.pid is None
    assert process.record.restarts == 1
    assert process.start_at is not None
    assert process_module.last_words(process.log) == "good-bye"
    process.start()
    assert process.start_at is None


def test_orphans_of_a_dead_process_are_ended_before_the_next_start(start: Callable[[Definition], Process]) -> None:
    process = start(definition(FAMILY))
    number = session(process)
    until(lambda: len(members(number)) == 2, "the family is not complete")
    os.kill(number, signal.SIGKILL)
    until(process.poll, "the death was not noticed")
    until(lambda: not members(number), "the child outlived its parent")


def test_workers_with_a_session_of_their_own_are_ended_with_their_first_process(
    start: Callable[[Definition], Process], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    child = f"cd {folder}; setsid sleep 600 & echo $!; wait"
    process = start(definition(["/bin/sh", "-c", child], workplace=folder))
    until(lambda: process_module.last_words(process.log).isdecimal(), "the child did not start")
    worker = int(process_module.last_words(process.log))
    until(lambda: worker not in members(session(process)), "the child is in the session of its parent")
    stranger = subprocess.Popen(["/bin/sleep", "600"], cwd=tmp_path)
    try:
        os.kill(session(process), signal.SIGKILL)
        until(process.poll, "the death was not noticed")
        until(lambda: start_ticks(worker) is None or not alive(worker, start_ticks(worker) or 0), "the worker lives")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_process_that_ignores_the_request_is_ended(start: Callable[[Definition], Process]) -> None:
    process = start(definition(["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]))
    until(lambda: "deaf" in process.log.read_text(), "it does not ignore the signal yet")
    number = session(process)
    process.ask_to_stop()
    assert not process.stopped()
    process.end()
    assert process.stopped()
    until(lambda: not members(number), "something of it lives")


def test_descendants_hear_of_no_stop_signal_of_their_own(start: Callable[[Definition], Process]) -> None:
    process = start(
        definition(["/bin/sh", "-c", "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.1; done"])
    )
    until(lambda: "up" in process.log.read_text(), "it is not up")
    process.ask_to_stop()
    until(process.stopped, "it does not stop when asked")
    assert "asked" in process.log.read_text()


def test_environment_is_the_given_one_only(
    start: Callable[[Definition], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSITU_TOKEN", "do-not-pass-on")
    process = start(definition(["/usr/bin/env"]))
    until(process.poll, "env does not end")
    assert "do-not-pass-on" not in process.log.read_text()


def test_large_log_is_turned_over_while_the_process_writes(
    start: Callable[[Definition], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "LOG_BYTES", 2000)
    process = start(definition(["/bin/sh", "-c", "while :; do echo 0123456789; sleep 0.001; done"]))
    until(lambda: process.log.stat().st_size > 2000, "it writes nothing")
    process.turn_log()
    until(lambda: process.log.stat().st_size > 0, "it writes no more")
    assert process.log.with_name("trial.log.1").stat().st_size > 2000
    for _ in range(6):
        until(lambda: process.log.stat().st_size > 2000, "it writes no more")
        process.turn_log()
    assert len(list(process.log.parent.glob("trial.log.*"))) == process_module.LOG_GENERATIONS


def test_process_dies_when_its_starter_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from insitu_services.supervisor.process import tied\n"
        "print(tied(['/bin/sleep', '600'], {}, Path(sys.argv[1])).pid, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    until(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "sleep", "it did not become the program")
    starter.kill()
    starter.wait(timeout=PATIENCE)
    starter.stdout.close()
    until(lambda: start_ticks(pid) is None, "it outlived its starter")


def test_process_whose_starter_died_before_the_tie_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(process_module.TIED), "1", "9", "--", "/bin/echo", "started"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""


def test_guardian_ends_whole_sessions_when_the_supervisor_is_gone() -> None:
    family = subprocess.Popen(FAMILY, stdout=subprocess.DEVNULL, start_new_session=True)
    spared = subprocess.Popen(FAMILY, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until(lambda: len(members(family.pid)) == len(members(spared.pid)) == 2, "the families are not complete")
        guardian = subprocess.Popen([sys.executable, "-I", "-S", str(GUARDIAN)], stdin=subprocess.PIPE, text=True)
        assert guardian.stdin is not None
        for one in (family, spared):
            guardian.stdin.write(f"watch {one.pid} {start_ticks(one.pid)} {int(signal.SIGKILL)}\n")
        guardian.stdin.write(f"forget {spared.pid}\n")
        guardian.stdin.close()  # as the kernel does when the supervisor dies
        guardian.wait(timeout=PATIENCE)
        family.wait(timeout=PATIENCE)
        until(lambda: not members(family.pid), "the guardian left something")
        assert len(members(spared.pid)) == 2
    finally:
        for one in (family, spared):
            for pid in members(one.pid):
                kill(pid, signal.SIGKILL)
            one.wait(timeout=PATIENCE)


def test_leftover_is_ended_and_a_stranger_with_its_number_is_not() -> None:
    family = subprocess.Popen(FAMILY, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until(lambda: len(members(family.pid)) == 2, "the family is not complete")
        ticks = start_ticks(family.pid)
        assert ticks is not None
        stranger = ProcessRecord(name="trial", pid=family.pid, ticks=ticks - 1)
        assert not end_leftover(stranger, signal.SIGKILL)
        assert alive(family.pid, ticks)
        assert end_leftover(ProcessRecord(name="trial", pid=family.pid, ticks=ticks), signal.SIGTERM)
        until(lambda: not members(family.pid), "something of it lives")
    finally:
        for pid in members(family.pid):
            kill(pid, signal.SIGKILL)
        family.wait(timeout=PATIENCE)


def test_zombie_counts_as_gone() -> None:
    child = subprocess.Popen(["/bin/true"])
    until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "it is no zombie")
    assert start_ticks(child.pid) is None
    child.wait(timeout=PATIENCE)
