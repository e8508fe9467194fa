"""C-GET and C-MOVE as another system uses them: by DCMTK, Orthanc and pynetdicom, against the real receiver."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage as CT,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from tests.peers.dcmtk import storescp
from tests.peers.orthanc import orthanc
from tests.tools import need_orthanc, need_program

from .archive_site import assign, image, node, store
from .conftest import Receiver

GET = str(StudyRootQueryRetrieveInformationModelGet)
MOVE = str(StudyRootQueryRetrieveInformationModelMove)


def digest(file: Path) -> str:
    """SHA-256 of the data set after the file meta information."""
    content = file.read_bytes()
    length = struct.unpack_from("<I", content, 140)[0]
    return hashlib.sha256(content[144 + length :]).hexdigest()


def digests(receiver: Receiver, study: str) -> set[str]:
    """Digests of what the index holds of a study."""
    with receiver.database.transaction() as connection:
        rows = connection.execute(
            "SELECT i.digest FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study"
            " WHERE t.study_instance_uid = %s", (study,),
        ).fetchall()  # fmt: skip
    return {bytes(row["digest"]).hex() for row in rows}


def series(slices: int) -> list[Dataset]:
    """One series of so many images."""
    first = image()
    return [
        image(StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID, InstanceNumber=n + 1)
        for n in range(slices)
    ]


def test_getscu_and_movescu_fetch_a_study_bit_for_bit(receiver: Receiver, tmp_path: Path) -> None:
    need_program("getscu", "dcmtk")
    need_program("movescu", "dcmtk")
    images = series(5)
    node(receiver)
    store(receiver, images)
    study = str(images[0].StudyInstanceUID)
    got = tmp_path / "got"
    got.mkdir()
    said = receiver.run("getscu", "-v", "-S", "-B", "-aet", "PACS", "-aec", "INSITU", "-od", str(got), "-k", "QueryRetrieveLevel=STUDY",
                        "-k", f"StudyInstanceUID={study}", "127.0.0.1", str(receiver.port))  # fmt: skip
    assert said.returncode == 0, said.stderr + receiver.log.read_text()
    assert {digest(file) for file in got.iterdir()} == digests(receiver, study)
    with storescp(tmp_path / "moved", ["-B"]) as peer:
        node(receiver, "DEST", host="127.0.0.1", port=peer.port)
        said = receiver.run("movescu", "-v", "-S", "-aet", "PACS", "-aec", "INSITU", "-aem", "DEST", "-k", "QueryRetrieveLevel=STUDY",
                            "-k", f"StudyInstanceUID={study}", "127.0.0.1", str(receiver.port))  # fmt: skip
        assert said.returncode == 0, said.stderr + receiver.log.read_text()
        assert "Failed" not in said.stderr, said.stderr + receiver.log.read_text()
        assert {digest(file) for file in peer.folder.iterdir()} == digests(receiver, study), receiver.log.read_text()
    with receiver.database.transaction() as connection:
        events = connection.execute("SELECT resource, detail FROM audit_event WHERE action = 'export'").fetchall()
    assert [(e["resource"], e["detail"]["to"], e["detail"]["instances"]) for e in events] == [
        (study, "pacs", 5), (study, "dest", 5),
    ]  # fmt: skip


def test_orthanc_finds_and_moves_a_study_to_itself(receiver: Receiver, tmp_path: Path) -> None:
    need_orthanc()
    images = series(3)
    store(receiver, images)
    with orthanc(tmp_path / "orthanc", modalities={"insitu": ("INSITU", receiver.port)}) as peer:
        node(receiver, "ORTHANC", host="127.0.0.1", port=peer.dicom_port)
        query = {"Level": "Study", "Query": {"StudyInstanceUID": str(images[0].StudyInstanceUID)}}
        found = peer.request("POST", "/modalities/insitu/query", query)
        answers = peer.request("GET", f"/queries/{found['ID']}/answers")
        assert len(answers) == 1
        peer.request("POST", f"/queries/{found['ID']}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
        assert len(peer.request("GET", "/instances")) == 3, receiver.log.read_text()


class Fetcher:
    """A SCU that keeps what it is sent."""

    def __init__(self, receiver: Receiver, *syntaxes: str, calling: str = "PACS", abstract: str = str(CT)) -> None:
        self.got: list[tuple[str, Dataset]] = []
        self.status = 0x0000

        def take(event: evt.Event) -> int:
            self.got.append((str(event.context.transfer_syntax), event.dataset))
            return self.status

        entity = AE(ae_title=calling)
        contexts = [build_context(GET), build_context(MOVE), *(build_context(abstract, each) for each in syntaxes)]
        self.association = entity.associate(
            "127.0.0.1", receiver.port, contexts=contexts, ae_title="INSITU", ext_neg=[build_role(abstract, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, take)],
        )  # fmt: skip
        assert self.association.is_established

    def get(self, **keys: object) -> tuple[Dataset, Dataset | None]:
        """The last response with its identifier."""
        dataset = Dataset()
        for keyword, value in keys.items():
            setattr(dataset, keyword, value)
        answers = list(self.association.send_c_get(dataset, GET))
        return answers[-1]

    def end(self) -> None:
        """Release it."""
        self.association.release()


def test_a_study_with_a_forbidden_series_gives_only_the_others(receiver: Receiver) -> None:
    node(receiver, projects=["a"])
    seen, hidden = image(), image()
    hidden.StudyInstanceUID = seen.StudyInstanceUID
    store(receiver, [seen, hidden])
    assign(receiver, "a", str(seen.SeriesInstanceUID))
    assign(receiver, "b", str(hidden.SeriesInstanceUID))
    fetcher = Fetcher(receiver, str(ExplicitVRLittleEndian))
    last, _ = fetcher.get(QueryRetrieveLevel="STUDY", StudyInstanceUID=seen.StudyInstanceUID)
    assert (last.Status, last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations) == (0, 1, 0)
    assert [each.SOPInstanceUID for _, each in fetcher.got] == [seen.SOPInstanceUID]
    last, _ = fetcher.get(QueryRetrieveLevel="SERIES", StudyInstanceUID=seen.StudyInstanceUID,
                          SeriesInstanceUID=hidden.SeriesInstanceUID)  # fmt: skip
    assert (last.Status, last.NumberOfCompletedSuboperations) == (0, 0)
    last, _ = fetcher.get(QueryRetrieveLevel="SERIES", SeriesInstanceUID=seen.SeriesInstanceUID)
    assert (last.Status, last.OffendingElement) == (0xA900, 0x0020000D)
    fetcher.end()
    assert len(fetcher.got) == 1


def test_a_compressed_object_goes_as_stored_or_decoded_or_fails_by_name(receiver: Receiver) -> None:
    node(receiver)
    path = get_testdata_file("JPEG2000.dcm", download=False)
    assert path
    stored = dcmread(path)
    store(receiver, [stored])
    syntax, abstract = str(stored.file_meta.TransferSyntaxUID), str(stored.SOPClassUID)
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": stored.StudyInstanceUID}
    expected = stored.pixel_array
    for syntaxes, wanted in (
        ((syntax, str(ExplicitVRLittleEndian)), syntax),
        ((str(ExplicitVRLittleEndian),), str(ExplicitVRLittleEndian)),
        ((str(ImplicitVRLittleEndian),), str(ImplicitVRLittleEndian)),
    ):
        fetcher = Fetcher(receiver, *syntaxes, abstract=abstract)
        last, _ = fetcher.get(**keys)
        fetcher.end()
        assert last.Status == 0, receiver.log.read_text()
        ((used, dataset),) = fetcher.got
        assert used == wanted
        assert dataset.PatientID == stored.PatientID
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = used
        assert (dataset.pixel_array == expected).all()
    fetcher = Fetcher(receiver, "1.2.840.10008.1.2.4.50", abstract=abstract)
    last, failed = fetcher.get(**keys)
    fetcher.end()
    assert (last.Status, last.NumberOfFailedSuboperations) == (0xA702, 1)
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == stored.SOPInstanceUID


def test_what_the_peer_refuses_is_counted_and_named(receiver: Receiver) -> None:
    node(receiver)
    images = series(2)
    store(receiver, images)
    fetcher = Fetcher(receiver, str(ExplicitVRLittleEndian))
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": images[0].StudyInstanceUID}
    fetcher.status = 0xB000
    last, _ = fetcher.get(**keys)
    assert (last.Status, last.NumberOfWarningSuboperations) == (0xB000, 2)
    fetcher.status = 0xA700
    last, failed = fetcher.get(**keys)
    assert (last.Status, last.NumberOfFailedSuboperations) == (0xA702, 2)
    assert failed is not None
    assert set(failed.FailedSOPInstanceUIDList) == {each.SOPInstanceUID for each in images}
    fetcher.end()


def test_a_move_to_nobody_is_refused_and_one_to_a_silent_node_fails(receiver: Receiver) -> None:
    node(receiver)
    images = series(2)
    store(receiver, images)
    node(receiver, "GONE", host="127.0.0.1", port=1)
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", images[0].StudyInstanceUID
    fetcher = Fetcher(receiver, str(ExplicitVRLittleEndian))
    last, _ = list(fetcher.association.send_c_move(keys, "NOBODY", MOVE))[-1]
    assert last.Status == 0xA801
    last, failed = list(fetcher.association.send_c_move(keys, "GONE", MOVE))[-1]
    assert (last.Status, last.NumberOfFailedSuboperations) == (0xA702, 2)
    assert failed is not None
    assert len(failed.FailedSOPInstanceUIDList) == 2
    fetcher.end()


def test_a_cancel_ends_a_retrieval(receiver: Receiver) -> None:
    node(receiver)
    images = series(60)
    store(receiver, images)
    fetcher = Fetcher(receiver, str(ExplicitVRLittleEndian))
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", images[0].StudyInstanceUID
    context = next(each for each in fetcher.association.accepted_contexts if each.abstract_syntax == GET)
    last = Dataset()
    for number, (status, _) in enumerate(fetcher.association.send_c_get(keys, GET, msg_id=9)):
        last = status
        if number == 3:
            fetcher.association.send_c_cancel(9, context.context_id)
    assert last.Status == 0xFE00
    assert 0 < last.NumberOfRemainingSuboperations < 60
    assert last.NumberOfCompletedSuboperations == len(fetcher.got) == 60 - last.NumberOfRemainingSuboperations
    assert (last.NumberOfFailedSuboperations, last.NumberOfWarningSuboperations) == (0, 0)
    last, _ = fetcher.get(QueryRetrieveLevel="STUDY", StudyInstanceUID=images[0].StudyInstanceUID)
    assert (last.Status, last.NumberOfCompletedSuboperations) == (0, 60)
    fetcher.end()


def test_a_cancelled_move_sends_on_or_counts_wrongly(receiver: Receiver, tmp_path: Path) -> None:
    need_program("movescu", "dcmtk")
    images = series(60)
    node(receiver)
    store(receiver, images)
    with storescp(tmp_path / "moved") as peer:
        node(receiver, "DEST", host="127.0.0.1", port=peer.port)
        said = receiver.run("movescu", "-d", "-S", "-aet", "PACS", "-aec", "INSITU", "-aem", "DEST", "--cancel", "3",
                            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={images[0].StudyInstanceUID}",
                            "127.0.0.1", str(receiver.port))  # fmt: skip
        arrived = len(list(peer.folder.iterdir()))
    final = said.stderr.rpartition("Final Move Response")[2]
    counts = {
        name: int(number)
        for name, number in re.findall(r"(Remaining|Completed|Failed|Warning) Suboperations +: (\d+)", final)
    }
    assert "0xfe00" in final, said.stderr
    assert counts == {"Remaining": 60 - arrived, "Completed": arrived, "Failed": 0, "Warning": 0}, said.stderr
    assert 3 <= arrived < 60
