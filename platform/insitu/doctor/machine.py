"""What would keep the platform from working on this machine.

Not here: the processes of a running platform (`insitu status`), and Kubernetes (examination).
"""

from __future__ import annotations

import locale
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from insitu import postgres, processes
from insitu.dicom import tls
from insitu.errors import InsituError
from insitu.runs import engine_environment
from insitu.settings import Settings

from .finding import Finding

LITTLE_DISK = 10_000_000_000  # bytes; images of a few hundred studies
NO_DISK = 500_000_000
LITTLE_MEMORY = 4_000_000_000
EXPIRES_SOON = timedelta(days=30)


def examine(settings: Settings) -> list[Finding]:
    """Every finding on this machine for these settings."""
    checks: list[Callable[[Settings], Iterator[Finding]]] = [
        _python, _home, _disk, _object_store, _memory, _ports, _database, _airflow, _isolation, _locale, _programs, _dicom_tls,
        _components,
    ]  # fmt: skip
    return [finding for check in checks for finding in check(settings)]


def _python(settings: Settings) -> Iterator[Finding]:
    yield Finding("python", "ok", platform.python_version())


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _home(settings: Settings) -> Iterator[Finding]:
    there = _existing(settings.home)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "home", "bad", f"{settings.home} cannot be written", "Choose another with INSITU_HOME, or change its rights"
        )
    elif not postgres.searchable(there):
        yield Finding(
            "home", "bad", f"{settings.home} cannot be reached by PostgreSQL, which does not run as root",
            "Choose a home below /var/lib with INSITU_HOME, or start as an ordinary user",
        )  # fmt: skip
    else:
        yield Finding("home", "ok", str(settings.home))


def _disk(settings: Settings) -> Iterator[Finding]:
    free = shutil.disk_usage(_existing(settings.home)).free
    says = f"{free / 1e9:.1f} GB free"
    if free < NO_DISK:
        yield Finding("disk", "bad", says, "Make room, or choose a home on another disk with INSITU_HOME")
    elif free < LITTLE_DISK:
        yield Finding(
            "disk", "note", says, "A CT study has about 0.5 GB: choose a home on a larger disk with INSITU_HOME"
        )
    else:
        yield Finding("disk", "ok", says)


def _object_store(settings: Settings) -> Iterator[Finding]:
    from insitu.health import ObjectStore

    if settings.object_store is None:
        return
    found = ObjectStore(settings).look()
    state = {"ok": "ok", "degraded": "note", "away": "bad"}[found.state]
    remedy = "" if state == "ok" else f"Look at {settings.object_store}; see docs/operations.md"
    yield Finding("object store", state, found.says, remedy)


def _memory(settings: Settings) -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    says = f"{total / 1e9:.1f} GB"
    if total < LITTLE_MEMORY:
        yield Finding("memory", "note", says, "Give the machine 4 GB or more; algorithms come on top")
    else:
        yield Finding("memory", "ok", says)


def _ports(settings: Settings) -> Iterator[Finding]:
    if processes.running(settings) is not None:
        yield Finding("ports", "ok", "the platform runs and holds them")
        return
    for key in ("http", "dicom", "dicom_tls", "airflow_http"):
        address: str | None = getattr(settings, key)
        if address is None:
            continue
        reason = _cannot_listen(address)
        if reason is None:
            yield Finding("ports", "ok", f"{address} ({key})")
        else:
            yield Finding("ports", "bad", f"{address} ({key}): {reason}", f"Choose another with INSITU_{key.upper()}")


def _cannot_listen(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(target)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        folder = postgres.programs(settings.home) if settings.home.exists() else None
    except (InsituError, OSError) as error:
        yield Finding("postgresql", "bad", str(error), "Install it with `make setup`")
        return
    yield Finding("postgresql", "ok", str(folder) if folder else "its programs are installed")


def _airflow(settings: Settings) -> Iterator[Finding]:
    try:
        python = engine_environment.python(settings)
    except InsituError as error:
        yield Finding("airflow", "bad", f"{error.what}: {error.value}", error.remedy or "")
        return
    version = engine_environment.version(python)
    if version is None:
        yield Finding("airflow", "bad", f"{python} has no Airflow", "Install it with `make setup`")
    else:
        yield Finding("airflow", "ok", version)


def _isolation(settings: Settings) -> Iterator[Finding]:
    from insitu.runs.launch import isolation

    report = isolation.probe()
    if report.works:
        yield Finding("isolation", "ok", f"by {report.kind}")
    else:
        yield Finding(
            "isolation", "note", f"not isolated, so only shipped and trusted algorithms run: {report.why}",
            "Install bubblewrap (Debian: apt-get install bubblewrap), or allow user name spaces",
        )  # fmt: skip


def _locale(settings: Settings) -> Iterator[Finding]:
    encoding = locale.getpreferredencoding(do_setlocale=False)
    if encoding.upper().replace("-", "") == "UTF8":
        yield Finding("locale", "ok", encoding)
    else:
        yield Finding("locale", "note", f"{encoding}: names may be shown wrongly here", "Set LANG=C.UTF-8")


def _programs(settings: Settings) -> Iterator[Finding]:
    if shutil.which("dciodvfy"):
        yield Finding("dciodvfy", "ok", "results are checked by it too")
    else:
        yield Finding(
            "dciodvfy", "note", "not installed: results are checked by our own check only",
            "Debian: apt-get install dicom3tools",
        )  # fmt: skip


def _dicom_tls(settings: Settings) -> Iterator[Finding]:
    """Certificate, key and authorities of DICOM TLS: whether they can be read, fit together, and for how long they are good."""
    if settings.dicom_tls is None and settings.tls_certificate is None:
        return
    try:
        if settings.dicom_tls is not None:
            tls.server_context(settings)
        tls.peer_context(settings.tls_ca, settings.tls_certificate, settings.tls_key)
    except InsituError as error:
        yield Finding("dicom tls", "bad", f"{error.what}: {error.why or error.value}", error.remedy or "")
        return
    if settings.tls_certificate is None:
        return
    begins, ends = tls.validity(settings.tls_certificate)
    now = datetime.now(UTC)
    says = f"the certificate is good until {ends:%Y-%m-%d}"
    if ends < now:
        yield Finding("dicom tls", "bad", f"the certificate has expired on {ends:%Y-%m-%d}", "Get a new one")
    elif begins > now:
        yield Finding("dicom tls", "bad", "the certificate is not valid yet", "Look at the clock of this machine")
    elif ends - now < EXPIRES_SOON:
        yield Finding("dicom tls", "note", says, "Get a new one; it is taken over while the receiver runs")
    else:
        yield Finding("dicom tls", "ok", says)


def _components(settings: Settings) -> Iterator[Finding]:
    """The parts of a platform that runs, as `/readyz` tells them."""
    from insitu.health import Health

    if processes.running(settings) is None:
        return
    found = Health(settings, settings.database_dsn("cli")).look()
    for name, component in found.items():
        state = {"ok": "ok", "degraded": "note", "away": "bad"}[component.state]
        yield Finding(f"running {name}", state, component.says, "" if state == "ok" else "See docs/operations.md")
