"""The PostgreSQL server that comes with the platform, as a process that is reached over TCP, as in a cluster."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from psycopg import pq

from insitu.settings import Settings
from tests.system.running import free_ports

SECRETS = ("superuser", "owner", "airflow", "api", "receiver", "dispatcher", "cli")
SECONDS = 60.0


class ServerProcess:
    """`python -m insitu_services.database_server` on a home and a port of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (self.port,) = free_ports(1)
        (home / "secrets").mkdir(parents=True)
        for name in SECRETS:
            (home / "secrets" / f"database-{name}").write_text(secrets.token_hex(8))
        (home / "secrets" / "admin-password").write_text("the first password of all")
        self.process: subprocess.Popen[bytes] | None = None

    def settings(self, **chosen: object) -> Settings:
        """Settings of a platform on this server."""
        values = {"database_host": "127.0.0.1", "database_port": self.port, "database_sslmode": "disable", **chosen}
        return Settings.model_validate({"home": self.home, **values})

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, and wait until it takes connections."""
        line = [sys.executable, "-m", "insitu_services.database_server", "--listen", "127.0.0.1"]
        if os.geteuid() == 0:  # PostgreSQL refuses root; inside, this is the user nobody
            line = ["unshare", "--user", "--map-user=65534", "--map-group=65534", *line]
        environment = {
            "PATH": os.environ["PATH"],
            "INSITU_HOME": str(self.home),
            "INSITU_DATABASE_PORT": str(self.port),
            "TMPDIR": str(self.home.parent),
        }
        with (self.home.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(line, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + SECONDS
        while pq.PGconn.ping(f"host=127.0.0.1 port={self.port} sslmode=disable".encode()) != pq.Ping.OK:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        return self.process

    def said(self) -> str:
        """What it wrote."""
        return (self.home.parent / "server.log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=SECONDS)
