"""Care of the archive through the API: who may delete what, and what each is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from insitu.archive import conflicts
from insitu.audit import trail


def end_runs(house: Any) -> None:
    """What a run needs cannot be deleted."""
    with house.context.database.transaction() as connection:
        connection.execute("UPDATE execution SET state = 'cancelled'")


def test_a_lead_deletes_his_series_with_a_reason_and_others_nothing(furnished: Any) -> None:
    study, url = furnished.uids["study"], "/api/v1/archive/deletions"
    lead = furnished.client(furnished.account("lead", alpha="lead"))
    admin = furnished.client(furnished.account("admin", site_admin=True))
    researcher = furnished.client(furnished.account("researcher", alpha="researcher"))
    assert researcher.post(url, json={"study": study, "reason": "a test"}).status_code == 403
    refused = lead.post(url, json={"study": study, "reason": "a test"})
    assert refused.status_code == 409
    assert furnished.executions["alpha"] in refused.json()["detail"], "the run that needs it is not named"
    end_runs(furnished)
    assert admin.put(f"/api/v1/archive/holds/{study}", json={"reason": "court order 7"}).status_code == 200
    assert [hold["reason"] for hold in admin.get("/api/v1/archive/holds").json()["holds"]] == ["court order 7"]
    assert lead.post(url, json={"study": study, "reason": "a test"}).status_code == 409
    assert lead.delete(f"/api/v1/archive/holds/{study}", params={"reason": "a test"}).status_code == 403
    assert admin.delete(f"/api/v1/archive/holds/{study}", params={"reason": "case closed"}).status_code == 200
    assert lead.post(url, json={"study": study}).status_code == 422, "a reason is needed"
    would = lead.post(url, json={"study": study, "dry_run": True}).json()
    assert (would["instances"], would["deleted"]) == (1, False)
    gone = lead.post(url, json={"study": study, "reason": "sent by mistake"}).json()
    assert {**gone, "deleted": False} == would
    assert lead.post(url, json={"study": study, "reason": "again"}).status_code == 404
    (row,) = admin.get("/api/v1/archive/deletions", params={"study": study}).json()["deletions"]
    assert (row["actor"], row["reason"], row["instances"]) == ("lead", "sent by mistake", 1)
    with furnished.context.database.transaction() as connection:
        assert trail.events(connection, actor="lead", action="delete")[0]["detail"]["study"] == study


def test_statistics_tell_a_reader_of_other_projects(furnished: Any) -> None:
    reader = furnished.client(furnished.account("reader", alpha="reader"))
    stranger = furnished.client(furnished.account("stranger", beta="reader"))
    admin = furnished.client(furnished.account("admin", site_admin=True))
    url = "/api/v1/archive/statistics"
    assert reader.get(url).json()["projects"]["alpha"]["total"]["instances"] == 1
    seen = stranger.get(url).json()
    assert (seen["projects"], seen["archive"], seen["condition"]) == ({}, None, None)
    assert admin.get(url).json()["condition"]["quarantine"] == 1
    assert admin.get("/api/v1/archive/retention").json() == {"rules": [], "series": [], "more": False}
    assert admin.get("/api/v1/archive/damage").json() == {"damage": []}


def test_the_admin_inspects_and_resolves_a_conflict(furnished: Any, new_file: Callable[..., bytes]) -> None:
    archive, uids = furnished.context.archive, furnished.uids
    end_runs(furnished)
    receipt = archive.open_receipt(channel="import", project="alpha")
    with archive.begin(receipt) as incoming:
        incoming.write(new_file(
            StationName="another", StudyInstanceUID=uids["study"], SeriesInstanceUID=uids["series"],
            SOPInstanceUID=uids["instance"],
        ))  # fmt: skip
        assert incoming.commit().outcome.value == "conflict-kept"
    admin = furnished.client(furnished.account("admin", site_admin=True))
    (conflict,) = admin.get("/api/v1/conflicts").json()["conflicts"]
    shown = admin.get(f"/api/v1/conflicts/{conflict['id']}")
    assert "StationName" in [item["keyword"] for item in shown.json()["differences"]]
    assert "Geheim" not in shown.text
    url = f"/api/v1/conflicts/{conflict['id']}/resolve"
    assert admin.post(url, json={"resolution": "replace"}).status_code == 422, "a reason is needed"
    assert admin.post(url, json={"resolution": "replace", "reason": "a test"}).status_code == 200
    answer = admin.get("/api/v1/conflicts").json()
    assert (answer["conflicts"], answer["resolved"][0]["resolution"]) == ([], "replace")
    with furnished.context.database.transaction() as connection:
        assert conflicts.listed(connection) == []
