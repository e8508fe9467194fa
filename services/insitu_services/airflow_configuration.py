"""Airflow's whole configuration, the same on one machine and in a cluster: `python -m insitu_services.airflow_configuration FOLDER`.

FOLDER is AIRFLOW_HOME. In a cluster a container that has the secrets writes it for another that runs Airflow; a secret that it was
not given is left out, so that each of Airflow's processes knows those only that it needs. Airflow gets a database of its own and no
role of ours.
Not here: its processes (supervisor.airflow, the Helm chart).
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import io
import json
import logging
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from insitu.errors import InsituError, Invalid
from insitu.settings import NOTICE_DEATH, Settings, load

from .logs import log_to_stderr
from .prepare import secrets

logger = logging.getLogger("insitu.airflow_configuration")

USER = "insitu"  # the one account of its simple auth manager, for the dispatcher
DATABASE = ROLE = "airflow"

LOCAL_SETTINGS = '''"""Imports what every task needs once, before Airflow forks: a task then starts without them."""

import insitu_operators.preload  # noqa: F401
'''


def write(settings: Settings, home: Path) -> None:
    """Write it into AIRFLOW_HOME. Idempotent; a changed setting takes effect at the next start.

    On one machine secrets that are not there are made.

    Raises
    ------
    Invalid
        The password of Airflow's database is missing.
    """

    def known(name: str) -> str | None:
        return secrets.given(settings.secrets, name) if settings.in_cluster else secrets.secret(settings.secrets, name)

    config = configparser.ConfigParser(interpolation=None)
    for section, values in configuration(settings, home, known).items():
        config[section] = {name: value.replace("%", "%%") for name, value in values.items()}  # Airflow interpolates
    (home / "config").mkdir(exist_ok=True, mode=0o700)
    text = io.StringIO()
    config.write(text)
    secrets.write(home / "airflow.cfg", text.getvalue())
    password = known("airflow-password")
    if password is not None:
        secrets.write(home / "passwords.json", json.dumps({USER: password}))
    secrets.write(home / "config" / "airflow_local_settings.py", LOCAL_SETTINGS)


def dags_folder() -> Path:
    """The platform's DAG files."""
    return Path(__file__).resolve().parents[2] / "dags"


def configuration(settings: Settings, home: Path, known: Callable[[str], str | None]) -> dict[str, dict[str, str]]:
    """Airflow's configuration, by section. What is not named here keeps Airflow's default.

    Parameters
    ----------
    settings : Settings
    home : Path
        AIRFLOW_HOME.
    known : callable
        The secret of a name; None where this process is not to know it.
    """
    url = settings.engine_url
    # Admission is the dispatcher's; every admitted run has one task at a time, and an ended one may still conclude.
    parallelism = 2 * (settings.runs_at_once + settings.trainings_at_once) + 2
    return {
        "core": {
            "dags_folder": str(dags_folder()),
            "executor": "LocalExecutor",
            "parallelism": str(parallelism),
            "max_active_tasks_per_dag": str(parallelism),
            "max_active_runs_per_dag": "1024",
            "load_examples": "False",
            **_secret("fernet_key", known("airflow-fernet"), fernet_key),
            "execution_api_server_url": f"{url}/execution/",
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{USER}:op",
            "simple_auth_manager_passwords_file": str(home / "passwords.json"),
            "dagbag_import_timeout": "120",
        },
        "database": {
            "sql_alchemy_conn": database_url(settings, known("database-airflow")),
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
            **_secret("secret_key", known("airflow-api-key")),
            "expose_config": "False",
            "expose_stacktrace": "False",
            "enable_swagger_ui": "False",
            "client_use_public_certs": "False",
            "workers": "1",
        },
        "api_auth": {**_secret("jwt_secret", known("airflow-jwt")), "jwt_issuer": "insitu"},
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


def database_url(settings: Settings, password: str | None) -> str:
    """Where Airflow's own database is, as SQLAlchemy takes it.

    Raises
    ------
    Invalid
        There is no password.
    """
    if password is None:
        raise Invalid(
            "The password of Airflow's database is missing",
            value=str(settings.secrets / "database-airflow"),
            remedy=f"Put the password of the role {ROLE} there",
        )
    who = f"postgresql+psycopg2://{ROLE}:{urllib.parse.quote(password, safe='')}@"
    if settings.database_host is None:
        return f"{who}/{DATABASE}?host={settings.database_socket}"
    host = f"[{settings.database_host}]" if ":" in settings.database_host else settings.database_host
    options: dict[str, object] = {"sslmode": settings.database_sslmode}
    if settings.database_sslmode.startswith("verify-"):
        options["sslrootcert"] = settings.database_ca or "system"
    return f"{who}{host}:{settings.database_port}/{DATABASE}?{urllib.parse.urlencode(options | NOTICE_DEATH)}"


def fernet_key(text: str) -> str:
    """Airflow's key for connections it stores (we store none): 32 bytes in url-safe base64, from a secret of ours."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:  # a site chose it
        key = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(key).decode()


def _secret(name: str, value: str | None, form: Callable[[str], str] = str) -> dict[str, str]:
    return {} if value is None else {name: form(value)}


def main() -> None:
    """Entry point."""
    log_to_stderr("airflow_configuration")
    try:
        if len(sys.argv) != 2:
            raise Invalid("Name the folder that is AIRFLOW_HOME", value=" ".join(sys.argv[1:]))
        write(load(), Path(sys.argv[1]))
    except InsituError as error:
        logger.error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
