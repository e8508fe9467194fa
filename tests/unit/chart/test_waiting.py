"""The chart's own program that waits for Airflow's database finds the address that Airflow will use."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest

from insitu.settings import Settings
from insitu_services import airflow_configuration
from tests.helm import CHART

PASSWORD = "50% of /all@once"


class Database:
    """What the program needs of a connection."""

    def cursor(self) -> Database:
        return self

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, statement: str) -> None:
        assert "alembic_version" in statement

    def fetchone(self) -> tuple[bool]:
        return (True,)

    def close(self) -> None:
        pass


def test_it_asks_the_database_that_airflow_will_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "airflow"
    home.mkdir()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "database-airflow").write_text(PASSWORD)
    settings = Settings.model_validate(
        {
            "home": tmp_path, "launcher": "kubernetes", "database_host": "pg.hospital.example", "database_ca": "/etc/ca.crt",
            "database_sslmode": "verify-full", "object_store": "http://s3/insitu", "airflow_url": "http://airflow:8793",
            "gateway_url": "http://gateway:8090",
        }
    )  # fmt: skip
    airflow_configuration.write(settings, home)
    asked: list[str] = []

    def connect(address: str, connect_timeout: int) -> Database:
        asked.append(address)
        return Database()

    driver = types.SimpleNamespace(connect=connect, OperationalError=OSError)
    monkeypatch.setitem(sys.modules, "psycopg2", driver)
    monkeypatch.setenv("AIRFLOW_HOME", str(home))
    monkeypatch.setattr("sys.argv", ["waits", "--schema", "db"])
    monkeypatch.setattr("os.execvp", lambda *_: None)
    spec = importlib.util.spec_from_file_location("waits", CHART / "files" / "airflow_after_database.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.main()
    assert asked == [airflow_configuration.database_url(settings, PASSWORD).replace("+psycopg2", "")]
