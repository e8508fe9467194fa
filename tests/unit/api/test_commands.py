"""The commands about people, projects and the audit trail, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from insitu.audit import seal
from insitu.errors import InsituError

Command = Callable[..., Any]


def test_a_person_cannot_be_let_in_by_commands(house: Any, insitu: Command) -> None:
    assert insitu("project", "create", "gamma", "--title", "Third", "--json")["name"] == "gamma"
    made = insitu("user", "create", "anna", "--generate", "--json")
    insitu("user", "create", "bert", typed="a long enough password\n")
    insitu("project", "member", "gamma", "anna", "--role", "reviewer")
    assert "reviewer" in insitu("project", "show", "gamma")
    assert "gamma (reviewer)" in insitu("user", "list")
    assert "Third" in insitu("project", "list")
    for name, password in (("anna", made["password"]), ("bert", "a long enough password")):
        with house.browser() as browser:
            answer = browser.post("/api/v1/session", json={"name": name, "password": password})
            assert answer.status_code == 200, answer.text


def test_an_account_cannot_be_shut_out_by_commands(house: Any, insitu: Command) -> None:
    anna = house.client(house.account("anna", alpha="reader"))
    assert anna.get("/api/v1/session").json()["memberships"] == {"alpha": "reader"}
    insitu("project", "member", "alpha", "anna", "--remove")
    assert anna.get("/api/v1/session").json()["memberships"] == {}
    insitu("user", "disable", "anna")
    assert anna.get("/api/v1/session").status_code == 401
    insitu("user", "enable", "anna")
    insitu("user", "admin", "anna")
    assert anna.get("/api/v1/session").json()["site_admin"] is True
    insitu("user", "admin", "anna", "--remove")
    assert "is set" in insitu("user", "password", "anna", "--generate")
    with pytest.raises(InsituError, match="shorter"):
        insitu("user", "password", "anna", typed="short\n")
    with pytest.raises(InsituError, match="no such account"):
        insitu("user", "disable", "nobody")
    with pytest.raises(InsituError, match="--role"):
        insitu("project", "member", "alpha", "anna")


def test_a_token_cannot_be_made_and_revoked_by_commands(house: Any, insitu: Command) -> None:
    house.account("anna")
    secret = insitu("token", "create", "script", "--account", "anna", "--days", "0").strip()
    program = house.client(secret)
    assert program.get("/api/v1/session").json()["name"] == "anna"
    listed = insitu("token", "list", "--account", "anna", "--json")
    (token,) = [item for item in listed if item["name"] == "script"]
    assert token["expires_at"] is None
    assert "script" in insitu("token", "list", "--account", "anna")
    insitu("token", "revoke", token["id"])
    assert program.get("/api/v1/session").status_code == 401


def test_a_changed_trail_lets_the_command_succeed(house: Any, insitu: Command) -> None:
    insitu("project", "create", "gamma")
    assert [event["resource"] for event in insitu("audit", "list", "--action", "project-create", "--json")] == ["gamma"]
    assert "project-create" in insitu("audit", "list", "--since", "2020-01-01")
    with house.context.database.transaction() as connection:
        seal.seal(connection, seal.anchor_file(house.context.settings))
    assert "is whole" in insitu("audit", "verify")
    with house.context.database.transaction() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute("UPDATE audit_event SET actor = 'mallory' WHERE action = 'project-create'")
    insitu("audit", "verify", status=1)
    assert insitu("audit", "verify", "--json", status=1)["ok"] is False


def test_only_the_site_admin_says_what_a_project_may_use_and_it_is_audited(house: Any, insitu: Command) -> None:
    with house.client(house.account("lead", alpha="lead")) as lead:
        assert lead.patch("/api/v1/projects/alpha", json={"weight": 900}).status_code == 403
        assert lead.get("/api/v1/projects/alpha").json()["weight"] == 1
    insitu("project", "share", "alpha", "--weight", "2.5")
    assert insitu("project", "share", "alpha", "--runs-at-once", "3", "--json")["weight"] == 2.5
    shown = insitu("project", "show", "alpha", "--json")
    assert (shown["weight"], shown["runs_at_once"]) == (2.5, 3)
    assert "no limit of its own" in insitu("project", "share", "alpha", "--runs-at-once", "0")
    with pytest.raises(InsituError, match="weight"):
        insitu("project", "share", "alpha", "--weight", "0")
    events = insitu("audit", "list", "--action", "project-share", "--json")
    assert [event["detail"]["runs_at_once"] for event in events] == [None, 3, None]
