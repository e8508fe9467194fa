"""Which processes the platform has on one machine, and how each is known to be ready.

Not here: starting and stopping them (process, supervisor).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import httpx
import psutil

from insitu import postgres
from insitu.settings import Settings
from insitu_services.database_server import server as database_server
from insitu_services.prepare import databases

from .airflow import Airflow
from .process import Definition, Process

INHERITED = ("PATH", "HOME", "TZ", "TMPDIR", "SSL_CERT_FILE", "UV_CACHE_DIR")
NOT_PASSED_ON = ("INSITU_TOKEN", "INSITU_URL", "INSITU_DATABASE_DSN")


def environment(settings: Settings) -> dict[str, str]:
    """Environment of our own processes: the settings as the command line and the environment gave them."""
    chosen = {name: os.environ[name] for name in INHERITED if name in os.environ}
    chosen |= {
        name: value
        for name, value in os.environ.items()
        if name.startswith("INSITU_") and not name.startswith("INSITU_TEST_") and name not in NOT_PASSED_ON
    }
    return chosen | {
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "MALLOC_ARENA_MAX": "2",
        "INSITU_HOME": str(settings.home),
        "INSITU_HTTP": settings.http,
        "INSITU_DICOM": settings.dicom,
        "INSITU_AIRFLOW_HTTP": settings.airflow_http,
    }


def server(settings: Settings) -> Definition:
    """The PostgreSQL server: fast shutdown when asked, immediate when the supervisor dies."""
    user = postgres.run_as()
    return Definition(
        name="postgres",
        command=database_server.command(settings),
        environment={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"},
        user=(user.pw_uid, user.pw_gid) if user else None,
        ready=lambda _: databases.answers(settings),
        stop_signal=signal.SIGINT,
        orphan_signal=signal.SIGQUIT,
        workplace=settings.home / "database",
    )


def engine(airflow: Airflow) -> list[Definition]:
    """Airflow's processes. The scheduler runs the tasks (LocalExecutor)."""
    environment = airflow.environment()

    def healthy(component: str, *, with_dag: bool = False) -> Callable[[Process], bool]:
        def ready(process: Process) -> bool:
            since = process.record.started_at or 0.0
            return airflow.healthy(component, since) and (not with_dag or airflow.knows_dag())

        return ready

    return [
        Definition("airflow-api", airflow.api_server(), environment, ready=healthy("metadatabase"), patience=1.5),
        Definition(
            "airflow-scheduler",
            airflow.command("scheduler", "--skip-serve-logs"),
            environment,
            ready=healthy("scheduler"),
            # It would wait for running tasks to end; their jobs go on by themselves and are attached to again.
            patience=1.5,
        ),
        Definition(
            "airflow-dag-processor",
            airflow.command("dag-processor"),
            environment,
            ready=healthy("dag_processor", with_dag=True),
            patience=1.5,
        ),
    ]


def services(settings: Settings) -> list[Definition]:
    """The platform's own processes, in the order in which they stop."""
    shared = environment(settings)

    def module(name: str) -> list[str]:
        return [sys.executable, "-m", f"insitu_services.{name}"]

    dicom_port = int(settings.dicom.rpartition(":")[2])
    return [
        Definition("receiver", module("receiver"), shared, ready=lambda _: listens(dicom_port), patience=4.0),
        Definition(
            "dispatcher", module("dispatcher"), shared, patience=2.0,
            ready=lambda _: databases.has_session(settings, "insitu_dispatcher"),
        ),
        Definition("api", module("api"), shared, ready=lambda _: answers(f"{settings.http_url}/readyz"), patience=2.5),
    ]  # fmt: skip


def listens(port: int) -> bool:
    """Whether somebody listens on a TCP port of this machine."""
    for connection in psutil.net_connections("tcp"):
        address: tuple[object, ...] = tuple(connection.laddr)
        if connection.status == psutil.CONN_LISTEN and address and address[1] == port:
            return True
    return False


def answers(url: str) -> bool:
    """Whether a GET request is answered with 200."""
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
