"""Apache Airflow on this machine, unpatched: its configuration, its commands, its schema, whether it is ready.

Its processes get a database of their own and no role of ours. Not here: the DAG (dags/) and what its tasks do
(insitu_operators), and the client that posts runs (insitu.runs.engine).
"""

from __future__ import annotations

import base64
import configparser
import io
import json
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import httpx

from insitu.errors import Invalid
from insitu.runs import engine_environment
from insitu.runs.engine import DAG
from insitu.settings import Settings
from insitu_services.prepare.secrets import secret, write

USER = "insitu"  # the one account of its simple auth manager, for the dispatcher

LOCAL_SETTINGS = '''"""Imports what every task needs once, before Airflow forks: a task then starts without them."""

import insitu_operators.preload  # noqa: F401
'''


class Airflow:
    """Airflow in one home.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    Invalid
        Its virtual environment is not there.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = settings.home / "airflow"
        self.python = engine_environment.python(settings)
        self.url = f"http://{settings.airflow_http}"
        self._client = httpx.Client(base_url=self.url, timeout=2.0, trust_env=False)

    def configure(self) -> None:
        """Write its whole configuration. Idempotent; a changed setting takes effect at the next start."""
        secrets = self.settings.secrets
        config = configparser.ConfigParser(interpolation=None)
        config.read_dict(configuration(self.settings, self.home))
        (self.home / "config").mkdir(exist_ok=True, mode=0o700)
        text = io.StringIO()
        config.write(text)
        write(self.home / "airflow.cfg", text.getvalue())
        write(self.home / "passwords.json", json.dumps({USER: secret(secrets, "airflow-password")}))
        write(self.home / "config" / "airflow_local_settings.py", LOCAL_SETTINGS)
        self._link_packages()

    def _link_packages(self) -> None:
        """Put the two packages its tasks import where it finds them, and nothing else of the platform's environment."""
        folder = self.home / "packages"
        folder.mkdir(exist_ok=True, mode=0o700)
        for name in ("insitu", "insitu_operators"):
            spec = find_spec(name)
            if spec is None or not spec.submodule_search_locations:
                raise Invalid(
                    "A part of the platform is not installed", value=name, remedy="Install it anew: make setup"
                )
            target, link = Path(spec.submodule_search_locations[0]), folder / name
            if not (link.is_symlink() and link.readlink() == target):
                link.unlink(missing_ok=True)
                link.symlink_to(target)

    def environment(self) -> dict[str, str]:
        """Environment of its processes; nothing of ours but what the operators need, and no secret."""
        settings = self.settings
        return {
            "PATH": f"{self.python.parent}:/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "AIRFLOW_HOME": str(self.home),
            "PYTHONPATH": str(self.home / "packages"),
            "PYTHONUNBUFFERED": "1",
            "MALLOC_ARENA_MAX": "2",
            "NO_PROXY": "*",
            "INSITU_ENGINE_URL": settings.http_url,
            "INSITU_ENGINE_TOKEN_FILE": str(settings.secrets / "engine-token"),
            "INSITU_ENGINE_JOBS": str(settings.jobs),
        }

    def command(self, *arguments: str) -> list[str]:
        """Command line of one of its programs."""
        return [str(self.python), "-m", "airflow", *arguments]

    def api_server(self) -> list[str]:
        """Command line of its API server: one worker, loopback."""
        host, _, port = self.settings.airflow_http.rpartition(":")
        return self.command("api-server", "--host", host, "--port", port, "--workers", "1")

    def is_migrated(self) -> bool:
        """Whether its schema is that of the installed version, as noted after the last migration."""
        try:
            return (self.home / "schema").read_text().strip() == self.version()
        except FileNotFoundError:
            return False

    def version(self) -> str:
        """The installed version."""
        return engine_environment.version(self.python) or "unknown"

    def migration(self) -> list[str]:
        """Command line that brings its schema up to date."""
        return self.command("db", "migrate")

    def note_migration(self) -> None:
        """Note that the schema is that of the installed version."""
        write(self.home / "schema", self.version())

    def forget_migration(self) -> None:
        """Note that the database is a new one."""
        (self.home / "schema").unlink(missing_ok=True)

    def healthy(self, component: str, since: float) -> bool:
        """Whether Airflow says that `component` is healthy, by a sign of life from after `since` (seconds since the epoch).

        Parameters
        ----------
        component : str
            `metadatabase` (the API server itself), `scheduler` or `dag_processor`.
        """
        try:
            if component == "metadatabase" and self._client.get("/execution/health").status_code != 200:
                # Its first answer to tasks takes seconds, the routes being made then; better now than in a first run.
                return False
            health = self._client.get("/api/v2/monitor/health").json()[component]
        except (httpx.HTTPError, ValueError, KeyError):
            return False
        if health["status"] != "healthy":
            return False
        beat = health.get(f"latest_{component}_heartbeat")
        return component == "metadatabase" or (beat is not None and datetime.fromisoformat(beat).timestamp() >= since)

    def knows_dag(self) -> bool:
        """Whether it takes runs of our DAG."""
        try:
            answer = self._client.post(
                "/auth/token", json={"username": USER, "password": secret(self.settings.secrets, "airflow-password")}
            )
            token = answer.json()["access_token"]
            found = self._client.get(f"/api/v2/dags/{DAG}", headers={"Authorization": f"Bearer {token}"})
            return found.status_code == 200 and not found.json()["is_paused"] and not found.json()["is_stale"]
        except (httpx.HTTPError, ValueError, KeyError):
            return False


def dags_folder() -> Path:
    """The platform's DAG files."""
    return Path(__file__).resolve().parents[3] / "dags"


def configuration(settings: Settings, home: Path) -> dict[str, dict[str, str]]:
    """Airflow's configuration, by section. What is not named here keeps Airflow's default.

    Parameters
    ----------
    settings : Settings
    home : Path
        AIRFLOW_HOME.
    """
    secrets = settings.secrets
    url = f"http://{settings.airflow_http}"
    database = (
        f"postgresql+psycopg2://airflow:{secret(secrets, 'database-airflow')}@/airflow?host={settings.database_socket}"
    )
    # Admission is the dispatcher's; every admitted run has one task at a time, and an ended one may still conclude.
    parallelism = 2 * settings.runs_at_once + 2
    return {
        "core": {
            "dags_folder": str(dags_folder()),
            "executor": "LocalExecutor",
            "parallelism": str(parallelism),
            "max_active_tasks_per_dag": str(parallelism),
            "max_active_runs_per_dag": "1024",
            "load_examples": "False",
            "fernet_key": fernet_key(secrets),
            "execution_api_server_url": f"{url}/execution/",
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{USER}:op",
            "simple_auth_manager_passwords_file": str(home / "passwords.json"),
            "dagbag_import_timeout": "120",
        },
        "database": {
            "sql_alchemy_conn": database,
            # Nothing that we use asks the database asynchronously, so no second driver is needed.
            "sql_alchemy_conn_async": "",
            "load_default_connections": "False",
            "sql_alchemy_pool_size": "3",
        },
        "logging": {
            "base_log_folder": str(home / "logs"),
            "dag_processor_child_process_log_directory": str(home / "logs" / "dag_processor"),
            "colored_console_log": "False",
        },
        "api": {
            "base_url": url,
            "secret_key": secret(secrets, "airflow-api-key"),
            "expose_config": "False",
            "expose_stacktrace": "False",
            "enable_swagger_ui": "False",
            "client_use_public_certs": "False",
            "workers": "1",
        },
        "api_auth": {"jwt_secret": secret(secrets, "airflow-jwt"), "jwt_issuer": "insitu"},
        "workers": {
            "min_heartbeat_interval": "1",
            "max_failed_heartbeats": "20",
        },
        "scheduler": {
            "scheduler_idle_sleep_time": "0.1",
            "scheduler_heartbeat_sec": "2",
            "job_heartbeat_sec": "2",
            # A lost scheduler's tasks are taken over within 25 s, a lost task is found within 30 s.
            "scheduler_health_check_threshold": "15",
            "orphaned_tasks_check_interval": "10",
            "task_instance_heartbeat_timeout": "20",
            "task_instance_heartbeat_timeout_detection_interval": "5",
            "catchup_by_default": "False",
            "enable_health_check": "False",
        },
        "dag_processor": {
            "dag_bundle_storage_path": str(home / "bundles"),
            "parsing_processes": "1",
            "refresh_interval": "60",
            "min_file_process_interval": "300",
            "stale_dag_threshold": "3600",
            "bundle_refresh_check_interval": "10",
            "print_stats_interval": "0",
            "dag_file_processor_timeout": "120",
        },
        "metrics": {"statsd_on": "False", "otel_on": "False"},
        "traces": {"otel_on": "False"},
        "usage_data_collection": {"enabled": "False"},
    }


def fernet_key(secrets: Path) -> str:
    """Airflow's key for connections it stores (we store none): 32 bytes in url-safe base64, from a secret of ours."""
    return base64.urlsafe_b64encode(bytes.fromhex(secret(secrets, "airflow-fernet"))).decode()
