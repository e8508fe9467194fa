"""Apache Airflow on this machine, unpatched: its environment, its commands, its schema, whether it is ready.

Not here: its configuration (insitu_services.airflow_configuration), the DAG (dags/) and what its tasks do (insitu_operators),
and the client that posts runs (insitu.runs.engine).
"""

from __future__ import annotations

from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import httpx

from insitu.errors import Invalid
from insitu.runs import engine_environment
from insitu.runs.engine import DAG
from insitu.settings import Settings
from insitu_services import airflow_configuration
from insitu_services.airflow_configuration import USER
from insitu_services.prepare.secrets import secret, write


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
        self.url = settings.engine_url
        self._client = httpx.Client(base_url=self.url, timeout=2.0, trust_env=False)

    def configure(self) -> None:
        """Write its whole configuration. Idempotent; a changed setting takes effect at the next start."""
        airflow_configuration.write(self.settings, self.home)
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
