"""Storage commitment as a modality and Orthanc ask for it, against the real receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from tests.peers.orthanc import free_port, orthanc
from tests.tools import need_orthanc

from .archive_site import CT, image, node, store
from .conftest import Receiver

COMMITMENT = str(StorageCommitmentPushModel)
INSTANCE = "1.2.840.10008.1.20.1.1"


class Modality:
    """Asks for storage commitment and keeps the results it hears, on its own association or on one to it."""

    def __init__(self, receiver: Receiver, ae_title: str = "MODALITY") -> None:
        self.receiver = receiver
        self.entity = AE(ae_title=ae_title)
        self.heard: dict[str, tuple[int, Dataset]] = {}

    def _hear(self, event: evt.Event) -> tuple[int, None]:
        information = event.event_information
        self.heard[str(information.TransactionUID)] = (event.request.EventTypeID, information)
        return 0, None

    @contextmanager
    def associated(self) -> Iterator[Callable[..., str]]:
        """A function that asks for (class, instance) pairs and gives the transaction's UID."""
        association = self.entity.associate(
            "127.0.0.1", self.receiver.port, contexts=[build_context(COMMITMENT)], ae_title="INSITU",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._hear)],
        )  # fmt: skip
        assert association.is_established, self.receiver.log.read_text()

        def ask(*references: tuple[str, str]) -> str:
            action = Dataset()
            action.TransactionUID = generate_uid()
            items = []
            for sop_class, uid in references:
                item = Dataset()
                item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
                items.append(item)
            action.ReferencedSOPSequence = Sequence(items)
            status, _ = association.send_n_action(action, 1, COMMITMENT, INSTANCE)
            assert status.Status == 0, status
            return str(action.TransactionUID)

        yield ask
        association.release()

    @contextmanager
    def listening(self, port: int) -> Iterator[None]:
        """Take associations of the archive."""
        entity = AE(ae_title=self.entity.ae_title)
        entity.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
        server = entity.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._hear)]
        )
        try:
            yield
        finally:
            server.shutdown()

    def result(self, transaction: str) -> tuple[int, dict[str, int | None]]:
        """Event type, and failure reason (None: committed) by instance, once it has come."""
        self.receiver.until("the result is told", lambda: transaction in self.heard)
        event, information = self.heard[transaction]
        found: dict[str, int | None] = {
            str(item.ReferencedSOPInstanceUID): None for item in information.get("ReferencedSOPSequence", [])
        }
        for item in information.get("FailedSOPSequence", []):
            found[str(item.ReferencedSOPInstanceUID)] = item.FailureReason
        return event, found


def test_a_modality_hears_on_its_association_what_is_safe_and_what_is_not(receiver: Receiver) -> None:
    node(receiver, "MODALITY", projects=[])
    mine, foreign = image(), image()
    store(receiver, [mine], calling="MODALITY")
    store(receiver, [foreign], calling="ANOTHER")
    unknown = str(generate_uid())
    modality = Modality(receiver)
    with modality.associated() as ask:
        good = ask((CT, str(mine.SOPInstanceUID)))
        assert modality.result(good) == (1, {str(mine.SOPInstanceUID): None})
        bad = ask(
            (CT, unknown), ("1.2.840.10008.5.1.4.1.1.4", str(mine.SOPInstanceUID)), (CT, str(foreign.SOPInstanceUID))
        )
        assert modality.result(bad) == (2, {
            unknown: 0x0112, str(mine.SOPInstanceUID): 0x0119, str(foreign.SOPInstanceUID): 0x0112,
        })  # fmt: skip
    receiver.until("nothing is left to tell", lambda: receiver.count("commitment_report") == 0)


def test_who_sends_what_is_here_already_may_ask_for_it_too(receiver: Receiver) -> None:
    node(receiver, "MODALITY", projects=[])
    twice = image()
    store(receiver, [twice], calling="ANOTHER")
    store(receiver, [twice], calling="MODALITY")
    modality = Modality(receiver)
    with modality.associated() as ask:
        assert modality.result(ask((CT, str(twice.SOPInstanceUID)))) == (1, {str(twice.SOPInstanceUID): None})


def test_the_result_waits_for_a_modality_that_went_away_and_survives_a_restart(
    start: Callable[..., Receiver], database: object
) -> None:
    receiver = start()
    port = free_port()
    node(receiver, "MODALITY", projects=[], host="127.0.0.1", port=port)
    mine = image()
    store(receiver, [mine])
    modality = Modality(receiver)
    with modality.associated() as ask:
        transaction = ask((CT, str(mine.SOPInstanceUID)))
    receiver.until("it was tried in vain", lambda: postponed(receiver))
    receiver.stop()
    assert receiver.count("commitment_report") == 1
    modality.receiver = start()
    with modality.listening(port):
        assert modality.result(transaction) == (1, {str(mine.SOPInstanceUID): None})
        modality.receiver.until("nothing is left to tell", lambda: modality.receiver.count("commitment_report") == 0)


def postponed(receiver: Receiver) -> bool:
    """Whether an attempt to tell the only result has failed, and the next one is due soon."""
    with receiver.database.transaction() as connection:
        return bool(
            connection.execute(
                "SELECT 1 FROM commitment_report WHERE attempts > 0 AND next_attempt < now() + interval '1 minute'"
            ).fetchone()
        )


def test_orthanc_is_told_that_its_objects_are_safe(receiver: Receiver, tmp_path: Path) -> None:
    need_orthanc()
    extra = {"DicomModalities": {"insitu": {"AET": "INSITU", "Host": "127.0.0.1", "Port": receiver.port,
                                            "AllowStorageCommitment": True}}}  # fmt: skip
    mine = image()
    with orthanc(tmp_path / "orthanc", extra=extra) as peer:
        node(receiver, "ORTHANC", projects=[], host="127.0.0.1", port=peer.dicom_port)
        store(receiver, [mine], calling="ORTHANC")
        asked = peer.request("POST", "/modalities/insitu/storage-commitment", {
            "DicomInstances": [[CT, str(mine.SOPInstanceUID)], [CT, "1.2.3.4"]],
        })  # fmt: skip
        report: dict[str, object] = {}

        def told() -> bool:
            report.update(peer.request("GET", f"/storage-commitment/{asked['ID']}"))
            return report["Status"] != "Pending"

        receiver.until("Orthanc has heard", told)
        assert report["Status"] == "Failure"
        assert [each["SOPInstanceUID"] for each in report["Success"]] == [str(mine.SOPInstanceUID)]
        assert [each["SOPInstanceUID"] for each in report["Failures"]] == ["1.2.3.4"]
