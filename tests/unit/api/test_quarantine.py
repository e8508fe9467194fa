"""The site admin looks into the quarantine, releases and discards; each stands in the audit trail."""

from __future__ import annotations

from typing import Any

from insitu.archive import quarantine
from insitu.audit import trail


def test_the_admin_inspects_releases_and_discards_an_entry(furnished: Any) -> None:
    client = furnished.client(furnished.account("admin", site_admin=True))
    (entry,) = client.get("/api/v1/quarantine").json()["entries"]
    shown = client.get(f"/api/v1/quarantine/{entry['id']}").json()
    assert shown["reason"] == entry["reason"]
    assert shown["facts"] == {}
    released = client.post(f"/api/v1/quarantine/{entry['id']}/release").json()
    assert (released["success"], released["outcome"]) == (False, "quarantined")
    (again,) = client.get("/api/v1/quarantine").json()["entries"]
    assert client.delete(f"/api/v1/quarantine/{again['id']}").status_code == 422, "a reason is needed"
    answer = client.delete(f"/api/v1/quarantine/{again['id']}", params={"reason": "a test page of the router"})
    assert answer.json() == {"discarded": True}
    assert client.get("/api/v1/quarantine").json()["entries"] == []
    assert client.get(f"/api/v1/quarantine/{again['id']}").status_code == 404
    with furnished.context.database.transaction() as connection:
        assert quarantine.listed(connection) == []
        actions = [event["action"] for event in trail.events(connection)]
    assert {"quarantine-release", "quarantine-discard"} <= set(actions)
