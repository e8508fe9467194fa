"""What prepares a platform in a cluster: from nothing, twice at once, again, on a site's own server; and those who wait for it."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path

import psycopg
import pytest

from insitu.database import Database
from insitu.errors import InsituError, Invalid, Unavailable
from insitu.identity import accounts
from insitu.settings import Settings
from insitu_services.prepare import databases, packages, schema, secrets
from insitu_services.prepare.__main__ import prepare, wait


@pytest.fixture(autouse=True)
def no_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments of packages take a minute to build, and have tests of their own."""
    monkeypatch.setattr(packages, "folder", lambda: tmp_path)


def logs_in(settings: Settings, password: str) -> bool:
    database = Database(settings.database_dsn("api"), maximum=1)
    try:
        with database.transaction() as connection:
            return accounts.attempt(connection, "admin", password).account is not None
    finally:
        database.close()


def test_two_at_once_prepare_a_platform_whose_processes_then_start(fresh: Settings) -> None:
    waited: list[float | Exception] = []

    def waiter() -> None:
        began = time.monotonic()
        try:
            wait(fresh, 120)
            waited.append(time.monotonic() - began)
        except InsituError as error:
            waited.append(error)

    failures: list[InsituError | psycopg.Error] = []

    def preparer() -> None:
        try:
            prepare(fresh)
        except (InsituError, psycopg.Error) as error:
            failures.append(error)

    threads = [threading.Thread(target=waiter), *(threading.Thread(target=preparer) for _ in range(2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert failures == []
    assert isinstance(waited[0], float), waited
    for role in databases.PROCESSES:
        with psycopg.connect(fresh.database_dsn(role)) as connection:
            assert connection.execute("SELECT name FROM project").fetchall() == [("inbox",)]
    assert logs_in(fresh, "the first password of all")
    # Airflow's role opens its own database and not ours.
    airflow = secrets.secret(fresh.secrets, "database-airflow")
    psycopg.connect(fresh.dsn("airflow", airflow, "airflow")).close()
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(fresh.dsn("airflow", airflow, fresh.database_name))


def test_repeat_changes_no_password_that_the_admin_chose(fresh: Settings) -> None:
    prepare(fresh)
    database = Database(databases.owner_dsn(fresh), maximum=1)
    with database.transaction() as connection:
        accounts.set_password(connection, "admin", "chosen by a person")
    database.close()
    prepare(fresh)
    assert logs_in(fresh, "chosen by a person")
    assert not logs_in(fresh, "the first password of all")


def test_waiting_says_what_is_missing(fresh: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="takes no connection"):
        wait(fresh, 0)
    databases.arrange(fresh)
    with pytest.raises(Unavailable, match="the schema is not made yet"):
        wait(fresh, 0)
    schema.prepare(fresh)
    with pytest.raises(Unavailable, match="the project inbox is not made yet"):
        wait(fresh, 0)
    with psycopg.connect(databases.owner_dsn(fresh)) as connection:
        connection.execute("CREATE TABLE of_a_later_version (n int)")
    with pytest.raises(Unavailable, match="the rights on the table of_a_later_version are not given yet"):
        wait(fresh, 0)
    monkeypatch.setattr(schema, "newest_revision", lambda: "0002")
    with pytest.raises(Unavailable, match="the schema is at 0001, this version needs 0002"):
        wait(fresh, 0)


def test_without_a_first_password_nothing_is_printed_and_the_remedy_is_said(fresh: Settings, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True)
    for file in fresh.secrets.iterdir():
        if file.name != "admin-password":
            (home / "secrets" / file.name).write_text(file.read_text())
    with pytest.raises(Invalid, match="no password for one"):
        prepare(fresh.model_copy(update={"home": home}))
    with pytest.raises(Unavailable, match="the project inbox is not made yet"):
        wait(fresh, 0)


def test_token_that_the_site_gave_acts_as_the_admin_until_another_is_given(fresh: Settings) -> None:
    file = fresh.secrets / "admin-token"
    try:
        file.write_text("hunter2")
        with pytest.raises(Invalid, match="cannot be a token"):
            prepare(fresh)
        found = []
        for _ in range(2):
            file.write_text(f"insitu_api_{uuid.uuid4().hex}")
            prepare(fresh)
            prepare(fresh)
            with psycopg.connect(fresh.database_dsn("api")) as connection:
                found.append(connection.execute("SELECT token_hash FROM api_token").fetchall())
        assert len(found[0]) == len(found[1]) == 1
        assert found[0] != found[1], "the token that was replaced is still valid"
    finally:
        file.unlink()


def test_server_of_the_site_needs_no_superuser_but_its_roles(fresh: Settings, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True)
    for file in fresh.secrets.iterdir():
        if file.name != "database-superuser":
            (home / "secrets" / file.name).write_text(file.read_text())
    external = fresh.model_copy(update={"home": home})
    with pytest.raises(InsituError):
        prepare(external, patience=0)
    databases.arrange(fresh)  # what its owner does
    (home / "secrets" / "database-receiver").write_text("another")
    with pytest.raises(
        Invalid, match=f"insitu_receiver cannot open {fresh.database_name}.*CREATE ROLE insitu_receiver"
    ):
        prepare(external)
    (home / "secrets" / "database-receiver").write_text((fresh.secrets / "database-receiver").read_text())
    prepare(external)
    wait(external, 0)
    prepare(fresh, expect_roles=True)


def test_bucket_is_waited_for_and_no_process_starts_without(fresh: Settings) -> None:
    nowhere = fresh.model_copy(update={"object_store": "http://127.0.0.1:1/insitu"})
    for name in ("object-store-access-key", "object-store-secret-key"):
        (fresh.secrets / name).write_text("abcdefghij")
    with pytest.raises(Unavailable, match="The object store does not answer"):
        prepare(nowhere, patience=1)
    with pytest.raises(Unavailable, match="the project inbox is not made yet"):
        wait(nowhere, 0)
