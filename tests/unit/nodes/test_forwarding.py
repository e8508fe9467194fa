"""Rules that send: what they match arrives at the node once, results too, and a node that goes is missed when it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from insitu.errors import Conflict, Invalid
from insitu.nodes import registry, transfers
from insitu.routing import apply, store
from insitu.routing.model import RuleSet
from insitu.routing.replay import replay
from insitu.runs.launch.process import ProcessLauncher
from insitu_services.dispatcher.loop import Dispatcher
from tests.peers.dcmtk import storescp
from tests.tools import needs_program

from .conftest import Site, encoded, image, until
from .test_sending import files_in

RULES = {
    "rules": [
        {"name": "ct", "when": {"Modality": "CT"}, "then": {"project": "alpha", "send_to": ["peer"]}},
        {"name": "too", "when": {"Modality": "CT"}, "then": {"send_to": ["peer"]}},
        {"name": "results", "source": "result", "then": {"send_to": ["peer"]}},
    ]
}


class Engine:
    """No run is asked for."""

    def state(self, execution: str) -> str | None:
        return None


@pytest.fixture
def dispatcher(site: Site) -> Dispatcher:
    """Routes what has become complete, turn by turn."""
    return Dispatcher(site.settings, site.database, site.archive.blobs, Engine(), ProcessLauncher(site.settings.jobs))  # type: ignore[arg-type]


def save(site: Site, rules: dict[str, Any]) -> None:
    """Put rules in force."""
    with site.database.transaction() as connection:
        store.save(connection, RuleSet.model_validate(rules), "admin")


def routed(site: Site, dispatcher: Dispatcher, series: str, revision: int = 1) -> dict[str, Any]:
    """The decision kept for a revision of a series."""

    def look() -> dict[str, Any] | None:
        dispatcher.turn()
        with site.database.transaction() as connection:
            row = connection.execute("SELECT id FROM series WHERE series_instance_uid = %s", (series,)).fetchone()
            kept = apply.explain(connection, row["id"]) if row else []
        return next((each["decision"] for each in kept if each["revision"] == revision), None)

    found: dict[str, Any] = until(look, f"revision {revision} of the series is routed")
    return found


@needs_program("storescp", "dcmtk")
def test_what_a_rule_sends_does_not_arrive_or_arrives_twice_or_without_its_results(
    site: Site, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    first, late = [image(**uids, InstanceNumber=n) for n in (1, 2, 3)], image(**uids, InstanceNumber=4)
    with storescp(tmp_path / "out") as peer, site.exchanging():
        site.node(ae_title="STORE", host="127.0.0.1", port=peer.port)
        save(site, RULES)
        site.store(*first)
        site.store(image(Modality="MR"))
        decision = routed(site, dispatcher, uids["SeriesInstanceUID"])
        assert decision["sends"] == [{"node": "peer", "rule": "ct"}], "two rules, one transfer"
        (queued,) = decision["transfers"]
        sent = site.ended(queued["transfer"])
        assert (sent["state"], sent["sent"], sent["requested_by"], sent["rule"]) == ("done", 3, "rule ct", "ct"), sent
        assert sent["projects"] == ["alpha"], "the leads of the project see it"

        site.store(late)
        (again,) = routed(site, dispatcher, uids["SeriesInstanceUID"], 2)["transfers"]
        assert set(site.ended(again["transfer"])["objects"]) == {late.SOPInstanceUID}, "only what is new"

        result = image(StudyInstanceUID=uids["StudyInstanceUID"], Modality="SEG")
        file = tmp_path / "result.dcm"
        file.write_bytes(encoded(result))
        receipt = site.archive.open_receipt(channel="result", principal="algorithm", project="alpha", execution="abc-1")
        site.archive.store_results(receipt, [file], "abc-1", "alpha")
        site.archive.close_receipt(receipt)
        (mine,) = routed(site, dispatcher, str(result.SeriesInstanceUID))["transfers"]
        assert (mine["rule"], site.ended(mine["transfer"])["state"]) == ("results", "done")

        arrived = files_in(tmp_path / "out")
        assert set(arrived) == {str(each.SOPInstanceUID) for each in (*first, late, result)}
    with site.database.transaction() as connection:
        rows = transfers.listed(connection, None)
        events = connection.execute(
            "SELECT actor, detail ->> 'node' AS node FROM audit_event WHERE action = 'export' ORDER BY id"
        ).fetchall()
        dry = replay(connection, site.settings, RuleSet.model_validate(RULES))
    assert len(rows) == 3
    assert [(each["actor"], each["node"]) for each in events] == [
        ("rule ct", "peer"), ("rule ct", "peer"), ("rule results", "peer"),
    ]  # fmt: skip
    assert {each.rule: each.sends for each in dry.rules} == {"ct": 1, "too": 0, "results": 1}


def test_a_rule_sends_to_nobody_or_the_node_it_sends_to_goes_unnoticed(site: Site, dispatcher: Dispatcher) -> None:
    with pytest.raises(Invalid, match=r"node that does not exist.*peer"):
        save(site, RULES)
    site.node(ae_title="CALLS_ONLY")
    with pytest.raises(Invalid, match="cannot be called"):
        save(site, RULES)
    site.node(ae_title="PEER", host="127.0.0.1", port=1)
    save(site, RULES)
    with site.database.transaction() as connection:
        with pytest.raises(Conflict, match="ct, too, results"):
            store.check_free(connection, "peer")
        store.check_free(connection, "another")
        registry.remove(connection, "peer")  # as nobody can by the API
    made = image()
    site.store(made)
    decision = routed(site, dispatcher, str(made.SeriesInstanceUID))
    assert (decision["sends"], decision["projects"]) == ([], ["alpha"])
    assert decision["trace"][0]["notes"] == ["nothing is sent to 'peer' because there is no such node"]
