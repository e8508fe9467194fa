"""The supervisor: brings the platform up, keeps it up, takes it down.

One thread, which also starts every process: a process tied to its parent dies with the thread that started it.
Not here: the single process (process) and the list of them (roster).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from insitu import processes
from insitu.errors import Unavailable
from insitu.processes import State
from insitu.settings import Settings
from insitu_services.database_server import server as database_server
from insitu_services.prepare import databases, secrets

from . import home, progress, roster
from .airflow import Airflow
from .process import Definition, Process, end_leftover, end_members, end_workers, last_words, tied, works_in

BOOTSTRAP = [sys.executable, "-m", "insitu_services.supervisor.bootstrap"]
GUARDIAN = Path(__file__).with_name("guardian.py")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LOOK_EVERY = 0.1  # seconds, while something is awaited
LOOK_IDLE = 1.0  # seconds, otherwise; a death wakes it at once
LOGS_EVERY = 30.0  # seconds
DATABASE_SECONDS = 120.0  # a server that recovers from a crash replays its log first


class OneShot:
    """A program that must succeed before the platform goes on.

    Parameters
    ----------
    failure : str
        What its failure means, as a sentence.
    log : Path
        File its output is appended to.
    guardian : callable
        Takes a line for the guardian.
    """

    def __init__(self, failure: str, log: Path, guardian: Callable[[str], None]) -> None:
        self._failure = failure
        self._log = log
        self._guardian = guardian
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], environment: Mapping[str, str]) -> None:
        """Start it; it ends with this process."""
        self._popen = tied(command, environment, self._log)
        ticks = processes.start_ticks(self._popen.pid)
        if ticks is not None:
            self._guardian(f"watch {self._popen.pid} {ticks} {int(signal.SIGKILL)}")

    def done(self) -> bool:
        """Whether it has ended well.

        Raises
        ------
        Unavailable
            It has ended badly.
        """
        if self._popen is None or self._popen.poll() is None:
            return False
        self._guardian(f"forget {self._popen.pid}")
        if self._popen.returncode != 0:
            raise Unavailable(
                self._failure,
                why=last_words(self._log) or _exit(self._popen.returncode),
                remedy=f"Look into {self._log}",
            )
        return True

    def end(self) -> None:
        """End it and what it started, where it still runs."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
            end_members(self._popen.pid)


class Stop(Exception):  # it is a request, not an error
    """SIGTERM, SIGINT or SIGHUP came."""


class Supervisor:
    """The platform of one home.

    Parameters
    ----------
    settings : Settings
    tell : callable
        Takes a line for the person who started it.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self.settings = settings
        self.tell = tell
        self.processes: dict[str, Process] = {}
        self.state = State(
            boot=processes.boot(),
            pid=os.getpid(),
            ticks=processes.start_ticks(os.getpid()) or 0,
            started_at=time.time(),
            http=settings.http,
            dicom=settings.dicom,
            airflow_http=settings.airflow_http,
        )
        self._begun = time.monotonic()
        self._one_shots: list[OneShot] = []
        self._stopping = False
        self._logs_at = 0.0
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._guardian: subprocess.Popen[bytes] | None = None
        self._lock: home.Lock | None = None

    # starting

    def run(self, ready: Callable[[float], None]) -> None:
        """Bring everything up, call `ready` with the seconds it took, keep everything up until a signal asks for the end.

        Raises
        ------
        InsituError
            It cannot start: another holds the home, a port is in use, the home cannot be written, and so on.
        """
        home.make(self.settings)
        self._lock = home.Lock(self.settings)
        try:
            self._end_leftovers()
            home.check_ports(self.settings)
            home.check_disk(self.settings)
            airflow = Airflow(self.settings)
            self._listen_to_signals()
            try:
                self._bring_up(airflow)
                self._keep_up(ready)
            except Stop:
                self.tell("Stopping")
            finally:
                self._take_down()
        finally:
            self._lock.release()

    def _bring_up(self, airflow: Airflow) -> None:
        """Start everything, what takes longest first."""
        settings = self.settings
        self._start_guardian()
        airflow.configure()
        for name in ("engine-token", "step-key"):
            secrets.secret(settings.secrets, name)
        database_server.prepare(settings)
        self._remove_stale_database_files()
        self._start(roster.server(settings))
        self._await_database()
        if "airflow" in databases.arrange(settings):
            airflow.forget_migration()
        migrated = airflow.is_migrated()
        if migrated:
            self._start_all(roster.engine(airflow))
        progress.forget(settings)
        setup = self._one_shot("The platform could not be prepared", settings.logs / "bootstrap.log")
        setup.start(BOOTSTRAP, roster.environment(settings))
        if not migrated:
            self.tell("Making Airflow's database (once)")
            migration = self._one_shot(
                "Airflow's database could not be migrated", settings.logs / "airflow-migration.log"
            )
            migration.start(airflow.migration(), airflow.environment())
            self._await(migration.done)
            airflow.note_migration()
            self._start_all(roster.engine(airflow))
        self._await(lambda: setup.done() or progress.read(settings).prepared)
        self._start_all(roster.services(settings))
        if not setup.done() and not migrated:
            self.tell("Installing the algorithms that come with the platform")
        self._await(setup.done)
        for name, reason in progress.read(settings).failed.items():
            self.tell(f"{name} could not be installed: {reason}")

    def _one_shot(self, failure: str, log: Path) -> OneShot:
        program = OneShot(failure, log, self._tell_guardian)
        self._one_shots.append(program)
        return program

    def _await(self, condition: Callable[[], bool]) -> None:
        """Keep the processes up until `condition`."""
        while not condition():
            self._turn(LOOK_EVERY)

    def _await_database(self) -> None:
        server = self.processes["postgres"]
        deadline = time.monotonic() + DATABASE_SECONDS
        while not server.record.ready:
            self._turn(0.03)
            if server.deaths >= 3 or time.monotonic() > deadline:
                raise Unavailable(
                    "PostgreSQL does not start", why=last_words(server.log), remedy=f"Look into {server.log}"
                )

    def _start(self, definition: Definition) -> None:
        process = Process(definition, self.settings.logs, self._tell_guardian)
        self.processes[definition.name] = process
        process.start()
        self._write_state()

    def _start_all(self, definitions: list[Definition]) -> None:
        for definition in definitions:
            self._start(definition)

    # keeping up

    def _keep_up(self, ready: Callable[[float], None]) -> None:
        while True:
            waiting = [p for p in self.processes.values() if not p.record.ready]
            if not waiting and self.state.ready_seconds is None:
                self.state.ready_seconds = time.monotonic() - self._begun
                self._write_state()
                ready(self.state.ready_seconds)
            self._turn(LOOK_EVERY if waiting else LOOK_IDLE)

    def _turn(self, seconds: float) -> None:
        """Wait for a death, a signal or the time; see to every process.

        Raises
        ------
        Stop
            A signal asked for the end.
        """
        select.select([self._wake_reader], [], [], seconds)
        while True:
            try:
                if not os.read(self._wake_reader, 4096):
                    break
            except BlockingIOError:
                break
        if self._stopping:
            raise Stop
        changed = False
        for process in self.processes.values():
            if process.poll():
                changed = True
                self._tell_death(process)
            if process.start_at is not None and time.monotonic() >= process.start_at:
                process.start()
                changed = True
            if process.check_ready():
                changed = True
        if changed:
            self._write_state()
        if time.monotonic() >= self._logs_at:
            self._logs_at = time.monotonic() + LOGS_EVERY
            for process in self.processes.values():
                process.turn_log()

    def _tell_death(self, process: Process) -> None:
        pause = max(0.0, (process.start_at or 0.0) - time.monotonic())
        self.tell(
            f"{process.definition.name} ended ({_exit(process.last_exit)}); started again in {pause:.1f} s; log: {process.log}"
        )

    # taking down

    def _take_down(self) -> None:
        """End everything in the order that loses nothing: who receives first, the database last."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        for program in self._one_shots:
            program.end()
        engine = [name for name in self.processes if name.startswith("airflow-")]
        for names in (["receiver"], ["dispatcher", "api", *engine], ["postgres"]):
            self._stop(names)
        processes.state_file(self.settings).unlink(missing_ok=True)
        if self._guardian is not None:
            if self._guardian.stdin is not None:
                self._guardian.stdin.close()
            self._guardian.wait()

    def _stop(self, names: list[str]) -> None:
        stopping = [self.processes[name] for name in names if name in self.processes]
        begun = time.monotonic()
        for process in stopping:
            process.ask_to_stop()
        while stopping:
            stopping = [process for process in stopping if not process.stopped()]
            for process in stopping:
                if time.monotonic() - begun > process.definition.patience:
                    process.end()
            time.sleep(0.02)

    # the guardian, leftovers, the state file

    def _start_guardian(self) -> None:
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARDIAN)], stdin=subprocess.PIPE, start_new_session=True, cwd="/"
        )

    def _tell_guardian(self, line: str) -> None:
        if self._guardian is None or self._guardian.stdin is None:
            return
        try:
            self._guardian.stdin.write(line.encode() + b"\n")
            self._guardian.stdin.flush()
        except BrokenPipeError:  # somebody ended it: a new one must know all of them
            self._guardian.wait()
            self._start_guardian()
            for process in self.processes.values():
                if process.record.pid is not None and process.record.ticks is not None:
                    self._tell_guardian(
                        f"watch {process.record.pid} {process.record.ticks} {int(process.definition.orphan_signal)}"
                    )

    def _end_leftovers(self) -> None:
        """End what a supervisor left that could not end it itself."""
        state = processes.read(self.settings)
        if state is None or state.boot != processes.boot():
            return
        # The database goes last: the others may still be writing.
        for record in sorted(state.processes, key=lambda record: record.name == "postgres"):
            number = signal.SIGQUIT if record.name == "postgres" else signal.SIGKILL
            if end_leftover(record, number):
                self.tell(f"Ended {record.name}, left by an earlier start")

    def _remove_stale_database_files(self) -> None:
        """Remove a lock of PostgreSQL that names a process which is none of its own, and end what a dead server left.

        It takes any living process of that number for itself, which after a restart of a container is likely.
        """
        data = self.settings.home / "database"
        for file in (data / "postmaster.pid", self.settings.database_socket / ".s.PGSQL.5432.lock"):
            try:
                pid = int(file.read_text().split("\n", 1)[0])
            except (FileNotFoundError, ValueError):
                continue
            if not works_in(abs(pid), data):
                file.unlink(missing_ok=True)
        if not (data / "postmaster.pid").exists():
            end_workers(data)

    def _write_state(self) -> None:
        self.state.processes = [process.record for process in self.processes.values()]
        secrets.write(processes.state_file(self.settings), self.state.model_dump_json(indent=1))

    def _listen_to_signals(self) -> None:
        def wake(number: int, frame: FrameType | None) -> None:
            if number != signal.SIGCHLD:
                self._stopping = True

        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, wake)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"by {signal.Signals(-code).name}"
        except ValueError:
            return f"by signal {-code}"
    return f"exit status {code}"
