"""A PostgreSQL that a test stops, kills and starts again. Not here: the one all tests share (conftest)."""

from __future__ import annotations

import signal
import subprocess
import uuid
from pathlib import Path

import psutil

from insitu import postgres
from insitu.database import migrate


class Server:
    """A PostgreSQL of this test's own, to be stopped and killed."""

    def __init__(self, root: Path) -> None:
        root.chmod(0o755)
        self.root, self.data, self.socket, self.password = root, root / "data", root / "socket", uuid.uuid4().hex
        postgres.prepare(self.data, self.socket, root, self.password)
        self.dsn = f"host={self.socket} user=postgres password={self.password} dbname=postgres"
        self.start()
        migrate(self.dsn)

    def start(self) -> None:
        line = postgres.command(self.data, self.socket, self.root, fsync="off", max_connections="100")
        with (self.root / "log").open("a") as log:
            self.process = subprocess.Popen(line, stdout=log, stderr=log, **postgres.identity())
        postgres.wait_ready(self.socket, self.password)

    def signal(self, number: int) -> None:
        """Send a signal to the server and all its processes."""
        for one in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            try:
                one.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)
