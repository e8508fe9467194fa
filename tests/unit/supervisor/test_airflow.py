"""Airflow is set up for itself: its own database, loopback, nothing of ours but what a task needs."""

from __future__ import annotations

from pathlib import Path

from insitu.settings import load
from insitu_services.prepare.secrets import secret
from insitu_services.supervisor import roster
from insitu_services.supervisor.airflow import configuration


def test_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    first = secret(tmp_path, "one")
    assert secret(tmp_path, "one") == first
    assert secret(tmp_path, "two") != first
    assert len(first) == 64
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600


def test_airflow_uses_its_own_role_and_reaches_nobody(tmp_path: Path) -> None:
    settings = load(tmp_path).model_copy(update={"runs_at_once": 5})
    (tmp_path / "secrets").mkdir()
    config = configuration(settings, tmp_path / "airflow")
    assert config["database"]["sql_alchemy_conn"].startswith("postgresql+psycopg2://airflow:")
    assert "insitu_" not in config["database"]["sql_alchemy_conn"].partition("@")[0]
    assert config["api"]["base_url"].startswith("http://127.0.0.1:")
    assert config["core"]["load_examples"] == "False"
    # More tasks than runs: a run that concludes must not wait for one that starts.
    assert int(config["core"]["parallelism"]) > 5
    assert (Path(config["core"]["dags_folder"]) / "algorithm_run.py").is_file()


def test_lost_task_is_found_within_thirty_seconds(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    scheduler = configuration(load(tmp_path), tmp_path / "airflow")["scheduler"]
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
