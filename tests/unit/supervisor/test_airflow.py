"""Airflow is set up for itself: its own database, loopback, nothing of ours but what a task needs."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from insitu.errors import Invalid
from insitu.settings import load
from insitu_services.airflow_configuration import configuration, write
from insitu_services.prepare.secrets import secret
from insitu_services.supervisor import roster


def test_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    first = secret(tmp_path, "one")
    assert secret(tmp_path, "one") == first
    assert secret(tmp_path, "two") != first
    assert len(first) == 64
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600


def test_airflow_uses_its_own_role_and_reaches_nobody(tmp_path: Path) -> None:
    settings = load(tmp_path).model_copy(update={"runs_at_once": 5})
    (tmp_path / "secrets").mkdir()
    config = configuration(settings, tmp_path / "airflow", lambda name: secret(settings.secrets, name))
    assert config["database"]["sql_alchemy_conn"].startswith("postgresql+psycopg2://airflow:")
    assert "insitu_" not in config["database"]["sql_alchemy_conn"].partition("@")[0]
    assert config["api"]["base_url"].startswith("http://127.0.0.1:")
    assert config["core"]["load_examples"] == "False"
    # More tasks than runs: a run that concludes must not wait for one that starts.
    assert int(config["core"]["parallelism"]) > 5
    assert (Path(config["core"]["dags_folder"]) / "algorithm_run.py").is_file()


def test_lost_task_is_found_within_thirty_seconds(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    scheduler = configuration(load(tmp_path), tmp_path / "airflow", lambda name: "x")["scheduler"]
    silence = float(scheduler["task_instance_heartbeat_timeout"])
    assert silence + float(scheduler["task_instance_heartbeat_timeout_detection_interval"]) <= 30
    orphaned = float(scheduler["scheduler_health_check_threshold"]) + float(scheduler["orphaned_tasks_check_interval"])
    assert orphaned <= 30


def test_services_get_the_settings_and_not_the_callers_token(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("INSITU_TOKEN", "mine")
    monkeypatch.setenv("INSITU_QUIET_TIME", "7")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    environment = roster.environment(load(tmp_path, http="127.0.0.1:1234"))
    assert environment["INSITU_QUIET_TIME"] == "7"
    assert environment["INSITU_HTTP"] == "127.0.0.1:1234"
    assert environment["INSITU_HOME"] == str(tmp_path)
    assert "mine" not in environment.values()


def test_in_a_cluster_each_process_of_airflow_knows_its_own_secrets_only(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        launcher="kubernetes",
        database_host="db",
        airflow_url="http://airflow:8793",
        database_sslmode="require",
    )
    settings.secrets.mkdir()
    home = tmp_path / "airflow"
    home.mkdir()
    with pytest.raises(Invalid, match="Put the password of the role airflow there"):
        write(settings, home)
    (settings.secrets / "database-airflow").write_text("it's 100% @home/x")
    (settings.secrets / "airflow-jwt").write_text("jwt")
    write(settings, home)
    assert {file.name for file in settings.secrets.iterdir()} == {"database-airflow", "airflow-jwt"}, "one was made"
    config = configparser.ConfigParser(interpolation=None)
    config.read(home / "airflow.cfg")
    address = config["database"]["sql_alchemy_conn"].replace("%%", "%")
    url = make_url(address)
    assert (url.host, url.port, url.database, url.password) == ("db", 5432, "airflow", "it's 100% @home/x")
    assert url.query["sslmode"] == "require"
    assert config["core"]["execution_api_server_url"] == "http://airflow:8793/execution/"
    assert config["api_auth"]["jwt_secret"] == "jwt"
    assert "secret_key" not in config["api"]
    assert not (home / "passwords.json").exists()
    assert (home / "airflow.cfg").stat().st_mode & 0o077 == 0
