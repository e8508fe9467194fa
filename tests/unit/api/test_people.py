"""Accounts, tokens, projects and the audit trail over HTTP, as the commands use them."""

from __future__ import annotations

import base64
from typing import Any

from insitu.audit import seal

PASSWORD = "a long enough password"


def test_a_disabled_account_is_still_answered(house: Any) -> None:
    admin = house.client(house.account("admin", site_admin=True))
    with house.client(house.account("anna", alpha="reader")) as anna:
        assert anna.get("/api/v1/projects").status_code == 200
        assert admin.patch("/api/v1/accounts/anna", json={"disabled": True}).status_code == 200
        assert anna.get("/api/v1/projects").status_code == 401
        assert admin.patch("/api/v1/accounts/anna", json={"disabled": False}).status_code == 200
        assert anna.get("/api/v1/projects").status_code == 200


def test_a_site_can_be_left_without_an_admin(house: Any) -> None:
    admin = house.client(house.account("admin", site_admin=True))
    for change in ({"disabled": True}, {"site_admin": False}):
        answer = admin.patch("/api/v1/accounts/admin", json=change)
        assert answer.status_code == 409, answer.text
    assert admin.get("/api/v1/accounts").status_code == 200


def test_an_account_is_made_twice_or_with_a_bad_name_or_password(house: Any) -> None:
    admin = house.client(house.account("admin", site_admin=True))

    def make(name: str, password: str = PASSWORD) -> int:
        return admin.post("/api/v1/accounts", json={"name": name, "password": password}).status_code

    assert make("anna") == 201
    assert make("anna") == 409
    assert make("Anna") == 409
    assert make("an na") == 422
    assert make("bert", "short") == 422
    assert make("bertha", "my name is BERTHA!") == 422
    listed = admin.get("/api/v1/accounts")
    assert [account["name"] for account in listed.json()["accounts"]] == ["admin", "anna"]
    assert "password" not in listed.text


def test_a_revoked_token_still_opens(house: Any) -> None:
    anna = house.client(house.account("anna", alpha="reader"))
    made = anna.post("/api/v1/tokens", json={"name": "script", "days": 1}).json()
    with house.client(made["token"]) as script:
        assert script.get("/api/v1/session").json()["name"] == "anna"
        listed = anna.get("/api/v1/tokens")
        assert made["token"] not in listed.text
        (token,) = [item for item in listed.json()["tokens"] if item["name"] == "script"]
        assert token["last_used"] is not None
        assert anna.post("/api/v1/tokens", json={"name": "script"}).status_code == 409
        assert anna.delete(f"/api/v1/tokens/{token['id']}").status_code == 204
        assert script.get("/api/v1/session").status_code == 401
        assert anna.delete(f"/api/v1/tokens/{token['id']}").status_code == 404
        assert anna.delete("/api/v1/tokens/no-uuid").status_code == 404


def test_a_client_that_knows_only_basic_credentials_is_refused(house: Any) -> None:
    token = house.account("anna", password="a long enough password")

    def ask(password: str) -> int:
        value = base64.b64encode(f"anna:{password}".encode()).decode()
        with house.client(authorization=f"Basic {value}") as client:
            return client.get("/api/v1/session").status_code

    assert ask(token) == 200
    assert ask("a long enough password") == 401


def test_one_may_make_tokens_for_others(house: Any) -> None:
    house.account("bert")
    anna = house.client(house.account("anna", alpha="lead"))
    assert anna.post("/api/v1/tokens", json={"name": "x", "account": "bert"}).status_code == 403
    assert anna.get("/api/v1/tokens", params={"account": "bert"}).status_code == 403
    admin = house.client(house.account("admin", site_admin=True))
    made = admin.post("/api/v1/tokens", json={"name": "x", "account": "bert", "days": None})
    assert made.status_code == 201
    with house.client(made.json()["token"]) as bert:
        assert bert.get("/api/v1/session").json()["name"] == "bert"


def test_a_lead_cannot_run_the_projects_members_or_those_of_another(house: Any) -> None:
    house.account("bert")
    lead = house.client(house.account("anna", alpha="lead", beta="reader"))
    assert lead.put("/api/v1/projects/alpha/members/bert", json={"role": "reader"}).status_code == 200
    assert lead.put("/api/v1/projects/alpha/members/bert", json={"role": "reviewer"}).status_code == 200
    shown = lead.get("/api/v1/projects/alpha").json()
    assert shown["members"] == [
        {"account": "anna", "role": "lead", "disabled": False},
        {"account": "bert", "role": "reviewer", "disabled": False},
    ]
    assert lead.put("/api/v1/projects/alpha/members/nobody", json={"role": "reader"}).status_code == 404
    assert lead.put("/api/v1/projects/alpha/members/bert", json={"role": "king"}).status_code == 422
    assert lead.put("/api/v1/projects/beta/members/bert", json={"role": "reader"}).status_code == 403
    assert lead.put("/api/v1/projects/inbox/members/bert", json={"role": "reader"}).status_code == 404
    assert lead.delete("/api/v1/projects/alpha/members/bert").status_code == 204
    assert lead.delete("/api/v1/projects/alpha/members/bert").status_code == 404
    assert [project["name"] for project in lead.get("/api/v1/projects").json()["projects"]] == ["alpha", "beta"]


def test_a_series_is_shared_by_whoever_may_not_read_it_or_not_store(furnished: Any) -> None:
    series = furnished.uids["series"]
    furnished.account("reader", beta="reader")
    both = furnished.client(furnished.account("both", alpha="reader", beta="researcher"))
    only_target = furnished.client(furnished.account("target", beta="lead"))
    only_source = furnished.client(furnished.account("source", alpha="lead", beta="reader"))
    assert only_target.put(f"/api/v1/projects/beta/series/{series}").status_code == 404
    assert only_source.put(f"/api/v1/projects/beta/series/{series}").status_code == 403
    assert both.put(f"/api/v1/projects/beta/series/{series}").json()["added"] is True
    assert both.put(f"/api/v1/projects/beta/series/{series}").json()["added"] is False
    assert only_target.get(f"/api/v1/series/{series}").status_code == 200
    assert both.delete(f"/api/v1/projects/alpha/series/{series}").status_code == 403
    assert only_target.delete(f"/api/v1/projects/beta/series/{series}").status_code == 204
    assert only_target.get(f"/api/v1/series/{series}").status_code == 404


def test_the_trail_cannot_be_searched_by_person_patient_and_action(furnished: Any) -> None:
    admin = furnished.client(furnished.account("admin", site_admin=True))
    with furnished.client(furnished.account("anna", alpha="reader")) as anna:
        study = furnished.uids["study"]
        assert anna.get(f"/dicom-web/studies/{study}", headers={"accept": "*/*"}).status_code == 200
    admin.post("/api/v1/projects", json={"name": "gamma"})

    def found(**query: Any) -> list[dict[str, Any]]:
        answer = admin.get("/api/v1/audit", params=query)
        assert answer.status_code == 200, answer.text
        events: list[dict[str, Any]] = answer.json()["events"]
        return events

    assert [event["resource"] for event in found(action="project-create")] == ["gamma"]
    seen = found(actor="anna", patient="SECRET-4711")
    assert seen, "nobody can say who saw this patient"
    assert {event["actor"] for event in found(patient="SECRET-4711", action="view")} <= {"anna"}
    assert found(patient="of nobody") == []
    newest, before = found(limit=2)
    assert [event["id"] for event in found(before=newest["id"], limit=1)] == [before["id"]]
    assert found(until=before["at"], limit=1)[0]["id"] < before["id"]


def test_a_changed_trail_is_called_whole(house: Any) -> None:
    admin = house.client(house.account("admin", site_admin=True))
    admin.post("/api/v1/projects", json={"name": "gamma"})
    anchor = seal.anchor_file(house.context.settings)
    with house.context.database.transaction() as connection:
        assert seal.seal(connection, anchor) > 0
    answer = admin.get("/api/v1/audit/verification").json()
    assert answer["ok"] is True
    assert answer["sequence"] >= 1
    with house.context.database.transaction() as connection:
        connection.execute("ALTER TABLE audit_event DISABLE TRIGGER USER")
        connection.execute("UPDATE audit_event SET resource = 'delta' WHERE action = 'project-create'")
        connection.execute("ALTER TABLE audit_event ENABLE TRIGGER USER")
    answer = admin.get("/api/v1/audit/verification").json()
    assert answer["ok"] is False
    assert "changed" in answer["reason"]
