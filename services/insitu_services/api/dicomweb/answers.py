"""One search result as DICOM JSON: the attributes a level always has, those asked for, and the computed ones.

Pure functions of a row (PS3.18 tables 10.6.3-3 to 10.6.3-5). Not here: which rows (insitu.archive.search_sql).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VR

from insitu.archive.search import Level, Search, tag_of
from insitu.archive.search_sql import INSTANCE_FIELDS

DicomJson = dict[str, Any]

CHARACTER_SET = tag_of("SpecificCharacterSet")
UTF8 = {"vr": "CS", "Value": ["ISO_IR 192"]}  # JSON is UTF-8, whatever the object was written in

_STUDY_ALWAYS = [
    tag_of(keyword)
    for keyword in (
        "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID",
        "PatientBirthDate", "PatientSex", "StudyID",
    )
]  # fmt: skip
_STUDY_WHERE_PRESENT = [tag_of("TimezoneOffsetFromUTC"), tag_of("StudyDescription")]
_SERIES_ALWAYS = [tag_of("Modality"), tag_of("SeriesNumber")]
_SERIES_WHERE_PRESENT = [
    tag_of(keyword)
    for keyword in (
        "TimezoneOffsetFromUTC", "SeriesDescription", "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime", "RequestAttributesSequence",
    )
]  # fmt: skip


@cache
def _vr(tag: str) -> str:
    return str(dictionary_VR(int(tag, 16)))


def element(keyword: str, *values: Any) -> tuple[str, DicomJson]:
    """Tag and DICOM JSON element of a keyword with its values."""
    tag = tag_of(keyword)
    return tag, {"vr": _vr(tag), **({"Value": list(values)} if values else {})}


def study_url(base: str, row: Mapping[str, Any]) -> str:
    """URL of the study's resource."""
    return f"{base}/dicom-web/studies/{row['study_instance_uid']}"


def series_url(base: str, row: Mapping[str, Any]) -> str:
    """URL of the series' resource."""
    return f"{study_url(base, row)}/series/{row['series_instance_uid']}"


def instance_url(base: str, row: Mapping[str, Any]) -> str:
    """URL of the instance's resource."""
    return f"{series_url(base, row)}/instances/{row['sop_instance_uid']}"


def answer(search: Search, row: Mapping[str, Any], base: str, *, relational: bool) -> DicomJson:
    """The DICOM JSON of one row.

    Parameters
    ----------
    search : Search
    row : mapping
        A row of the statement's page; instances with their `body`.
    base : str
        Scheme and host of the request, without a slash at the end.
    relational : bool
        The resource does not name the study (or series), so each result carries the attributes of the levels above.

    Returns
    -------
    dict
        Sorted by tag, as the data set would be.
    """
    result: DicomJson = {}
    if search.level == Level.STUDY:
        _study(result, search, row, everything=search.everything)
        result.update(
            [
                element("RetrieveURL", study_url(base, row)),
                element("ModalitiesInStudy", *(row["modalities"] or ())),
                element("NumberOfStudyRelatedSeries", row["series_count"]),
                element("NumberOfStudyRelatedInstances", row["instance_count"]),
            ]
        )
    elif search.level == Level.SERIES:
        _above(result, search, row, relational)
        _series(result, search, row, everything=search.everything)
        result.update(
            [
                element("RetrieveURL", series_url(base, row)),
                element("NumberOfSeriesRelatedInstances", row["instance_count"]),
            ]
        )
    else:
        _above(result, search, row, relational)
        if relational:
            _series(result, search, row, everything=False)
        else:
            _take(result, row["series_attributes"], search.fields)
        result.update([element("SeriesInstanceUID", row["series_instance_uid"])])
        _instance(result, search, row)
        result.update([element("RetrieveURL", instance_url(base, row))])
    _restrict(result, search)
    result.update([element("InstanceAvailability", "ONLINE")])
    result[CHARACTER_SET] = UTF8
    return dict(sorted(result.items()))


def _restrict(result: DicomJson, search: Search) -> None:
    """Leave of a sequence only what is asked for inside of it."""
    if search.everything:
        return
    inside: dict[str, list[tuple[str, ...]]] = {}
    for path in search.paths:
        inside.setdefault(path[0], []).append(path[1:])
    for tag, paths in inside.items():
        if "Value" in result.get(tag, {}):
            result[tag] = {**result[tag], "Value": [_inside(item, paths) for item in result[tag]["Value"]]}


def _inside(item: DicomJson, paths: list[tuple[str, ...]]) -> DicomJson:
    kept: DicomJson = {}
    for tag in sorted({path[0] for path in paths} & item.keys()):
        deeper = [path[1:] for path in paths if path[0] == tag and len(path) > 1]
        kept[tag] = item[tag]
        if deeper and "Value" in item[tag] and item[tag]["vr"] == "SQ":
            kept[tag] = {**item[tag], "Value": [_inside(inner, deeper) for inner in item[tag]["Value"]]}
    return kept


def _take(result: DicomJson, attributes: Mapping[str, Any], tags: Any) -> None:
    for tag in tags:
        if tag in attributes:
            result[tag] = attributes[tag]


def _always(result: DicomJson, attributes: Mapping[str, Any], tags: list[str]) -> None:
    for tag in tags:
        result[tag] = attributes.get(tag) or {"vr": _vr(tag)}


def _study(result: DicomJson, search: Search, row: Mapping[str, Any], *, everything: bool) -> None:
    attributes = row["study_attributes"]
    _always(result, attributes, _STUDY_ALWAYS)
    _take(result, attributes, attributes if everything else [*_STUDY_WHERE_PRESENT, *search.fields])
    result.update([element("StudyInstanceUID", row["study_instance_uid"])])


def _series(result: DicomJson, search: Search, row: Mapping[str, Any], *, everything: bool) -> None:
    attributes = row["series_attributes"]
    _always(result, attributes, _SERIES_ALWAYS)
    _take(result, attributes, attributes if everything else [*_SERIES_WHERE_PRESENT, *search.fields])
    result.update([element("SeriesInstanceUID", row["series_instance_uid"])])


def _above(result: DicomJson, search: Search, row: Mapping[str, Any], relational: bool) -> None:
    """Attributes of the study in an answer of a lower level."""
    if relational:
        _study(result, search, row, everything=False)
    else:
        _take(result, row["study_attributes"], search.fields)
        result.update([element("StudyInstanceUID", row["study_instance_uid"])])


def _instance(result: DicomJson, search: Search, row: Mapping[str, Any]) -> None:
    body = row["body"] or {}
    _take(result, body, body if search.everything else [*INSTANCE_FIELDS, *search.fields])
    result.update([element("SOPClassUID", row["sop_class_uid"]), element("SOPInstanceUID", row["sop_instance_uid"])])
    number = row["instance_number"]
    result.update([element("InstanceNumber", *(() if number is None else (number,)))])
    for keyword, column in (
        ("Rows", "image_rows"),
        ("Columns", "image_columns"),
        ("NumberOfFrames", "number_of_frames"),
    ):
        if row[column] is not None:
            result.update([element(keyword, row[column])])
