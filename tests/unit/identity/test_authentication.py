"""What counts as a credential."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from insitu.database import Database
from insitu.errors import Conflict, Invalid, NotFound
from insitu.identity import tokens
from insitu.identity.authentication import authenticate
from insitu.identity.sessions import COOKIE, open_session
from insitu.projects.permissions import Action, Principal
from insitu.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def account(database: Database) -> str:
    """Identifier of the account `anna`."""
    with database.transaction() as connection:
        row = connection.execute(
            "INSERT INTO account (name, password_hash) VALUES ('anna', 'none') RETURNING id::text AS id"
        ).fetchone()
    assert row is not None
    return str(row["id"])


def test_an_odd_header_is_taken_for_a_credential_or_an_error(database: Database, settings: Settings) -> None:
    def basic(text: bytes) -> str:
        return "Basic " + base64.b64encode(text).decode()

    odd = (
        "", " ", "Bearer", "Bearer ", "Bearer \x00", "Bearer ü", "insitu_api_x", "Basic", "Basic !!!", basic(b"\xff:\xff"),
        basic(b"no colon"), basic(b"anna:"), basic(b"anna:password"), "Digest x", "Bearer insitu_api_", "Bearer insitu_step_",
    )  # fmt: skip
    for text in odd:
        assert authenticate(database, settings, {"authorization": text}, {}, "GET") is None, text
    for cookie in ("", "x", "\x00", "ü" * 1000):
        assert authenticate(database, settings, {}, {COOKIE: cookie}, "GET") is None


def test_a_missing_or_empty_engine_token_lets_everybody_be_the_engine(database: Database, settings: Settings) -> None:
    assert authenticate(database, settings, {"authorization": "Bearer x"}, {}, "POST") is None
    settings.secrets.mkdir()
    (settings.secrets / "engine-token").write_text("")
    assert authenticate(database, settings, {"authorization": "Bearer x"}, {}, "POST") is None
    (settings.secrets / "engine-token").write_text("the-secret\n")
    assert authenticate(database, settings, {"authorization": "Bearer x"}, {}, "POST") is None
    engine = authenticate(database, settings, {"authorization": "Bearer the-secret"}, {}, "POST")
    assert engine == Principal(name="engine", kind="engine", grants=frozenset({Action.ENGINE_CALL}))


def test_a_cookie_helps_where_the_token_beside_it_is_invalid(
    database: Database, settings: Settings, account: str
) -> None:
    with database.transaction() as connection:
        cookie = open_session(connection, account, 1)
    assert authenticate(database, settings, {}, {COOKIE: cookie}, "GET") is not None
    assert authenticate(database, settings, {"authorization": "Bearer wrong"}, {COOKIE: cookie}, "GET") is None


def test_the_token_of_an_ended_step_opens_something(database: Database, settings: Settings) -> None:
    token = "insitu_step_abc"
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('alpha')")
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES ('sha256:0', 'x', '1', '{}', '/', 'test')"
        )
        connection.execute(
            "INSERT INTO run (identity, project, algorithm, publish_version, inputs, parameters)"
            " VALUES ('r', 'alpha', 'sha256:0', '1', '[]', '{}')"
        )
        connection.execute("INSERT INTO execution (id, run, number, requested_by) VALUES ('e1', 'r', 1, 'test')")
        connection.execute(
            "INSERT INTO execution_token VALUES (%s, 'e1', 'publish', now() + interval '1 hour')",
            (hashlib.sha256(token.encode()).digest(),),
        )
    headers = {"authorization": f"Bearer {token}"}
    step = authenticate(database, settings, headers, {}, "POST")
    assert step is not None
    assert (step.kind, step.execution, step.grants) == ("step", "e1", frozenset({Action.GATEWAY_PUBLISH}))
    with database.transaction() as connection:
        connection.execute("UPDATE execution_token SET expires_at = now() - interval '1 second'")
    assert authenticate(database, settings, headers, {}, "POST") is None


def test_every_request_writes_when_a_token_was_used(database: Database, settings: Settings, account: str) -> None:
    with database.transaction() as connection:
        token = tokens.create(connection, "anna", "script")

    def used() -> object:
        authenticate(database, settings, {"authorization": f"Bearer {token}"}, {}, "GET")
        with database.transaction() as connection:
            return tokens.of_account(connection, "anna")[0]["last_used"]

    with database.transaction() as connection:
        connection.execute("UPDATE api_token SET last_used = now() + interval '1 hour'")  # noted not long ago
    kept = used()
    assert used() == kept
    with database.transaction() as connection:
        connection.execute("UPDATE api_token SET last_used = now() - interval '2 hours'")
    assert used() != kept


def test_a_token_without_name_owner_or_end_is_made(database: Database, account: str) -> None:
    with database.transaction() as connection:
        with pytest.raises(Invalid):
            tokens.create(connection, "anna", " ")
        with pytest.raises(NotFound):
            tokens.create(connection, "nobody", "script")
        for days in (0, -1, 1e9):
            with pytest.raises(Invalid):
                tokens.create(connection, "anna", "script", days=days)
        first = tokens.create(connection, "anna", "script")
        with pytest.raises(Conflict):
            tokens.create(connection, "anna", "script")
        assert tokens.ensure(connection, "anna", "script") != first
        assert len(tokens.of_account(connection, "anna")) == 1
