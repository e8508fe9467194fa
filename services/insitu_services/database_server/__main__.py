"""`python -m insitu_services.database_server`: the PostgreSQL server in a container of a cluster.

It makes the data folder where there is none, and becomes the custodian of the server (custodian.py). With `--ready` it only says
whether the server takes connections. Not here: roles and databases (insitu_services.prepare).
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import pwd
import sys
import tempfile
import time
from pathlib import Path

from psycopg import pq

from insitu import postgres
from insitu.errors import Conflict, InsituError, Invalid
from insitu.settings import Settings, load
from insitu_services.logs import log_to_stderr
from insitu_services.prepare import secrets

from .server import IN_CLUSTER

logger = logging.getLogger("insitu.database_server")

CUSTODIAN = Path(__file__).with_name("custodian.py")
LOCK_SECONDS = 60.0  # for the processes of the server before to end
# Every role has a password, and none may come in without; nobody copies the whole server over the network.
ACCESS = """# Written at every start by insitu_services.database_server.
local   all           all                 scram-sha-256
host    replication   all   all           reject
host    all           all   all           scram-sha-256
"""


def prepare(settings: Settings) -> Path:
    """Make the data folder where there is none, as this user; the folder of the unix socket.

    Raises
    ------
    Invalid
        There is no superuser's password, or we are root, or a user without a name.
    """
    if os.geteuid() == 0:
        raise Invalid("PostgreSQL does not run as root", remedy="Start this as an ordinary user, for example 10001")
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise Invalid(
            "PostgreSQL needs a user with a name",
            value=str(os.geteuid()),
            why="this user number does not stand in /etc/passwd",
            remedy="Start this as the user of the image, 10001",
        ) from None
    password = secrets.given(settings.secrets, "database-superuser")
    if not password:
        raise Invalid(
            "There is no password for PostgreSQL's superuser",
            value=str(settings.secrets / "database-superuser"),
            remedy="Put it there",
        )
    data = settings.home / "database"
    socket = Path(tempfile.gettempdir()) / "insitu-database"
    postgres.prepare(data, socket, settings.home, password)
    data.chmod(
        0o700
    )  # a volume that was given to a group may have made it accessible to that, which PostgreSQL refuses
    (data / "pg_hba.conf").write_text(ACCESS)
    return socket


def lock(settings: Settings) -> int:
    """Descriptor that holds the data folder, for the server and all its processes to inherit.

    PostgreSQL's own lock is a process number, which in a new container says nothing; and the shared memory by which it finds
    processes that are left is not seen from another container.

    Raises
    ------
    Conflict
        A server works on the folder.
    """
    descriptor = os.open(settings.home / "database.lock", os.O_RDWR | os.O_CREAT, 0o600)  # not inherited until said so
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Conflict(
                    "Another PostgreSQL works on this data folder", value=str(settings.home / "database"),
                    remedy="End it first",
                ) from None  # fmt: skip
            time.sleep(0.2)
    os.set_inheritable(descriptor, True)
    (settings.home / "database" / "postmaster.pid").unlink(missing_ok=True)
    return descriptor


def main() -> None:
    """Entry point; does not return where the server starts."""
    parser = argparse.ArgumentParser(prog="python -m insitu_services.database_server", description=__doc__)
    parser.add_argument("--ready", action="store_true", help="say by the exit status whether it takes connections")
    parser.add_argument("--listen", default="*", metavar="ADDRESS", help="address to listen on; * for every one")
    given = parser.parse_args()
    log_to_stderr("database_server")
    try:
        settings = load()
        if given.ready:
            address = f"host=127.0.0.1 port={settings.database_port} connect_timeout=3 sslmode=disable"
            sys.exit(pq.PGconn.ping(address.encode()) != pq.Ping.OK)
        socket = prepare(settings)
        lock(settings)
        chosen = {**IN_CLUSTER, "listen_addresses": given.listen, "port": str(settings.database_port)}
        line = postgres.command(settings.home / "database", socket, settings.home, **chosen)
    except InsituError as error:
        logger.error("%s", error)
        sys.exit(1)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}
    # A bare interpreter: what stays for the life of the server is a few MB.
    os.execve(sys.executable, [sys.executable, "-I", "-S", str(CUSTODIAN), *line], environment)  # noqa: S606


if __name__ == "__main__":
    main()
