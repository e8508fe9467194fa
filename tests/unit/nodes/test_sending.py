"""PACS-5: objects sent to other nodes arrive, all of them and once, whatever the peer does; and each says what became of it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom import build_context

from insitu.errors import Conflict, Invalid, NotFound
from insitu.nodes import transfers
from insitu_services.peers import storing
from tests.peers.dcmtk import storescp
from tests.tools import needs_program

from .conftest import Scripted, Site, encoded, image, until

needs_dcmtk = needs_program("storescp", "dcmtk")


def files_in(folder: Path) -> dict[str, pydicom.Dataset]:
    """Objects that storescp wrote, by UID."""
    found = [pydicom.dcmread(path) for path in folder.iterdir() if path.is_file()]
    return {str(item.SOPInstanceUID): item for item in found}


@needs_dcmtk
def test_a_study_sent_to_storescp_arrives_changed_or_not_at_all(site: Site, tmp_path: Path) -> None:
    study, uids = site.study(5)
    with storescp(tmp_path / "out", ["-aet", "STORE"]) as peer, site.exchanging():
        site.node(ae_title="STORE", host="127.0.0.1", port=peer.port)
        row = site.ended(site.send(study))
        assert (row["state"], row["sent"]) == ("done", 5), row
        arrived = files_in(tmp_path / "out")
    assert set(arrived) == set(uids)
    with site.database.transaction() as connection:
        for item in connection.execute("SELECT * FROM instance"):
            with site.archive.blobs.open(item["blob_key"]) as stream:
                ours = pydicom.dcmread(stream)
            theirs = arrived[item["sop_instance_uid"]]
            assert ours == theirs
            assert theirs.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


@needs_dcmtk
def test_a_peer_that_takes_only_uncompressed_objects_gets_none_of_the_compressed_ones(
    site: Site, tmp_path: Path
) -> None:
    compressed = image(StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1")
    compressed.PixelData = np.arange(1024, dtype="<u2").tobytes()
    plain = compressed.PixelData
    compressed.compress(RLELossless, generate_instance_uid=False)
    deflated = image(StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.2")
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    site.store(compressed, deflated)
    with storescp(tmp_path / "out", ["+xi"]) as peer, site.exchanging():  # implicit VR little endian only
        site.node(ae_title="STORE", host="127.0.0.1", port=peer.port)
        row = site.ended(site.send("1.2.3"))
        assert (row["state"], row["sent"]) == ("done", 2), row
        arrived = files_in(tmp_path / "out")
    assert {item.file_meta.TransferSyntaxUID for item in arrived.values()} == {ImplicitVRLittleEndian}
    assert arrived[str(compressed.SOPInstanceUID)].PixelData == plain


def test_a_peer_that_is_away_for_a_while_misses_or_doubles_objects(
    site: Site, scripted: Scripted, unused_port: int
) -> None:
    study, uids = site.study(4)
    site.node(ae_title="PEER", host="127.0.0.1", port=unused_port)
    with site.exchanging():
        transfer = site.send(study)
        row = until(lambda: (r := site.transfer(transfer))["attempts"] >= 2 and r, "the transfer was tried twice")
        assert "the connection is refused" in row["reason"]
        assert row["waiting"] == 4
        scripted.start(port=unused_port)
        row = site.ended(transfer)
    assert (row["state"], row["reason"]) == ("done", None)
    assert sorted(scripted.received) == sorted(uids)


def test_a_refused_sop_class_or_a_warning_holds_up_the_other_objects_or_looks_like_success(
    site: Site, scripted: Scripted
) -> None:
    study, uids = site.study(3)
    refused = image(SOPClassUID=ComputedRadiographyImageStorage, Modality="CR", StudyInstanceUID=study)
    site.store(refused)
    statuses = {uids[1]: 0xB007, uids[2]: 0xC123}
    scripted.answer = lambda uid: statuses.get(uid, 0)
    scripted.start([build_context(CTImageStorage)])
    site.node(ae_title="PEER", host="127.0.0.1", port=scripted.port)
    with site.exchanging():
        row = site.ended(site.send(study))
    found = {uid: (item["state"], item["status"]) for uid, item in row["objects"].items()}
    assert found == {
        uids[0]: ("sent", 0x0000),
        uids[1]: ("warning", 0xB007),
        uids[2]: ("failed", 0xC123),
        str(refused.SOPInstanceUID): ("failed", None),
    }
    assert row["state"] == "failed"
    assert "does not accept the SOP class" in row["objects"][str(refused.SOPInstanceUID)]["sentence"]
    assert row["objects"][uids[2]]["attempts"] == 1, "what a peer cannot understand is not worth another attempt"


def test_a_peer_that_accepts_no_sop_class_at_all_is_asked_for_ever(site: Site, scripted: Scripted) -> None:
    study, _ = site.study(2)
    scripted.start([build_context(ComputedRadiographyImageStorage)])
    site.node(ae_title="PEER", host="127.0.0.1", port=scripted.port)
    with site.exchanging():
        row = site.ended(site.send(study))
    assert (row["state"], row["failed"]) == ("failed", 2)
    assert all("does not accept" in item["sentence"] for item in row["objects"].values())


def test_a_peer_out_of_resources_loses_objects_or_gets_acknowledged_ones_again(site: Site, scripted: Scripted) -> None:
    study, uids = site.study(6)
    refusals = {uids[2]: 2, uids[4]: 1}
    asked: list[str] = []

    def answer(uid: str) -> int:
        asked.append(uid)
        if refusals.get(uid, 0):
            refusals[uid] -= 1
            return 0xA700
        return 0x0000

    scripted.answer = answer
    scripted.start()
    site.node(ae_title="PEER", host="127.0.0.1", port=scripted.port)
    with site.exchanging():
        row = site.ended(site.send(study))
    assert row["state"] == "done"
    assert sorted(scripted.received) == sorted(uids)
    assert {uid: item["attempts"] for uid, item in row["objects"].items()} == {
        uid: 1 + {uids[2]: 2, uids[4]: 1}.get(uid, 0) for uid in uids
    }
    assert len(asked) == 9


def test_an_object_at_which_the_peer_breaks_off_keeps_the_others_from_arriving(site: Site, scripted: Scripted) -> None:
    study, uids = site.study(4)
    breaks = [2]  # the first two C-STORE are cut off in the middle

    def cut(event: Any) -> None:
        if breaks[0] and any(value[1][:1] == b"\x02" for value in fragments(event.pdu)):
            breaks[0] -= 1
            event.assoc.dul.socket.socket.close()

    def fragments(pdu: Any) -> list[tuple[int, bytes]]:
        return [(item.context_id, item.data) for item in pdu.presentation_data_value_items]

    scripted.on_data = cut
    scripted.start()
    site.node(ae_title="PEER", host="127.0.0.1", port=scripted.port)
    with site.exchanging():
        row = site.ended(site.send(study))
    assert (row["state"], breaks) == ("done", [0])
    assert sorted(set(scripted.received)) == sorted(uids)


def test_a_peer_that_never_answers_holds_a_thread_for_ever_and_keeps_other_nodes_waiting(
    site: Site, scripted: Scripted
) -> None:
    site.settings = site.settings.model_copy(update={"peer_timeout": 1.0, "transfer_attempts": 2})
    study, uids = site.study(2)
    release = threading.Event()
    silent = Scripted()
    silent.answer = lambda _: int(not release.wait(120)) and 0
    silent.start()
    scripted.start()
    site.node("silent", ae_title="SILENT", host="127.0.0.1", port=silent.port)
    site.node("peer", ae_title="PEER", host="127.0.0.1", port=scripted.port)
    try:
        with site.exchanging():
            held = site.send(study, "silent")
            assert site.ended(site.send(study, "peer"))["state"] == "done"
            row = site.ended(held)
    finally:
        release.set()
        silent.stop()
    assert (row["state"], row["failed"]) == ("failed", 2)
    assert "given up after 2 attempts" in row["reason"].lower()
    assert sorted(scripted.received) == sorted(uids)


def test_a_peer_that_takes_long_to_put_a_large_object_away_gets_it_again_and_again(
    site: Site, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "SLOWEST", 50)  # bytes a second: these of 2 kB count as large
    site.settings = site.settings.model_copy(update={"peer_timeout": 1.0})
    study, uids = site.study(1)
    scripted.answer = lambda _: time.sleep(3) or 0  # type: ignore[func-returns-value]
    scripted.start()
    site.node(ae_title="PEER", host="127.0.0.1", port=scripted.port)
    with site.exchanging():
        row = site.ended(site.send(study))
    assert (row["state"], row["objects"][uids[0]]["attempts"]) == ("done", 1), row
    assert scripted.received == uids


def test_a_cancelled_transfer_goes_on(site: Site, scripted: Scripted) -> None:
    study, uids = site.study(5)
    begun, proceed = threading.Event(), threading.Event()

    def answer(_: str) -> int:
        begun.set()
        assert proceed.wait(60)
        return 0

    scripted.answer = answer
    scripted.start()
    site.node(ae_title="PEER", host="127.0.0.1", port=scripted.port)
    with site.exchanging():
        transfer = site.send(study)
        assert begun.wait(60)
        with site.database.transaction() as connection:
            assert transfers.cancel(connection, transfer, "anna") == 5
        proceed.set()
        row = until(lambda: (r := site.transfer(transfer))["sent"] and r, "the object on its way is noted")
    assert (row["state"], row["sent"], row["cancelled"]) == ("cancelled", 1, 4)
    assert len(scripted.received) == 1
    with site.database.transaction() as connection:
        with pytest.raises(Conflict):
            transfers.cancel(connection, transfer, "anna")
        assert transfers.retry(connection, transfer) == 4
    with site.exchanging():
        assert site.ended(transfer)["state"] == "done"
    assert sorted(scripted.received) == sorted(uids)


def test_one_association_per_node_is_opened_for_each_of_many_transfers(site: Site, scripted: Scripted) -> None:
    studies = [site.study(2) for _ in range(6)]
    scripted.start()
    site.node(ae_title="PEER", host="127.0.0.1", port=scripted.port)
    with site.database.transaction() as connection:
        queued = [
            transfers.create(connection, "peer", study=study, projects=None, requested_by="anna")
            for study, _ in studies
        ]
    with site.exchanging():
        for transfer in queued:
            assert site.ended(str(transfer))["state"] == "done"
    assert scripted.associations == 1
    assert sorted(scripted.received) == sorted(uid for _, uids in studies for uid in uids)


def test_somebody_sends_what_is_not_in_his_projects_or_to_a_node_that_cannot_take_it(site: Site) -> None:
    study, _ = site.study(1)
    site.node("caller", ae_title="CALLER")
    site.node("peer", ae_title="PEER", host="127.0.0.1", port=1)
    with site.database.transaction() as connection:
        asked = {"study": study, "requested_by": "anna"}
        with pytest.raises(NotFound):
            transfers.create(connection, "peer", projects=frozenset({"beta"}), **asked)
        with pytest.raises(NotFound):
            transfers.create(connection, "nowhere", projects=None, **asked)
        with pytest.raises(Invalid):
            transfers.create(connection, "caller", projects=None, **asked)
        with pytest.raises(Invalid):
            transfers.create(connection, "peer", projects=None, way="stow", **asked)
        made = transfers.create(connection, "peer", projects=frozenset({"alpha", "beta"}), **asked)
        assert made is not None
        with pytest.raises(NotFound):
            transfers.get(connection, made, frozenset({"beta"}))
        assert transfers.listed(connection, frozenset({"beta"})) == []
        assert [row["id"] for row in transfers.listed(connection, frozenset({"alpha"}))] == [made]


def test_an_object_deleted_before_its_turn_blocks_the_queue(site: Site, scripted: Scripted) -> None:
    study, uids = site.study(3)
    scripted.start()
    site.node(ae_title="PEER", host="127.0.0.1", port=scripted.port)
    transfer = site.send(study)
    with site.database.transaction() as connection:
        connection.execute("DELETE FROM instance WHERE sop_instance_uid = %s", (uids[0],))
    with site.exchanging():
        row = site.ended(transfer)
    assert (row["sent"], row["failed"]) == (2, 1)
    assert "deleted" in row["objects"][uids[0]]["sentence"]


def test_an_object_is_sent_with_other_bytes_than_the_archive_holds(site: Site, tmp_path: Path) -> None:
    study, (uid,) = site.study(1)
    assert len(encoded(image())) > 2048
    peer = Scripted()
    seen: list[bytes] = []
    peer.answer = lambda _: 0
    peer.on_data = lambda event: seen.extend(
        item.data[1:] for item in event.pdu.presentation_data_value_items if not item.data[0] & 1
    )
    peer.start()
    site.node(ae_title="PEER", host="127.0.0.1", port=peer.port)
    try:
        with site.exchanging():
            assert site.ended(site.send(study))["state"] == "done"
    finally:
        peer.stop()
    with site.database.transaction() as connection:
        row = connection.execute("SELECT * FROM instance WHERE sop_instance_uid = %s", (uid,)).fetchone()
    assert row is not None
    assert b"".join(seen) == site.archive.blobs.read(row["blob_key"], row["dataset_offset"])
