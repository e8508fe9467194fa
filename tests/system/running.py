"""`insitu up` as a process of the tests: started on ports of its own, waited for, looked at, stopped.

Every wait is long: a busy machine with two cores is slow, and waiting costs nothing where it goes well.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from insitu import processes
from insitu.settings import Settings, load

READY_SECONDS = 600.0
GONE_SECONDS = 120.0


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody has just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Running:
    """A platform with a home and ports of its own; `start()` and `stop()` may be called several times."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        http, self.dicom_port, airflow = free_ports(3)
        self.http_url = f"http://127.0.0.1:{http}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("INSITU_")},
            "INSITU_HOME": str(home),
            "INSITU_HTTP": f"127.0.0.1:{http}",
            "INSITU_DICOM": f"127.0.0.1:{self.dicom_port}",
            "INSITU_AIRFLOW_HTTP": f"127.0.0.1:{airflow}",
            **{f"INSITU_{name.upper()}": value for name, value in settings.items()},
        }
        self.ports = {http, self.dicom_port, airflow}
        self.output = home.parent / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Settings:
        """The settings of its home; addresses are those of this object."""
        return load(self.home)

    @property
    def admin_token(self) -> str:
        """The token of the command line."""
        return (self.home / "secrets" / "admin-token").read_text().strip()

    @property
    def state(self) -> processes.State:
        """What the supervisor recorded."""
        state = processes.read(self.settings)
        assert state is not None, f"there is no state file; the platform said: {self.said()}"
        return state

    def said(self) -> str:
        """What `insitu up` printed."""
        return self.output.read_text() if self.output.exists() else ""

    def start(self) -> None:
        """Start `insitu up`, without waiting."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "insitu.cli", "up", "--json"],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def facts(self) -> dict[str, Any] | None:
        """What it said about itself when it was ready; None before."""
        for line in self.said().splitlines():
            if line.startswith("{") and line.endswith("}") and "ready_seconds" in line:
                found: dict[str, Any] = json.loads(line)
                return found
        return None

    def wait_ready(self) -> dict[str, Any]:
        """Wait until it says that it is ready; what it said."""

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"`insitu up` ended: {self.said()}"
            return self.facts() is not None

        until(ready, READY_SECONDS, lambda: f"the platform is not ready; it said: {self.said()}\n{self.logs()}")
        facts = self.facts()
        assert facts is not None
        return facts

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=GONE_SECONDS)

    def insitu(self, *arguments: str, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run the command line on this home."""
        return subprocess.run(
            [sys.executable, "-m", "insitu.cli", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def left(self) -> list[str]:
        """Processes that belong to this home and live, zombies not counted."""
        mark = os.fsencode(str(self.home))
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                about = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:  # it ended between two questions about it
                continue
            if mark in about and processes.start_ticks(int(entry.name)) is not None:
                found.append(f"{entry.name}: {about[-300:].decode(errors='replace')}")
        return found

    def logs(self) -> str:
        """The ends of its logs, for a failure's message."""
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in sorted((self.home / "logs").glob("*.log")))


def until(condition: Callable[[], bool], seconds: float, failure: Callable[[], str]) -> None:
    """Wait for a condition.

    Raises
    ------
    AssertionError
        It did not come about; the message is `failure()`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, failure()
        time.sleep(0.1)


@contextmanager
def platform(**settings: str) -> Iterator[Running]:
    """A platform in a temporary home, not yet started; what runs of it is ended at the end."""
    folder = Path(tempfile.mkdtemp(prefix="insitu-system-"))
    folder.chmod(0o755)  # as root, PostgreSQL's user must be able to search it
    running = Running(folder / "home", **settings)
    try:
        yield running
    finally:
        try:
            if running.process is not None and running.process.poll() is None:
                running.stop()
        except subprocess.TimeoutExpired:
            running.process.kill()  # the guardian ends the others
            running.process.wait()
            until(lambda: not running.left(), GONE_SECONDS, lambda: f"still there: {running.left()}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
