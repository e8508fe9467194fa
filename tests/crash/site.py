"""A site that is broken and mended: PostgreSQL, receiver, api and dispatcher as real processes on loopback, without Airflow.

PostgreSQL has the settings of the product (fsync, synchronous_commit and full_page_writes on). All processes have the library
that makes calls fail. Not here: what is broken when (rounds, sweep).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil
import psycopg
from psycopg.rows import dict_row

from insitu import postgres
from insitu.database import Database, migrate
from insitu.settings import Settings
from insitu_services.database_server.server import SERVER
from insitu_services.supervisor.process import end_workers
from tests.peers import preload

from .faults import SHIM, Faults
from .senders import CONTEXT

PATIENCE = 120.0  # seconds for what must happen; a busy machine is slow
QUIET = 0.3  # seconds until a series is complete
# The one setting that is not the product's: before it recovers, PostgreSQL synchronises its folder file by file, which takes most of
# the time of a round. This is one call for the whole disk, and promises as much.
QUICK = {"recovery_init_sync_method": "syncfs"}
ROOT = Path(__file__).resolve().parents[2]


def until(what: str, done: Callable[[], object], seconds: float = PATIENCE, every: float = 0.01) -> None:
    """Wait for something that must happen."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"this did not happen within {seconds:g} s: {what}")
        time.sleep(every)


def _port() -> int:
    """A free port below those the system gives to outgoing connections: one of these would keep a restarted service from its port."""
    while True:
        port = secrets.randbelow(20_000) + 12_000
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port


class Spawner:
    """The process that starts all others and ends them when this one ends (tests.crash.spawner).

    Parameters
    ----------
    folder : Path
        Where everything lives; removed in the end.
    library : Path
    control : Path
        Of the library in the spawner itself.
    """

    def __init__(self, folder: Path, library: Path, control: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INSITU_")}
        path = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
        environment |= {"LD_PRELOAD": str(library), "CRASH_CONTROL": str(control), "PYTHONPATH": path}
        environment |= {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
        with (folder / "spawner.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.spawner", str(folder)], env=environment, cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._log = folder / "spawner.log"
        self._ready = False

    def start(self, **request: Any) -> Service:
        """Start a process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._ready:
            said = self._process.stdout.readline()
            assert said == "ready\n", "the services cannot be imported:\n" + self._log.read_text()[-2000:]
            self._ready = True
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Service(int(self._process.stdout.readline()))

    def close(self) -> None:
        """End it and all it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE)


def _fields(pid: int) -> list[str]:
    """State, parent and so on of a process (proc(5), /proc/PID/stat from the third field on); nothing where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


class Service:
    """A process that may be killed: pid and start time, because a pid alone may be another's soon."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ticks = "".join(_fields(pid)[19:20])

    @property
    def alive(self) -> bool:
        """Whether it is there; a zombie of which other threads still end has its files and ports yet."""
        fields = _fields(self.pid)
        if not fields or fields[19] != self.ticks:
            return False
        with contextlib.suppress(OSError):
            return fields[0] not in ("Z", "X") or len(os.listdir(f"/proc/{self.pid}/task")) > 1
        return False

    def children(self) -> list[Service]:
        """The living processes below it."""
        try:
            return [child for p in psutil.Process(self.pid).children(recursive=True) if (child := Service(p.pid)).alive]
        except psutil.NoSuchProcess:
            return []

    def describe(self) -> str:
        """What it is doing: state, pending signals, where in the kernel it waits."""
        folder = Path(f"/proc/{self.pid}")
        told = []
        with contextlib.suppress(OSError):
            told.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80])
            status = (folder / "status").read_text().splitlines()
            told += [
                line for line in status if line.startswith(("State", "PPid", "SigPnd", "ShdPnd", "SigBlk", "SigIgn"))
            ]
            told.append((folder / "wchan").read_text())
            told.append((folder / "stack").read_text().replace("\n", " "))  # root only
        return f"{self.pid}: " + ", ".join(told)

    def signal(self, number: int) -> None:
        """Send a signal, where it is still there."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _session(leader: int) -> list[int]:
    """The processes in the session of a process that may be gone."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


def _folder_of(pid: int) -> Path | None:
    """The folder in which a process works; None where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink()
    return None


def kill(services: list[Service]) -> None:
    """SIGKILL processes and see that they are gone."""
    for service in services:
        service.signal(signal.SIGKILL)
    until("the killed processes are gone", lambda: not any(service.alive for service in services))


class Server:
    """PostgreSQL with the product's settings; one cluster for several sites, one after the other.

    Parameters
    ----------
    folder : Path
        PostgreSQL's user can enter it.
    library : Path
        The shim, where that user can read it.
    spawner : Spawner
    """

    def __init__(self, folder: Path, library: Path, spawner: Spawner) -> None:
        self.folder = folder
        self.data, self._socket = folder / "database", folder / "run"
        self._password = uuid.uuid4().hex
        postgres.prepare(self.data, self._socket, folder, self._password)
        self.faults = Faults(folder / "postgres.faults", self.data)
        self._library = library
        self._spawner = spawner
        self._first: Service | None = None
        self.start()
        with self.connect("postgres") as connection:
            connection.execute("CREATE DATABASE template_crash")
        migrate(self.dsn("template_crash"))

    def dsn(self, database: str) -> str:
        """Connection string."""
        return f"host={self._socket} user=postgres password={self._password} dbname={database}"

    @contextmanager
    def connect(self, database: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """A connection outside of a transaction."""
        with psycopg.connect(self.dsn(database), autocommit=True, row_factory=dict_row) as connection:
            yield connection

    def start(self) -> None:
        """Start it where it does not run, as the supervisor does, and wait until it has recovered.

        Raises
        ------
        AssertionError
            It lives and does not answer: nobody would start it anew.
        """
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            if self.gone:
                self.try_to_start()
            assert time.monotonic() < deadline, "PostgreSQL does not answer:\n" + self.autopsy()
            time.sleep(0.03)

    def try_to_start(self) -> None:
        """Start it and do not wait; what a dead one left is ended before, as the supervisor does."""
        end_workers(self.data)
        user = postgres.run_as()
        self._first = self._spawner.start(
            command=postgres.command(self.data, self._socket, self.folder, **SERVER, **QUICK),
            user=(user.pw_uid, user.pw_gid) if user else None,
            log=str(self.folder / "postgres.log"),
            environment={
                "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC",
                "LD_PRELOAD": str(self._library), "CRASH_CONTROL": str(self.faults.file),
            },
        )  # fmt: skip

    def autopsy(self) -> str:
        """What its processes are doing, also those that a dead one left, and what it wrote beside its refusals."""
        processes = [Service(pid) for pid in psutil.pids() if _folder_of(pid) == self.data]
        said = [line for line in self.log().splitlines() if "FATAL:  the database system is" not in line]
        return "\n".join([*(process.describe() for process in processes), *said[-40:]])

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "postgres.log").read_text(errors="replace")

    def answers(self) -> bool:
        """Whether it takes connections and statements."""
        if self.gone:
            return False
        try:
            with self.connect("postgres") as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    @property
    def gone(self) -> bool:
        """Whether its first process has ended."""
        return self._first is None or not self._first.alive

    @property
    def postmaster(self) -> Service:
        """Its first process."""
        assert self._first is not None
        return self._first

    def backends(self, database: str) -> list[Service]:
        """Its processes that serve connections to a database, other than ours."""
        with self.connect("postgres") as connection:
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", (database,)
            ).fetchall()
        return [Service(row["pid"]) for row in found]

    def kill(self, *, children: bool) -> None:
        """SIGKILL the first process, and its children or not; those end by themselves then."""
        first = self.postmaster
        others = first.children()
        kill([first, *(others if children else [])])
        until("PostgreSQL's processes are gone", lambda: not any(service.alive for service in others))


class Site:
    """A home, a database and the platform's processes.

    Parameters
    ----------
    server : Server
    spawner : Spawner
    folder : Path
        Made here.
    nameless : bool
        Whether the disk has files without a name; without them a writer has a temporary file.
    settings : str
        More settings, as `known_uid_policy="refuse"`.
    """

    def __init__(
        self, server: Server, spawner: Spawner, folder: Path, *, nameless: bool = True, **settings: str
    ) -> None:
        self.server = server
        self.folder = folder
        self._spawner = spawner
        folder.mkdir(mode=0o755)
        (folder / "secrets").mkdir(mode=0o700)
        (folder / "secrets" / "airflow-password").write_text("there is no Airflow here")
        self.name = f"crash_{uuid.uuid4().hex}"
        with server.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {self.name} TEMPLATE template_crash")
        self.dsn = server.dsn(self.name)
        self.dicom_port, http, airflow = _port(), _port(), _port()
        self.url = f"http://127.0.0.1:{http}"
        self.settings = Settings(home=folder, quiet_time=QUIET)
        self.environment = {
            "INSITU_DATABASE_DSN": self.dsn,
            "INSITU_HOME": str(folder),
            "INSITU_DICOM": f"127.0.0.1:{self.dicom_port}",
            "INSITU_HTTP": f"127.0.0.1:{http}",
            "INSITU_AIRFLOW_HTTP": f"127.0.0.1:{airflow}",
            "INSITU_QUIET_TIME": str(QUIET),
            "INSITU_RECEIVER_PROCESSES": "2",
        } | {f"INSITU_{name.upper()}": value for name, value in settings.items()}
        self.faults = {
            name: Faults(folder / f"{name}.faults", folder / "blobs") for name in ("receiver", "api", "dispatcher")
        }
        for faults in self.faults.values():
            faults.refuse_nameless(not nameless)
        self.processes: dict[str, Service] = {}
        self.token = self._make_token()

    def _make_token(self) -> str:
        from insitu.identity import accounts, tokens
        from insitu.projects import projects

        database = Database(self.dsn)
        try:
            with database.transaction() as connection:
                projects.ensure(connection, self.settings.default_project, title="")
                accounts.create(connection, "admin", uuid.uuid4().hex, site_admin=True)
                return tokens.ensure(connection, "admin", "crash")
        finally:
            database.close()

    def __enter__(self) -> Site:
        """Start everything."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.server.start()
        with self.server.connect("postgres") as connection:
            connection.execute(f"DROP DATABASE {self.name} WITH (FORCE)")

    def start(self) -> None:
        """Start what does not run, and wait until everything answers."""
        self.server.start()
        for name in ("receiver", "api", "dispatcher"):
            if name not in self.processes or not self.processes[name].alive:
                self.processes[name] = self._spawner.start(
                    service=name, log=str(self.folder / f"{name}.log"), environment=self.environment,
                    control=str(self.faults[name].file),
                )  # fmt: skip
        until("the receiver and the api answer", self._answers, every=0.03)

    def _answers(self) -> bool:
        for name, process in self.processes.items():
            assert process.alive, f"{name} ended:\n" + (self.folder / f"{name}.log").read_text()[-3000:]
        if len(self.workers()) < 2:
            return False
        try:
            socket.create_connection(("127.0.0.1", self.dicom_port), timeout=10).close()
            return httpx.get(f"{self.url}/readyz", timeout=10, trust_env=False, verify=CONTEXT).status_code == 200
        except (OSError, httpx.HTTPError):
            return False

    def workers(self) -> list[Service]:
        """The receiver's worker processes."""
        return self.processes["receiver"].children()

    def tree(self, name: str) -> list[Service]:
        """A process and all below it."""
        process = self.processes[name]
        return [process, *process.children()]

    def kill(self, *names: str) -> list[Service]:
        """SIGKILL processes with all below them; which they were."""
        victims = [service for name in names for service in self.tree(name)]
        kill(victims)
        # The receiver may have replaced a worker meanwhile; each of our processes has a session of its own.
        while late := [
            service for name in names for pid in _session(self.processes[name].pid) if (service := Service(pid)).alive
        ]:
            kill(late)
            victims += late
        return victims

    def stop(self) -> None:
        """End all but PostgreSQL."""
        for faults in self.faults.values():
            faults.off()
        for service in self.processes.values():
            for member in (service, *service.children()):
                member.signal(signal.SIGCONT)
        self.kill(*self.processes)

    def logs(self) -> str:
        """What the processes wrote, the last of it."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-2500:]}" for path in sorted(self.folder.glob("*.log")))


@contextmanager
def bench(
    parent: Path | None = None, before: Callable[[Path], object] = lambda folder: None
) -> Iterator[Callable[..., Site]]:
    """PostgreSQL and the spawner; gives a function that makes sites. Everything has ended when the block is left.

    Parameters
    ----------
    parent : Path, optional
        Folder on the disk to use.
    before : callable
        Is given the folder in which everything will be, before PostgreSQL is.
    """
    with tempfile.TemporaryDirectory(prefix="insitu-crash-", dir=parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        library = folder / "shim.so"
        shutil.copy(preload.library(SHIM), library)  # PostgreSQL's user may not see the cache
        library.chmod(0o755)
        spawner = Spawner(folder, library, Faults(folder / "idle.faults", folder / "nowhere").file)
        try:
            before(folder)
            server = Server(folder, library, spawner)
            yield lambda **more: Site(server, spawner, folder / uuid.uuid4().hex[:8], **more)
        finally:
            spawner.close()
