"""The home folder as the supervisor needs it: made, writable, locked by one supervisor at a time, its ports free.

Not here: what the processes keep in it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import tempfile
import time
from datetime import datetime
from pathlib import Path

from insitu import postgres
from insitu.errors import Conflict, Invalid, Unavailable
from insitu.settings import Settings

PRIVATE = ("secrets", "blobs", "jobs", "environments", "supervisor", "airflow", "incoming")


def make(settings: Settings) -> None:
    """Make the home and its folders, and see that they can be written.

    Raises
    ------
    Invalid
        The home cannot be made or written.
    """
    home = settings.home
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o755)
        for name in PRIVATE:
            (home / name).mkdir(exist_ok=True, mode=0o700)
        settings.logs.mkdir(exist_ok=True, mode=0o755)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise Invalid(
            "The home folder cannot be written",
            value=str(home),
            why=f"{error.strerror} ({error.filename or home})",
            remedy="Choose another with --home DIR or INSITU_HOME, or give yourself the right to write there",
        ) from error
    if not postgres.searchable(home):
        user = postgres.run_as()
        raise Invalid(
            "PostgreSQL cannot reach the home folder",
            value=str(home),
            why=f"as root it runs as {user.pw_name if user else 'another user'}, who may not search every folder above it",
            remedy="Choose a home below /var/lib with --home DIR, or start as an ordinary user",
        )


class Lock:
    """The right to run the platform in a home. It ends with the process, however that ends.

    Raises
    ------
    Conflict
        Another process holds it; the message says which and since when.
    """

    def __init__(self, settings: Settings) -> None:
        file = settings.home / "supervisor" / "lock"
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 1000, 0)
            os.close(self._descriptor)
            raise Conflict(
                "The platform already runs in this home",
                value=str(settings.home),
                why=_holder(holder),
                remedy="Stop it first, or choose another home with --home DIR",
            ) from None
        note = json.dumps({"pid": os.getpid(), "since": time.time()}).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, note, 0)

    def release(self) -> None:
        """Give the home free."""
        os.close(self._descriptor)


def _holder(note: bytes) -> str:
    try:
        content = json.loads(note)
        since = datetime.fromtimestamp(content["since"]).astimezone()
        return f"`insitu up` with process number {content['pid']} holds it since {since:%Y-%m-%d %H:%M:%S}"
    except (ValueError, KeyError, TypeError):  # it is being written at this very moment
        return "another `insitu up` holds it"


def check_ports(settings: Settings) -> None:
    """See that every port is free.

    Raises
    ------
    Conflict
        One is in use, or it may not be opened; the message names the setting.
    Invalid
        The address is none of this machine.
    """
    for what, address, key, option in (
        ("web pages", settings.http, "http", "--http HOST:PORT or "),
        ("DICOM receiver", settings.dicom, "dicom", "--dicom HOST:PORT or "),
        ("workflow engine", settings.airflow_http, "airflow_http", ""),
    ):
        remedy = f"Choose another with {option}INSITU_{key.upper()}, or stop the other program"
        try:
            _bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Conflict(
                    f"The port of the {what} is in use",
                    value=address,
                    why="Another program listens there",
                    remedy=remedy,
                ) from error
            if error.errno == errno.EACCES:
                raise Conflict(
                    f"The port of the {what} may not be opened", value=address,
                    why="Ports below 1024 are for root", remedy=remedy,
                ) from error  # fmt: skip
            raise Invalid(
                f"The address of the {what} cannot be used", value=address, why=error.strerror, remedy=remedy
            ) from error


def _bind(address: str) -> None:
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, target = found[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(target)
        trial.listen(1)


def check_disk(settings: Settings, needed: int = 500_000_000) -> None:
    """See that the disk of the home has `needed` bytes left.

    Raises
    ------
    Unavailable
        It has not.
    """
    free = _free_bytes(settings.home)
    if free < needed:
        raise Unavailable(
            "The disk of the home folder is nearly full",
            value=str(settings.home),
            why=f"{free // 1_000_000} MB are free, at least {needed // 1_000_000} MB are needed to start",
            remedy="Make room, or choose a home on another disk with --home DIR",
        )


def _free_bytes(folder: Path) -> int:
    numbers = os.statvfs(folder)
    return numbers.f_bavail * numbers.f_frsize
