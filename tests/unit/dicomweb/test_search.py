"""QIDO-RS: what is found by which key, what is refused, what an answer holds."""

from __future__ import annotations

import pytest

from insitu.archive import search_sql
from insitu.archive.search import Level, Search, attribute_path, condition, value_range


@pytest.fixture
def filled(site, make):
    """Three studies: 1.2.3 (CT and MR), 1.2.4 (CT), 1.2.5 (MR)."""
    site.take(
        make(1),
        make(2),
        make(1, SeriesInstanceUID="1.2.3.5", Modality="MR", SeriesDescription="T1", SeriesNumber=3),
        make(1, StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1", PatientName="Doe^John", PatientID="P2",
             StudyDate="20240301", StudyTime="1045", AccessionNumber="A2", SliceThickness="5", StudyDescription="Chest.x"),
        make(1, StudyInstanceUID="1.2.5", SeriesInstanceUID="1.2.5.1", PatientName="Roe^Richard^^^", PatientID="P*3",
             StudyDate="20251231", StudyTime="235959.5", AccessionNumber="", Modality="MR", SpecificCharacterSet="ISO_IR 100",
             ReferringPhysicianName="Müller^Änne"),
    )  # fmt: skip
    return site


def studies(site, **parameters) -> set[str]:
    """Study Instance UIDs of a search."""
    return {study["0020000D"]["Value"][0] for study in site.found("/studies", **parameters)}


FOUND = [
    ({}, {"1.2.3", "1.2.4", "1.2.5"}),
    ({"PatientID": "P1"}, {"1.2.3"}),
    ({"00100020": "P1"}, {"1.2.3"}),
    ({"PatientID": "p1"}, set()),
    ({"PatientID": ""}, {"1.2.3", "1.2.4", "1.2.5"}),
    ({"PatientID": "P?"}, {"1.2.3", "1.2.4"}),
    ({"PatientName": "doe^jane"}, {"1.2.3"}),
    ({"PatientName": "Doe*"}, {"1.2.3", "1.2.4"}),
    ({"PatientName": "Doe"}, set()),
    ({"PatientName": "Roe^Richard"}, {"1.2.5"}),
    ({"ReferringPhysicianName": "Müller*"}, {"1.2.5"}),
    ({"StudyDescription": "Chest.x"}, {"1.2.4"}),
    ({"StudyDescription": "Chest?x"}, {"1.2.4"}),
    ({"StudyDescription": "C.est*"}, set()),
    ({"StudyInstanceUID": "1.2.3,1.2.5"}, {"1.2.3", "1.2.5"}),
    ({"StudyInstanceUID": "1.2.3\\1.2.4"}, {"1.2.3", "1.2.4"}),
    ({"StudyDate": "20240131"}, {"1.2.3"}),
    ({"StudyDate": "20240131-20240301"}, {"1.2.3", "1.2.4"}),
    ({"StudyDate": "20240201-"}, {"1.2.4", "1.2.5"}),
    ({"StudyDate": "-20240201"}, {"1.2.3"}),
    ({"StudyTime": "1030-1045"}, {"1.2.3", "1.2.4"}),
    ({"StudyTime": "104500-"}, {"1.2.4", "1.2.5"}),
    ({"StudyTime": "-1044"}, {"1.2.3"}),
    ({"StudyTime": "23-"}, {"1.2.5"}),
    ({"StudyDate": "20240131-20240301", "StudyTime": "1000-0900"}, {"1.2.3"}),  # one range of date-times
    ({"StudyDate": "20240131-", "StudyTime": "1031-"}, {"1.2.4", "1.2.5"}),
    ({"ModalitiesInStudy": "MR"}, {"1.2.3", "1.2.5"}),
    ({"ModalitiesInStudy": "MR,CT"}, {"1.2.3", "1.2.4", "1.2.5"}),
    ({"SeriesDescription": "T1"}, {"1.2.3"}),
    ({"Modality": "MR", "SeriesDescription": "Axial*"}, {"1.2.5"}),
    ({"SliceThickness": "5.0"}, {"1.2.4"}),
    ({"PatientName": "Doe*", "StudyDate": "20240301"}, {"1.2.4"}),
    ({"PatientName": 'x" flag "i") || (1 == 1'}, set()),
    ({"StudyDescription": "'; DROP TABLE study; --"}, set()),
]


def test_studies_are_found_by_every_kind_of_key(filled):
    wrong = {str(parameters): studies(filled, **parameters) for parameters, expected in FOUND
             if studies(filled, **parameters) != expected}  # fmt: skip
    assert wrong == {}


REFUSED = [
    ({"PatientNam": "x"}, "PatientNam"),
    ({"StudyDate": "2024-01-31"}, "2024-01-31"),
    ({"StudyDate": "January"}, "January"),
    ({"limit": "-1"}, "-1"),
    ({"offset": "many"}, "many"),
    ({"includefield": "Nonsense"}, "Nonsense"),
    ({"fuzzymatching": "maybe"}, "maybe"),
    ({"InstanceNumber": "one"}, "one"),
    ({"PixelData": "x"}, "PixelData"),
    ({"NumberOfStudyRelatedInstances": "3"}, "NumberOfStudyRelatedInstances"),
    ({"PatientID": ["a", "b"]}, "PatientID"),
]


def test_a_search_that_cannot_be_meant_is_refused_by_name(filled):
    for parameters, named in REFUSED:
        response = filled.get("/studies", params=parameters)
        assert response.status_code == 400, parameters
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["value"] == named


def test_a_parameter_that_no_attribute_can_be_is_ignored_with_a_warning(filled):
    response = filled.get("/studies", params={"PatientID": "P1", "orderby": "StudyDate", "abcdef01": ""})
    assert response.status_code == 200
    assert "ignored" in response.headers["Warning"]
    assert len(response.json()) == len(filled.found("/studies", PatientID="P1"))


def test_a_study_has_what_the_standard_asks_for_with_counts(filled):
    (study,) = filled.found("/studies", PatientID="P1")
    assert study["00080061"] == {"vr": "CS", "Value": ["CT", "MR"]}
    assert study["00201206"] == {"vr": "IS", "Value": [2]}
    assert study["00201208"] == {"vr": "IS", "Value": [3]}
    assert study["00080056"]["Value"] == ["ONLINE"]
    assert study["00081190"]["Value"] == [f"{filled.url}/dicom-web/studies/1.2.3"]
    assert study["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]
    assert study["00080090"] == {"vr": "PN"}
    assert "00200010" in study
    assert "0008103E" not in study


def test_names_are_right_whatever_character_set_the_object_has(filled):
    (study,) = filled.found("/studies", PatientID="P*3")
    assert study["00080090"]["Value"] == [{"Alphabetic": "Müller^Änne"}]
    assert study["00080005"]["Value"] == ["ISO_IR 192"]


def test_fields_asked_for_are_included(filled):
    (series,) = filled.found("/studies/1.2.4/series", includefield="StudyDescription,00100020")
    assert series["00081030"]["Value"] == ["Chest.x"]
    assert series["00100020"]["Value"] == ["P2"]
    assert "00100010" not in series
    (instance,) = filled.found(
        "/studies/1.2.4/series/1.2.4.1/instances", includefield=["SliceThickness", "RescaleSlope"]
    )
    assert instance["00180050"]["Value"] == [5]
    assert instance["00281053"]["Value"] == [1]
    (instance,) = filled.found("/studies/1.2.4/instances", includefield="all")
    assert instance["00280102"]["Value"] == [15]
    assert instance["00080060"]["Value"] == ["CT"]


def test_series_and_instances_have_what_the_standard_asks_for(filled):
    ct, mr = filled.found("/studies/1.2.3/series")
    assert [s["00080060"]["Value"][0] for s in (ct, mr)] == ["CT", "MR"]
    assert ct["00201209"]["Value"] == [2]
    assert ct["0020000D"]["Value"] == ["1.2.3"]
    assert ct["00081190"]["Value"][0].endswith("/dicom-web/studies/1.2.3/series/1.2.3.4")
    first, second = filled.found("/studies/1.2.3/series/1.2.3.4/instances")
    assert [i["00200013"]["Value"][0] for i in (first, second)] == [1, 2]
    assert (first["00280010"]["Value"], first["00280011"]["Value"], first["00280100"]["Value"]) == ([4], [6], [16])
    assert first["00080016"]["Value"] == ["1.2.840.10008.5.1.4.1.1.2"]
    (anywhere,) = filled.found("/instances", PatientID="P2")
    assert anywhere["00100010"]["Value"] == [{"Alphabetic": "Doe^John"}]
    assert len(filled.found("/instances", StudyInstanceUID="1.2.3", InstanceNumber="1")) == 2
    assert len(filled.found("/series", Modality="MR")) == 2


def test_pages_hold_every_study_once_and_tell_the_total(filled):
    pages = [filled.get("/studies", params={"limit": 2, "offset": offset}) for offset in (0, 2, 4)]
    assert [page.headers["X-Total-Count"] for page in pages] == ["3", "3", "3"]
    found = [study["0020000D"]["Value"][0] for page in pages for study in page.json()]
    assert sorted(found) == ["1.2.3", "1.2.4", "1.2.5"]
    assert "There are 1 additional results" in pages[0].headers["Warning"]
    assert "Warning" not in pages[1].headers


def test_fuzzy_matching_is_declined_with_a_warning_but_literal_results_come(filled):
    response = filled.get("/studies", params={"fuzzymatching": "true", "PatientID": "P1"})
    assert len(response.json()) == 1
    assert "Only literal matching" in response.headers["Warning"]


def test_a_search_without_results_is_an_empty_list(filled):
    response = filled.get("/studies", params={"PatientID": "nobody"})
    assert (response.status_code, response.json(), response.headers["X-Total-Count"]) == (200, [], "0")
    assert response.headers["Content-Type"] == "application/dicom+json"


def test_xml_is_not_acceptable(filled):
    assert filled.get("/studies", headers={"Accept": "application/dicom+xml"}).status_code == 406
    assert filled.get("/studies", params={"accept": "application/json"}).headers["Content-Type"] == "application/json"


def test_instances_are_found_before_the_dispatcher_has_made_their_metadata(site, make):
    site.take(make(1), with_metadata=False)
    (instance,) = site.found("/studies/1.2.3/instances")
    assert instance["00280100"]["Value"] == [16]


@pytest.mark.parametrize(
    ("vr", "value", "bounds"),
    [
        ("TM", "100000-", ("10", None)),
        ("TM", "103000", ("1030", "103000~")),
        ("TM", "000000-0000", ("00", "0000~")),
        ("TM", "103000.5-", ("103000.5", None)),
        ("TM", "103000.00-", ("1030", None)),
        ("DT", "20240101-2024", ("20240101", "2024~")),
        ("DT", "20240131083000+0100", ("20240131083000", "20240131083000~")),
    ],
)
def test_bounds_compare_like_stored_values_of_any_precision(vr, value, bounds):
    assert value_range(vr, value) == bounds


def test_patients_are_counted_once_with_what_is_visible_of_them(filled, make):
    filled.project("heart")
    filled.take(make(1, StudyInstanceUID="1.2.6", SeriesInstanceUID="1.2.6.1"), project="heart")
    key = condition("PatientName", *attribute_path("PatientName"), "Doe*")
    with filled.context.database.transaction() as connection:
        first, second = search_sql.run(connection, Search(Level.PATIENT, (key,)), None)
        (visible,) = search_sql.run(connection, Search(Level.PATIENT, (key,)), frozenset({"heart"}))
    counts = ("patient_id", "study_count", "series_count", "instance_count")
    assert [first[name] for name in counts] == ["P1", 2, 3, 4]
    assert [second[name] for name in counts] == ["P2", 1, 1, 1]
    assert [visible[name] for name in counts] == ["P1", 1, 1, 1]
