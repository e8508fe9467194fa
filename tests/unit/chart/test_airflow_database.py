"""The chart's own program that asks for Airflow's database: it finds the address that Airflow will use, and tells who is silent."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from insitu.settings import Settings
from insitu_services import airflow_configuration
from tests.helm import CHART

PASSWORD = "50% of /all@once"


class Database:
    """What the program needs of a connection: whether there is a schema, and for how many seconds a job has been silent."""

    def __init__(self, silent: float | None) -> None:
        self._silent = silent
        self._asked = ""

    def cursor(self) -> Database:
        return self

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, statement: str, values: tuple[str, ...] = ()) -> None:
        assert "alembic_version" in statement or values == ("DagProcessorJob",)
        self._asked = statement

    def fetchone(self) -> tuple[Any]:
        return (True,) if "alembic_version" in self._asked else (self._silent,)

    def close(self) -> None:
        pass


class Away(Exception):
    """The database cannot be reached."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With a password and an authority's path that need quoting."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "database-airflow").write_text(PASSWORD)
    return Settings.model_validate(
        {
            "home": tmp_path, "launcher": "kubernetes", "database_host": "pg.hospital.example", "database_ca": "/etc/ca.crt",
            "database_sslmode": "verify-full", "object_store": "http://s3/insitu", "airflow_url": "http://airflow:8793",
            "gateway_url": "http://gateway:8090",
        }
    )  # fmt: skip


Run = Callable[..., list[str]]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the program in the folder of an Airflow; the addresses it asked."""
    home = settings.home / "airflow"
    home.mkdir()
    airflow_configuration.write(settings, home)

    def program(*arguments: str, silent: float | None = 0.0, away: bool = False) -> list[str]:
        asked: list[str] = []

        def connect(address: str, connect_timeout: int) -> Database:
            asked.append(address)
            if away:
                raise Away
            return Database(silent)

        driver = types.SimpleNamespace(connect=connect, OperationalError=Away)
        monkeypatch.setitem(sys.modules, "psycopg2", driver)
        monkeypatch.setenv("AIRFLOW_HOME", str(home))
        monkeypatch.setattr("sys.argv", ["program", *arguments])
        monkeypatch.setattr("os.execvp", lambda *_: None)
        spec = importlib.util.spec_from_file_location("program", CHART / "files" / "airflow_database.py")
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        made.main()
        return asked

    return program


@pytest.mark.parametrize("arguments", [("wait", "--schema", "db"), ("alive", "DagProcessorJob", "300")])
def test_it_asks_the_database_that_airflow_will_use(run: Run, settings: Settings, arguments: tuple[str, ...]) -> None:
    assert run(*arguments) == [airflow_configuration.database_url(settings, PASSWORD).replace("+psycopg2", "")]


@pytest.mark.parametrize("silent", [301.0, None])
def test_a_job_that_is_silent_is_told(run: Run, silent: float | None) -> None:
    with pytest.raises(SystemExit, match="DagProcessorJob has been silent"):
        run("alive", "DagProcessorJob", "300", silent=silent)


def test_a_database_that_is_away_is_no_reason_to_start_anybody_anew(run: Run) -> None:
    assert run("alive", "DagProcessorJob", "300", away=True)
