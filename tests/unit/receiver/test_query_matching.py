"""Each kind of matching of PS3.4 C.2.2.2, one row a question; Orthanc and dcmqrscp answer the same questions as judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage
from pynetdicom import AE, build_context
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from tests.peers.dcmtk import dcmqrscp
from tests.peers.orthanc import orthanc
from tests.tools import need_orthanc, need_program

from .archive_site import image, node, store, write
from .conftest import Receiver
from .test_query_find import with_metadata

MODEL = str(StudyRootQueryRetrieveInformationModelFind)
UID = "1.2.826.0.1.3680043.9.7"  # of the studies, with a number for each letter


def item(step: str, procedure: str) -> Dataset:
    """An item of the Request Attributes Sequence."""
    made = Dataset()
    made.ScheduledProcedureStepID, made.RequestedProcedureID = step, procedure
    return made


def study(letter: str, **attributes: Any) -> Dataset:
    """A study of one object; the letter is its Patient ID."""
    root = f"{UID}.{ord(letter)}"
    uids = {"StudyInstanceUID": root, "SeriesInstanceUID": f"{root}.1", "SOPInstanceUID": f"{root}.1.1"}
    return image(PatientID=letter, **uids, **attributes)


def studies() -> list[Dataset]:
    """What is asked about."""
    return [
        study("A", PatientName="Curie^Marie", StudyTime="101500", StudyDescription="Thorax", AccessionNumber="ACC-1",
              PhysiciansOfRecord=["First^Doctor", "Second^Doctor"], ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
              AcquisitionDateTime="20240131101500.5", SeriesNumber=7,
              RequestAttributesSequence=Sequence([item("S1", "P1"), item("S2", "P2")])),
        study("B", PatientName="Meitner^Lise", StudyDate="20240601", StudyTime="235959.5", Modality="MR",
              AccessionNumber="ACC-2"),
        study("C", PatientName="Curie^Pierre", StudyDate="20190101", StudyTime="080000", StudyDescription="thorax"),
        study("D", PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100", StudyTime="000000"),
        study("E", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", SpecificCharacterSet="ISO_IR 192", StudyDate="20201231",
              StudyTime="12"),
        study("F", PatientName="", StudyDate="", StudyTime="", AccessionNumber=""),
    ]  # fmt: skip


ALL = "ABCDEF"
DCMTK, ORTHANC = "dcmqrscp", "orthanc"
# Keys (of a study, or with a level), who is found, and which judges find others and why.
Row = tuple[dict[str, Any], str, dict[str, str]]
CASE = "it matches names with regard to case, as PS3.4 lets it"
NO_KEY = "it does not match by this attribute"
EMPTY_COMPONENTS = "it compares empty trailing components of a name, which PS3.5 6.2.1 lets be left out"
NOT_NEGOTIATED = dict.fromkeys((DCMTK, ORTHANC), "it matches dates and times each by itself")
AS_TEXT = "it compares times and absent values as text"
ROWS: list[Row] = [
    # single value (C.2.2.2.1)
    ({"PatientID": "A"}, "A", {}),
    ({"PatientID": "a"}, "", {}),
    ({"AccessionNumber": "ACC-1"}, "A", {}),
    ({"AccessionNumber": "acc-1"}, "", {}),
    ({"StudyDescription": "Thorax"}, "A", {}),
    ({"PatientName": "Curie^Marie"}, "A", {}),
    ({"PatientName": "curie^marie"}, "A", {DCMTK: CASE}),
    ({"PatientName": "Curie^Marie^^"}, "A", {DCMTK: EMPTY_COMPONENTS, ORTHANC: EMPTY_COMPONENTS}),
    ({"PatientName": "Curie"}, "", {}),
    ({"PatientID": "[AB]"}, "", {}),
    # list of UIDs (C.2.2.2.2)
    ({"StudyInstanceUID": f"{UID}.65"}, "A", {}),
    ({"StudyInstanceUID": [f"{UID}.65", f"{UID}.67", "1.2.3"]}, "AC", {}),
    # universal (C.2.2.2.3)
    ({"PatientName": ""}, ALL, {}),
    ({"PatientName": "*"}, ALL, {}),
    ({"AccessionNumber": "*"}, ALL, {}),
    # wild card (C.2.2.2.4)
    ({"PatientName": "Curie*"}, "AC", {}),
    ({"PatientName": "C?rie^*"}, "AC", {}),
    ({"PatientName": "*^Lise"}, "B", {}),
    ({"PatientName": "*i?rre"}, "C", {}),
    ({"PatientID": "?"}, ALL, {}),
    ({"AccessionNumber": "ACC-?"}, "AB", {}),
    ({"StudyDescription": "T*"}, "A", {}),
    # ranges (C.2.2.2.5)
    ({"StudyDate": "20240131"}, "AD", {}),
    ({"StudyDate": "20240101-20241231"}, "ABD", {}),
    ({"StudyDate": "-20231231"}, "CE", {ORTHANC: AS_TEXT}),
    ({"StudyDate": "20240201-"}, "B", {}),
    ({"StudyDate": "20250101-20251231"}, "", {}),
    ({"StudyTime": "101500"}, "A", {}),
    ({"StudyTime": "1000-1030"}, "A", {}),
    ({"StudyTime": "120000-130000"}, "E", {ORTHANC: AS_TEXT}),
    ({"StudyTime": "2300-"}, "B", {}),
    ({"StudyTime": "-0800"}, "CD", {ORTHANC: AS_TEXT}),
    ({"StudyDate": "20190101-20240131", "StudyTime": "0900-0930"}, "", {}),
    (
        {"StudyDate": "20190101-20240131", "StudyTime": "0900-0930", "date_times": True},
        "DE",
        NOT_NEGOTIATED,
    ),
    (
        {"StudyDate": "20190101-", "StudyTime": "0900-", "date_times": True},
        "ABDE",
        NOT_NEGOTIATED,
    ),
    # several values: any may match
    ({"ModalitiesInStudy": "MR"}, "B", {DCMTK: NO_KEY}),
    ({"ModalitiesInStudy": ["CT", "MR"]}, ALL, {}),
    # character sets (C.2.2.2, PS3.5 6.1.2.3)
    ({"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 100"}, "D", {}),
    ({"PatientName": "müller*", "SpecificCharacterSet": "ISO_IR 192"}, "D", {DCMTK: CASE}),
    ({"PatientName": "*山田*", "SpecificCharacterSet": "ISO_IR 192"}, "E", {}),
    ({"PatientName": "Yamada*"}, "E", {}),
    # at the levels below
    ({"level": "SERIES", "Modality": "CT"}, "A", {}),
    ({"level": "SERIES", "SeriesNumber": "7"}, "A", {}),
    ({"level": "SERIES", "SeriesNumber": "8"}, "", {}),
    ({"level": "IMAGE", "ImageType": "AXIAL"}, "A", {ORTHANC: NO_KEY}),
    ({"level": "IMAGE", "PhysiciansOfRecord": "Second^Doctor"}, "A", {ORTHANC: NO_KEY}),
    ({"level": "IMAGE", "PhysiciansOfRecord": "Third*"}, "", {DCMTK: NO_KEY}),
    ({"level": "IMAGE", "ImageType": "SAGITTAL"}, "", {DCMTK: NO_KEY}),
    ({"level": "IMAGE", "InstanceNumber": "1"}, "A", {}),
    ({"level": "IMAGE", "AcquisitionDateTime": "20240131100000-20240131103000"}, "A", {}),
    ({"level": "IMAGE", "AcquisitionDateTime": "20240131110000-"}, "", {DCMTK: NO_KEY}),
    # sequences (C.2.2.2.6): all keys in one item
    ({"level": "IMAGE", "RequestAttributesSequence": Sequence([item("S2", "P*")])}, "A", {}),
    (
        {"level": "IMAGE", "RequestAttributesSequence": Sequence([item("S2", "P1")])},
        "",
        {DCMTK: NO_KEY, ORTHANC: NO_KEY},
    ),
    ({"level": "IMAGE", "RequestAttributesSequence": Sequence([item("", "")])}, "A", {}),
]


class Asker:
    """Asks one server by C-FIND over one association, and over another where date-times are negotiated."""

    def __init__(self, port: int, called: str) -> None:
        self.port, self.called = port, called
        self.open: dict[bool, Any] = {}

    def found(self, keys: Mapping[str, Any]) -> str:
        """Letters of the studies that a row finds."""
        keys = dict(keys)
        level, date_times = keys.pop("level", "STUDY"), keys.pop("date_times", False)
        request = Dataset()
        request.QueryRetrieveLevel, request.PatientID, request.StudyInstanceUID = level, "", ""
        if level != "STUDY":  # of the study A, whose series and object have its UID before theirs
            del request.PatientID
            request.StudyInstanceUID = f"{UID}.65"
            request.SeriesInstanceUID = f"{UID}.65.1" if level == "IMAGE" else ""
        if level == "IMAGE":
            request.SOPInstanceUID = ""
        for keyword, value in keys.items():
            setattr(request, keyword, value)
        answers = list(self.association(date_times).send_c_find(request, MODEL))
        assert answers[-1][0].Status == 0, (self.called, keys, answers[-1][0])
        uids = [str(each.StudyInstanceUID) for status, each in answers if status.Status in (0xFF00, 0xFF01) and each]
        return "".join(sorted(chr(int(uid.rpartition(".")[2])) for uid in uids))

    def association(self, date_times: bool) -> Any:
        """The one to use."""
        if date_times not in self.open:
            wanted = SOPClassExtendedNegotiation()
            wanted.sop_class_uid, wanted.service_class_application_information = MODEL, b"\0\1"
            self.open[date_times] = AE(ae_title="PACS").associate(
                "127.0.0.1", self.port, contexts=[build_context(MODEL)], ae_title=self.called,
                ext_neg=[wanted] if date_times else [],
            )  # fmt: skip
            assert self.open[date_times].is_established
        return self.open[date_times]

    def close(self) -> None:
        """Release them."""
        for each in self.open.values():
            each.release()


@contextmanager
def asking(port: int, called: str) -> Iterator[Asker]:
    """An Asker of a server."""
    asker = Asker(port, called)
    try:
        yield asker
    finally:
        asker.close()


def send(port: int, called: str, objects: list[Dataset]) -> None:
    """Store objects."""
    association = AE(ae_title="PACS").associate(
        "127.0.0.1", port, contexts=[build_context(CTImageStorage)], ae_title=called
    )
    assert all(association.send_c_store(each).Status == 0 for each in objects)
    association.release()


def unlike(asker: Asker, judge: str | None = None) -> list[tuple[dict[str, Any], str, str]]:
    """Rows with what they should find and what a server finds, where it should agree and does not."""
    asked = [(keys, expected, asker.found(keys)) for keys, expected, but in ROWS if judge not in but]
    return [row for row in asked if row[1] != row[2]]


def test_a_kind_of_matching_finds_others_than_the_standard_says(receiver: Receiver) -> None:
    node(receiver)
    store(receiver, studies())
    with_metadata(receiver)
    with asking(receiver.port, "INSITU") as asker:
        assert unlike(asker) == []


def test_dcmqrscp_finds_others_than_this_table_says(tmp_path: Path) -> None:
    need_program("dcmqrscp", "dcmtk")
    with dcmqrscp(tmp_path / "pacs", write(tmp_path / "files", studies())) as peer:
        with asking(peer.port, peer.ae_title) as asker:
            assert unlike(asker, DCMTK) == []


def test_orthanc_finds_others_than_this_table_says(tmp_path: Path) -> None:
    need_orthanc()
    with orthanc(tmp_path / "orthanc") as peer:
        send(peer.dicom_port, "ORTHANC", studies())
        with asking(peer.dicom_port, "ORTHANC") as asker:
            assert unlike(asker, ORTHANC) == []
