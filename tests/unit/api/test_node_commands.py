"""The commands about other nodes, from the prompt to a real PACS (DCMTK's dcmqrscp) and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from insitu.errors import InsituError
from insitu_services.dispatcher.exchange import Exchange
from insitu_services.dispatcher.retrievals import RetrievalCarrier
from insitu_services.dispatcher.transfers import TransferCarrier
from tests.peers.dcmtk import dcmqrscp
from tests.tools import needs_program
from tests.unit.nodes.conftest import until

from .conftest import encoded, image

pytestmark = needs_program("dcmqrscp", "dcmtk")

Command = Callable[..., Any]


@contextmanager
def exchanging(house: Any, peak: list[bool]) -> Iterator[None]:
    """The dispatcher's exchange at work; peak hours while `peak` holds something."""
    settings = house.context.settings.model_copy(update={"transfer_retry": 0.2, "transfer_attempts": 2})
    database, archive, stopping = house.context.database, house.context.archive, threading.Event()
    carriers = {
        "transfer": TransferCarrier(settings, database, archive, stopping).carry,
        "retrieval": RetrievalCarrier(settings, database, archive, stopping).carry,
    }
    exchange = Exchange(settings, database, carriers, stopping, is_peak=lambda: bool(peak))  # type: ignore[arg-type]
    exchange.start()
    try:
        yield
    finally:
        exchange.stop()


@pytest.fixture
def ended(insitu: Command) -> Command:
    """Waits until `insitu transfer|retrieve show ID` says that it has ended; its JSON."""
    return lambda kind, of: until(
        lambda: (row := insitu(kind, "show", of, "--json"))["state"] != "queued" and row, f"the {kind} has ended"
    )


def studies(folder: Path) -> tuple[list[Dataset], list[Path]]:
    """Two studies of two objects each, and their files."""
    folder.mkdir()
    made = []
    for patient in ("P1", "P2"):
        first = image(PatientID=patient, StudyID="1", AccessionNumber=f"A-{patient}")
        made += [first, image(PatientID=patient, StudyID="1", AccessionNumber=f"A-{patient}",
                              StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID)]  # fmt: skip
    files = [folder / f"{each.SOPInstanceUID}.dcm" for each in made]
    for file, each in zip(files, made, strict=True):
        file.write_bytes(encoded(each))
    return made, files


def test_a_study_cannot_be_found_fetched_and_sent_from_the_prompt(
    house: Any, insitu: Command, ended: Command, tmp_path: Path
) -> None:
    made, files = studies(tmp_path / "files")
    first, second = str(made[0].StudyInstanceUID), str(made[2].StudyInstanceUID)
    peak = [True]
    with ExitStack() as stack:
        away = ExitStack()
        pacs = away.enter_context(dcmqrscp(tmp_path / "pacs", files))
        stack.enter_context(exchanging(house, peak))
        address = ("--ae-title", pacs.ae_title, "--host", "127.0.0.1", "--port", str(pacs.port))
        assert insitu("node", "add", "pacs", *address, "--json")["made"] is True
        assert "Changed pacs" in insitu("node", "add", "pacs", *address, "--project", "alpha")
        assert [node["name"] for node in insitu("node", "list", "--json")] == ["pacs"]
        assert f"127.0.0.1:{pacs.port}" in insitu("node", "list")
        assert "ae_title: QRSCP" in insitu("node", "show", "pacs")
        assert "answered in" in insitu("node", "echo", "pacs")

        found = insitu("retrieve", "find", "--from", "pacs", "--patient", "P1", "--json")
        assert [each["StudyInstanceUID"] for each in found["studies"]] == [first]
        assert second in insitu("retrieve", "find", "--from", "pacs", "--accession", "A-P2")

        # by day it waits, at night it comes
        start = ("retrieve", "start", "--from", "pacs", "--project", "alpha", "--json", "--study")
        waits = insitu(*start, first, "--off-peak")["id"]
        at_once = ended("retrieve", insitu(*start, second)["id"])
        assert (at_once["state"], at_once["present"]) == ("done", 2)
        assert insitu("retrieve", "show", waits, "--json")["state"] == "queued"
        assert "off-peak" in insitu("retrieve", "list")
        peak.clear()
        assert ended("retrieve", waits)["present"] == 2
        assert "2 of 2 objects are here" in insitu("retrieve", "show", waits)

        # what is sent arrives, also after the peer was away and the transfer was given up
        new = image(PatientID="P3", StudyID="1")
        receipt = house.context.archive.open_receipt(channel="import", project="alpha")
        with house.context.archive.begin(receipt) as incoming:
            incoming.write(encoded(new))
            assert incoming.commit().success
        away.close()
        with pytest.raises(InsituError, match="connection is refused"):
            insitu("node", "echo", "pacs")
        transfer = insitu("transfer", "send", "--study", str(new.StudyInstanceUID), "--to", "pacs", "--json")["id"]
        failed = ended("transfer", transfer)
        assert (failed["state"], failed["failed"]) == ("failed", 1)
        assert "Given up after 2 attempts" in insitu("transfer", "list")
        lost = ended("retrieve", insitu(*start, first, "--series", "1.2.3")["id"])
        assert lost["state"] == "failed"
        with dcmqrscp(tmp_path / "pacs", [], port=pacs.port):
            assert insitu("transfer", "retry", transfer, "--json")["waiting"] == 1
            assert (ended("transfer", transfer)["state"], ended("transfer", transfer)["sent"]) == ("done", 1)
            assert "1 sent" in insitu("transfer", "show", transfer)
            kept = {str(dcmread(file).SOPInstanceUID) for file in (tmp_path / "pacs" / "area").glob("CT*")}
            assert str(new.SOPInstanceUID) in kept
            assert "Queued again" in insitu("retrieve", "retry", lost["id"])
            assert ended("retrieve", lost["id"])["reason"] == "The node has no such series."

        # nothing happens after a cancel
        peak.append(True)
        cancelled = insitu(*start, first, "--off-peak")["id"]
        assert "Cancelled" in insitu("retrieve", "cancel", cancelled)
        assert ended("retrieve", cancelled)["reason"] == "cancelled by admin"
        with pytest.raises(InsituError, match="has ended already"):
            insitu("transfer", "cancel", transfer)
        assert [each["id"] for each in insitu("retrieve", "list", "--state", "cancelled", "--json")] == [cancelled]

        # a rule cannot send to nobody, nor can its node go unnoticed
        rules = tmp_path / "rules.yaml"
        rules.write_text("rules: [{name: all, then: {send_to: [nowhere]}}]")
        with pytest.raises(InsituError, match=r"sends to a node that does not exist.*nowhere"):
            insitu("rules", "set", str(rules))
        rules.write_text("rules: [{name: all, then: {send_to: [pacs]}}]")
        insitu("rules", "set", str(rules))
        assert "Sent to pacs (rule 'all')" in insitu("rules", "test", str(files[0]))
        assert insitu("rules", "replay", "--json")["sends"] == 0, "nothing is complete here without a dispatcher"
        with pytest.raises(InsituError, match=r"Rules in force send to this node.*all"):
            insitu("node", "remove", "pacs")
        with pytest.raises(InsituError, match="Rules in force send to this node"):
            insitu("node", "add", "pacs", "--ae-title", "QRSCP")
        rules.write_text("rules: []")
        insitu("rules", "set", str(rules))
        assert insitu("node", "remove", "pacs", "--json") == {"removed": "pacs", "cancelled": 0}
