"""C-FIND as another system asks it: by DCMTK's findscu and by pynetdicom, against the real receiver."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage
from pynetdicom import AE, build_context
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)

from insitu.archive import metadata
from insitu.archive.blobs import FileBlobStore
from tests.tools import need_program

from .archive_site import assign, image, node, read_all, store
from .conftest import Receiver

STUDY_ROOT = str(StudyRootQueryRetrieveInformationModelFind)
PATIENT_ROOT = str(PatientRootQueryRetrieveInformationModelFind)


def findscu(receiver: Receiver, folder: Path, *keys: str, options: Iterable[str] = ("-S",)) -> list[Dataset]:
    """What DCMTK's findscu finds."""
    need_program("findscu", "dcmtk")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    line = [part for key in keys for part in ("-k", key)]
    model, *files = options
    said = receiver.run("findscu", "-v", "-aet", "PACS", "-aec", "INSITU", model, "-X", "-od", str(folder), *line,
                        "127.0.0.1", str(receiver.port), *files)  # fmt: skip
    assert said.returncode == 0, said.stderr + receiver.log.read_text()
    assert "Failed" not in said.stderr, said.stderr
    return read_all(folder)


def ask(
    receiver: Receiver, model: str, calling: str = "PACS", relational: bool = False, **keys: object
) -> tuple[list[tuple[int, Dataset | None]], Dataset]:
    """Every (status, identifier), the last one apart with its status set."""
    entity = AE(ae_title=calling)
    negotiation = []
    if relational:
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid, item.service_class_application_information = model, b"\x01"
        negotiation.append(item)
    association = entity.associate("127.0.0.1", receiver.port, contexts=[build_context(model)], ae_title="INSITU",
                                   ext_neg=negotiation)  # fmt: skip
    assert association.is_established, receiver.log.read_text()
    dataset = Dataset()
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    answers = [(status, identifier) for status, identifier in association.send_c_find(dataset, model)]
    association.release()
    return [(status.Status, identifier) for status, identifier in answers[:-1]], answers[-1][0]


def test_findscu_finds_at_every_level(receiver: Receiver, tmp_path: Path) -> None:
    node(receiver)
    first = image(PatientID="ONE", PatientName="Curie^Marie")
    second = image(PatientID="ONE", PatientName="Curie^Marie", StudyInstanceUID=first.StudyInstanceUID, Modality="CT",
                   SeriesDescription="Abdomen")  # fmt: skip
    other = image(PatientID="TWO", PatientName="Meitner^Lise", Modality="MR", StudyDate="20200101")
    store(receiver, [first, second, other])
    found = findscu(receiver, tmp_path / "f", "QueryRetrieveLevel=STUDY", "PatientID=ONE", "StudyInstanceUID",
                    "PatientName", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "ModalitiesInStudy",
                    "StudyDate", "RetrieveAETitle")  # fmt: skip
    assert [str(each.StudyInstanceUID) for each in found] == [first.StudyInstanceUID]
    assert (found[0].NumberOfStudyRelatedSeries, found[0].NumberOfStudyRelatedInstances) == (2, 2)
    assert (found[0].PatientName, found[0].ModalitiesInStudy, found[0].RetrieveAETitle) == (
        "Curie^Marie",
        "CT",
        "INSITU",
    )
    found = findscu(receiver, tmp_path / "f", "QueryRetrieveLevel=PATIENT", "PatientID", "PatientName=*",
                    "NumberOfPatientRelatedStudies", options=["-P"])  # fmt: skip
    assert sorted((each.PatientID, each.NumberOfPatientRelatedStudies) for each in found) == [("ONE", 1), ("TWO", 1)]
    found = findscu(receiver, tmp_path / "f", "QueryRetrieveLevel=SERIES", f"StudyInstanceUID={first.StudyInstanceUID}",
                    "SeriesInstanceUID", "SeriesDescription=Abd*", "NumberOfSeriesRelatedInstances")  # fmt: skip
    assert [str(each.SeriesInstanceUID) for each in found] == [second.SeriesInstanceUID]
    found = findscu(receiver, tmp_path / "f", "QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={first.StudyInstanceUID}",
                    f"SeriesInstanceUID={first.SeriesInstanceUID}", "SOPInstanceUID", "SOPClassUID", "Rows", "InstanceNumber",
                    "BitsAllocated", "PixelSpacing")  # fmt: skip
    assert [str(each.SOPInstanceUID) for each in found] == [first.SOPInstanceUID]
    assert (found[0].Rows, found[0].InstanceNumber, found[0].BitsAllocated) == (8, 1, 16)
    assert found[0].PixelSpacing is None or found[0].PixelSpacing == ""


MATCHES = {
    "PatientName=Curie^Marie": "A",
    "PatientName=curie*": "AC",
    "PatientName=C?rie^*": "AC",
    "PatientName=*^Lise": "B",
    "PatientName=": "ABC",
    "PatientID=A": "A",
    "PatientID=[AB]": "",
    "StudyDate=20240131": "A",
    "StudyDate=20240101-20241231": "AB",
    "StudyDate=-20231231": "C",
    "StudyDate=20240201-": "B",
    "StudyTime=100000-103000": "A",
    "StudyTime=2300-": "B",
    "ModalitiesInStudy=MR": "B",
    "ModalitiesInStudy=CT\\MR": "ABC",
    "AccessionNumber=ACC-*": "B",
    "StudyDescription=thorax": "",
    "StudyDescription=Thorax": "A",
}


def test_keys_match_as_the_standard_says(receiver: Receiver, tmp_path: Path) -> None:
    node(receiver)
    studies = [
        image(PatientID="A", PatientName="Curie^Marie", StudyTime="101500", StudyDescription="Thorax"),
        image(PatientID="B", PatientName="Meitner^Lise", StudyDate="20240601", StudyTime="235959.5", Modality="MR",
              AccessionNumber="ACC-7"),
        image(PatientID="C", PatientName="Curie^Pierre", StudyDate="20190101", StudyTime="08"),
    ]  # fmt: skip
    store(receiver, studies)
    found = {}
    for key in MATCHES:
        keys = [key] if key.startswith("PatientID") else [key, "PatientID"]
        answers = findscu(receiver, tmp_path / "found", "QueryRetrieveLevel=STUDY", "StudyInstanceUID", *keys)
        found[key] = "".join(sorted(each.PatientID for each in answers))
    assert found == MATCHES
    uids = "\\".join(str(each.StudyInstanceUID) for each in studies[:2])
    answers = findscu(receiver, tmp_path / "found", "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={uids}", "PatientID")
    assert sorted(each.PatientID for each in answers) == ["A", "B"]


def test_names_are_found_and_answered_in_the_character_set_of_the_request(receiver: Receiver, tmp_path: Path) -> None:
    node(receiver)
    latin = image(PatientID="L", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    japanese = image(
        PatientID="J", SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう"
    )
    store(receiver, [latin, japanese, image(PatientID="A")])
    request = Dataset()
    request.QueryRetrieveLevel, request.StudyInstanceUID, request.PatientID = "STUDY", "", ""
    answers: dict[str, tuple[str, str]] = {}
    for said, name, encoded in (
        ("ISO_IR 100", "Mü*", "latin-1"),
        ("ISO_IR 192", "Mü*", "utf-8"),
        ("ISO_IR 192", "山田*", "utf-8"),
    ):
        request.SpecificCharacterSet = said
        request.PatientName = name
        file = tmp_path / "request.dcm"
        request.save_as(file, implicit_vr=True, little_endian=True)
        assert name[0].encode(encoded) in file.read_bytes()
        found = findscu(receiver, tmp_path / "found", options=["-S", str(file)])
        assert len(found) == 1, (said, name)
        answers[f"{said} {name}"] = (found[0].SpecificCharacterSet, str(found[0].PatientName))
    assert answers == {
        "ISO_IR 100 Mü*": ("ISO_IR 100", "Müller^Jörg"),
        "ISO_IR 192 Mü*": ("ISO_IR 192", "Müller^Jörg"),
        "ISO_IR 192 山田*": ("ISO_IR 192", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    }
    everyone = findscu(receiver, tmp_path / "found", "QueryRetrieveLevel=STUDY", "PatientName", "PatientID")
    assert {each.PatientID: each.get("SpecificCharacterSet") for each in everyone} == {
        "L": "ISO_IR 192", "J": "ISO_IR 192", "A": None,
    }  # fmt: skip


def test_what_a_node_may_not_see_does_not_exist_for_it(receiver: Receiver) -> None:
    node(receiver, projects=["a"])
    shared, hidden = image(PatientID="ONE"), image(PatientID="ONE", Modality="MR")
    hidden.StudyInstanceUID = shared.StudyInstanceUID
    elsewhere = image(PatientID="TWO")
    store(receiver, [shared, hidden, elsewhere])
    assign(receiver, "a", str(shared.SeriesInstanceUID))
    assign(receiver, "b", str(hidden.SeriesInstanceUID), str(elsewhere.SeriesInstanceUID))
    found, last = ask(receiver, STUDY_ROOT, QueryRetrieveLevel="STUDY", PatientID="", StudyInstanceUID="",
                      NumberOfStudyRelatedSeries=None, NumberOfStudyRelatedInstances=None, ModalitiesInStudy="")  # fmt: skip
    assert last.Status == 0
    ((status, study),) = found
    assert status == 0xFF00
    assert study is not None
    assert (study.PatientID, study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == ("ONE", 1, 1)
    assert study.ModalitiesInStudy == "CT"
    for keys in (
        {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": elsewhere.StudyInstanceUID},
        {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "ModalitiesInStudy": "MR"},
        {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": shared.StudyInstanceUID,
         "SeriesInstanceUID": hidden.SeriesInstanceUID, "SOPInstanceUID": ""},
    ):  # fmt: skip
        assert ask(receiver, STUDY_ROOT, **keys)[0] == []
    series, _ = ask(receiver, STUDY_ROOT, QueryRetrieveLevel="SERIES", StudyInstanceUID=shared.StudyInstanceUID,
                    SeriesInstanceUID="")  # fmt: skip
    assert [str(each.SeriesInstanceUID) for _, each in series if each] == [shared.SeriesInstanceUID]
    with receiver.database.transaction() as connection:
        events = connection.execute("SELECT * FROM audit_event WHERE action = 'find'").fetchall()
    assert {event["actor"] for event in events} == {"node:pacs"}
    assert "ONE" not in str(events)


def test_a_stranger_gets_no_context_for_queries_but_may_still_store(receiver: Receiver) -> None:
    node(receiver, "PACS", ["inbox"])
    node(receiver, "FAR", ["inbox"], networks=("192.0.2.0/24",))
    node(receiver, "SHOWS", ["inbox"], certificate="ab" * 32)
    store(receiver, [image()])
    models = [STUDY_ROOT, PATIENT_ROOT, str(CTImageStorage)]
    accepted = {}
    for title in ("PACS", "FAR", "SHOWS", "NOBODY"):
        entity = AE(ae_title=title)
        association = entity.associate("127.0.0.1", receiver.port, contexts=[build_context(each) for each in models],
                                       ae_title="INSITU")  # fmt: skip
        assert association.is_established
        accepted[title] = {str(each.abstract_syntax) for each in association.accepted_contexts}
        association.release()
    assert accepted == {"PACS": set(models)} | {title: {str(CTImageStorage)} for title in ("FAR", "SHOWS", "NOBODY")}


def test_a_query_that_breaks_the_hierarchy_is_refused_unless_relational(receiver: Receiver) -> None:
    node(receiver)
    stored = image(PatientID="ONE")
    store(receiver, [stored])
    refused = {
        (STUDY_ROOT, "SERIES"): 0x0020000D,
        (STUDY_ROOT, "IMAGE"): 0x0020000D,
        (PATIENT_ROOT, "STUDY"): 0x00100020,
        (STUDY_ROOT, "PATIENT"): 0x00080052,
        (STUDY_ROOT, "NOTHING"): 0x00080052,
    }
    for (model, level), offending in refused.items():
        found, last = ask(receiver, model, QueryRetrieveLevel=level, SOPInstanceUID="")
        assert (found, last.Status, last.OffendingElement) == ([], 0xA900, offending), (model, level)
        assert last.ErrorComment
    found, last = ask(receiver, STUDY_ROOT, QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2*", SeriesInstanceUID="")
    assert last.Status == 0xA900
    found, last = ask(receiver, STUDY_ROOT, QueryRetrieveLevel="STUDY", StudyDate="yesterday")
    assert (last.Status, last.OffendingElement) == (0xC000, 0x00080020)
    found, last = ask(receiver, STUDY_ROOT, relational=True, QueryRetrieveLevel="IMAGE", SOPInstanceUID="")
    assert last.Status == 0
    assert [str(each.SOPInstanceUID) for _, each in found if each] == [stored.SOPInstanceUID]


def test_keys_that_are_not_supported_are_left_out_with_a_warning(receiver: Receiver) -> None:
    node(receiver)
    store(receiver, [image(PatientID="ONE")])
    found, last = ask(receiver, STUDY_ROOT, QueryRetrieveLevel="STUDY", StudyInstanceUID="", PatientComments="x")
    assert last.Status == 0
    ((status, study),) = found
    assert status == 0xFF01
    assert study is not None
    assert "PatientComments" not in study


def test_keys_inside_a_sequence_must_match_in_one_item(receiver: Receiver) -> None:
    node(receiver)

    def request(step: str, procedure: str) -> Dataset:
        item = Dataset()
        item.ScheduledProcedureStepID, item.RequestedProcedureID = step, procedure
        return item

    stored = image(RequestAttributesSequence=Sequence([request("S1", "P1"), request("S2", "P2")]))
    store(receiver, [stored])
    with_metadata(receiver)
    found = {}
    for step, procedure in (("S1", "P1"), ("S1", "P2"), ("S*", "P2"), ("", "")):
        answers, last = ask(receiver, STUDY_ROOT, QueryRetrieveLevel="IMAGE", StudyInstanceUID=stored.StudyInstanceUID,
                            SeriesInstanceUID=stored.SeriesInstanceUID, SOPInstanceUID="",
                            RequestAttributesSequence=Sequence([request(step, procedure)]))  # fmt: skip
        assert last.Status == 0
        found[step, procedure] = len(answers)
    assert found == {("S1", "P1"): 1, ("S1", "P2"): 0, ("S*", "P2"): 1, ("", ""): 1}


def with_metadata(receiver: Receiver) -> None:
    """Do what the dispatcher does for a complete series."""
    blobs = FileBlobStore(receiver.home / "blobs")
    with receiver.database.transaction() as connection:
        for row in connection.execute("SELECT id FROM series").fetchall():
            metadata.project_series(connection, blobs, row["id"])


def test_a_cancel_ends_a_query_and_memory_does_not_grow_with_its_matches(receiver: Receiver) -> None:
    node(receiver)
    store(receiver, [image()])
    count = 100_000
    with receiver.database.transaction() as connection:
        connection.execute(
            "INSERT INTO study (study_instance_uid, patient_id, attributes) SELECT '1.2.3.' || n, 'P' || n,"
            " jsonb_build_object('00100020', jsonb_build_object('vr', 'LO', 'Value', jsonb_build_array('P' || n)))"
            " FROM generate_series(1, %s) n", (count,),
        )  # fmt: skip
        connection.execute(
            "INSERT INTO series (series_instance_uid, study, modality) SELECT '1.2.4.' || id, id, 'CT' FROM study"
            " WHERE study_instance_uid LIKE '1.2.3.%'"
        )
        connection.execute(
            "INSERT INTO series_project (series, project) SELECT id, 'inbox' FROM series ON CONFLICT DO NOTHING"
        )
        connection.execute("ANALYZE")  # as the server does by itself, but later
    before = max(worker.memory_info().rss for worker in receiver.workers())
    entity = AE(ae_title="PACS")
    association = entity.associate("127.0.0.1", receiver.port, contexts=[build_context(STUDY_ROOT)], ae_title="INSITU")
    request = Dataset()
    request.QueryRetrieveLevel, request.StudyInstanceUID, request.PatientID = "STUDY", "", ""
    got, last, largest = 0, 0, before
    for number, (status, _) in enumerate(association.send_c_find(request, STUDY_ROOT, msg_id=7)):
        last = status.Status
        got += last == 0xFF00
        if number == 3000:
            largest = max(worker.memory_info().rss for worker in receiver.workers())
            association.send_c_cancel(7, association.accepted_contexts[0].context_id)
    association.release()
    assert last == 0xFE00
    assert 3000 <= got < count
    assert largest - before < 40_000_000
    said = receiver.run("findscu", "-d", "-S", "-aet", "PACS", "-aec", "INSITU", "--cancel", "50", "-k", "QueryRetrieveLevel=STUDY",
                        "-k", "StudyInstanceUID", "127.0.0.1", str(receiver.port))  # fmt: skip
    assert "0xfe00" in said.stderr.rpartition("Find Response")[2], said.stderr[-2000:]
    assert 50 <= said.stderr.count("0xff00: Pending") < count, said.stderr[-2000:]
    # the same association and process go on as if nothing had been
    assert len(ask(receiver, STUDY_ROOT, QueryRetrieveLevel="STUDY", PatientID="P17", StudyInstanceUID="")[0]) == 1
