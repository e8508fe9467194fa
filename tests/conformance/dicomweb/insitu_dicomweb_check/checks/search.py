"""Searching (QIDO-RS, PS3.18 10.6): the resources, and which attributes the results have (tables 10.6.3-3 to 10.6.3-5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..check import MUST, SHOULD, Broken, Check, add, check
from ..dicomjson import first
from ..objects import Sample
from ..visit import Visit, demand, status

RESOURCES = {
    "studies": "/studies",
    "series": "/series",
    "instances": "/instances",
    "study-series": "{study}/series",
    "study-instances": "{study}/instances",
    "series-instances": "{series}/instances",
}


def _resource(name: str, template: str) -> None:
    def ask(visit: Visit) -> str:
        target = visit.target()
        path = template.format(study=target.study_path, series=target.series_path)
        response = visit.server.get(path, query=[("limit", "5")])
        status(response, 200)
        return f"{len(visit.results(response))} results"

    shown = template.format(study="/studies/{study}", series="/studies/{study}/series/{series}")
    expects = f"A search of {shown} is answered with 200 and a list of results"
    add(Check(f"search.{name}", MUST, "Table 10.6.1-1", expects, ask, False, False))


for _name, _template in RESOURCES.items():
    _resource(_name, _template)

_STUDY = (
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID", "PatientBirthDate",
    "PatientSex", "StudyInstanceUID", "StudyID",
)  # fmt: skip
_SERIES = ("Modality", "SeriesInstanceUID", "SeriesNumber")
_INSTANCE = ("SOPClassUID", "SOPInstanceUID", "InstanceNumber")


def tag_of(sample: Sample, keyword: str) -> str:
    """Eight digits of a keyword."""
    return f"{int(sample.dataset[keyword].tag):08X}"


def _missing(sample: Sample, row: Mapping[str, Any], keywords: tuple[str, ...]) -> list[str]:
    """Attributes that are absent or have another value than was stored."""
    expected = sample.dataset.to_json_dict(bulk_data_threshold=1 << 30, bulk_data_element_handler=lambda _: "")
    wrong = []
    for keyword in keywords:
        tag = tag_of(sample, keyword)
        came, wanted = first(row.get(tag)), first(expected[tag])
        same = came == wanted or (wanted is not None and str(came).strip() == str(wanted).strip())
        if tag not in row:
            wrong.append(f"{keyword} is missing")
        elif not same:
            wrong.append(f"{keyword} is {came!r}, not {wanted!r}")
    return wrong


def row_of(rows: list[Mapping[str, Any]], tag: str, uid: str) -> Mapping[str, Any]:
    """The result with a UID.

    Raises
    ------
    Broken
        It is not there.
    """
    for row in rows:
        if first(row.get(tag)) == uid:
            return row
    raise Broken(f"{len(rows)} results, and not the one asked for")


def study_row(visit: Visit, sample: Sample) -> Mapping[str, Any]:
    """The result of a search for a study."""
    rows = visit.once(f"study {sample.study}", lambda: visit.search("/studies", StudyInstanceUID=sample.study))
    return row_of(rows, "0020000D", sample.study)


def _series_row(visit: Visit, sample: Sample) -> Mapping[str, Any]:
    rows = visit.once(f"series {sample.study}", lambda: visit.search(f"/studies/{sample.study}/series"))
    return row_of(rows, "0020000E", sample.series)


def _instance_row(visit: Visit, sample: Sample) -> Mapping[str, Any]:
    path = f"/studies/{sample.study}/series/{sample.series}/instances"
    return row_of(visit.once(f"instances {sample.series}", lambda: visit.search(path)), "00080018", sample.instance)


def _no_problem(problems: list[str], well: str) -> str:
    demand(not problems, "; ".join(problems[:4]))
    return well


@check("search.study-attributes", MUST, "Table 10.6.3-3",
       "A study result has the stored values of all required attributes (date, time, patient, ...)", own=True)  # fmt: skip
def study_attributes(visit: Visit) -> str:
    return _no_problem(_missing(visit.samples.ct[0], study_row(visit, visit.samples.ct[0]), _STUDY), "all are there")


@check(
    "search.study-counts",
    MUST,
    "Table 10.6.3-3",
    "A study result counts its series (0020,1206) and instances (0020,1208)",
    own=True,
)
def study_counts(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    row, members = study_row(visit, sample), visit.samples.of_study(sample.study)
    came = (first(row.get("00201206")), first(row.get("00201208")))
    wanted = (len({m.series for m in members}), len(members))
    demand(tuple(map(str, came)) == tuple(map(str, wanted)), f"{came[0]} series and {came[1]} instances, not {wanted}")
    return f"{came[0]} series, {came[1]} instances"


@check(
    "search.study-modalities",
    MUST,
    "Table 10.6.3-3",
    "A study result lists Modalities in Study (0008,0061), each once",
    own=True,
)
def study_modalities(visit: Visit) -> str:
    values = (study_row(visit, visit.samples.ct[0]).get("00080061") or {}).get("Value") or []
    demand(sorted(values) == ["CT", "MR"], f"{values}, not CT and MR")
    return ", ".join(sorted(values))


@check(
    "search.study-url",
    MUST,
    "Table 10.6.3-3",
    "A study result has a Retrieve URL (0008,1190), and the study is there",
    own=True,
)
def study_url(visit: Visit) -> str:
    return _retrievable(visit, study_row(visit, visit.samples.ct[0]))


def _retrievable(visit: Visit, row: Mapping[str, Any]) -> str:
    url = first(row.get("00081190"))
    demand(url, "there is none")
    status(visit.server.get(visit.server.absolute(visit.server.url + "/studies", str(url)) + "/metadata"), 200)
    return str(url)


@check(
    "search.series-attributes",
    MUST,
    "Table 10.6.3-4",
    "A series result has Modality, Series Instance UID and Series Number",
    own=True,
)
def series_attributes(visit: Visit) -> str:
    return _no_problem(_missing(visit.samples.ct[0], _series_row(visit, visit.samples.ct[0]), _SERIES), "all are there")


@check("search.series-count", MUST, "Table 10.6.3-4", "A series result counts its instances (0020,1209)", own=True)
def series_count(visit: Visit) -> str:
    came = first(_series_row(visit, visit.samples.ct[0]).get("00201209"))
    demand(str(came) == str(len(visit.samples.ct)), f"{came}, not {len(visit.samples.ct)}")
    return str(came)


@check(
    "search.series-url", MUST, "Table 10.6.3-4", "A series result has a Retrieve URL, and the series is there", own=True
)
def series_url(visit: Visit) -> str:
    return _retrievable(visit, _series_row(visit, visit.samples.ct[0]))


@check("search.series-conditional", SHOULD, "Table 10.6.3-4 (if known)",
       "A series result has Series Description and the start date and time of the procedure step", own=True)  # fmt: skip
def series_conditional(visit: Visit) -> str:
    keywords = ("SeriesDescription", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime")
    return _no_problem(
        _missing(visit.samples.ct[0], _series_row(visit, visit.samples.ct[0]), keywords), "all are there"
    )


@check("search.series-request", SHOULD, "Table 10.6.3-4 (if known)",
       "A series result has the Request Attributes Sequence with the IDs of procedure and step", own=True)  # fmt: skip
def series_request(visit: Visit) -> str:
    request = first(_series_row(visit, visit.samples.ct[0]).get("00400275")) or {}
    wanted = visit.samples.ct[0].dataset.RequestAttributesSequence[0]
    came = (first(request.get("00401001")), first(request.get("00400009")))
    demand(came == (wanted.RequestedProcedureID, wanted.ScheduledProcedureStepID), f"{came}")
    return "both are there"


@check(
    "search.instance-attributes",
    MUST,
    "Table 10.6.3-5",
    "An instance result has SOP Class, SOP Instance UID and Instance Number",
    own=True,
)
def instance_attributes(visit: Visit) -> str:
    return _no_problem(
        _missing(visit.samples.ct[1], _instance_row(visit, visit.samples.ct[1]), _INSTANCE), "all are there"
    )


@check(
    "search.instance-url",
    MUST,
    "Table 10.6.3-5",
    "An instance result has a Retrieve URL, and the instance is there",
    own=True,
)
def instance_url(visit: Visit) -> str:
    return _retrievable(visit, _instance_row(visit, visit.samples.ct[1]))


@check(
    "search.instance-image",
    SHOULD,
    "Table 10.6.3-5 (if known)",
    "An instance result has Rows, Columns and Bits Allocated",
    own=True,
)
def instance_image(visit: Visit) -> str:
    keywords = ("Rows", "Columns", "BitsAllocated")
    return _no_problem(
        _missing(visit.samples.ct[1], _instance_row(visit, visit.samples.ct[1]), keywords), "all are there"
    )


@check(
    "search.instance-frames",
    SHOULD,
    "Table 10.6.3-5 (if known)",
    "The result of a multi-frame instance has Number of Frames",
    own=True,
)
def instance_frames(visit: Visit) -> str:
    sample = visit.samples.multiframe
    return _no_problem(_missing(sample, _instance_row(visit, sample), ("NumberOfFrames",)), "it is there")


@check(
    "search.availability",
    SHOULD,
    "Tables 10.6.3-3, -5 (if known)",
    "Study and instance results have Instance Availability (0008,0056)",
    own=True,
)
def availability(visit: Visit) -> str:
    rows = (study_row(visit, visit.samples.ct[0]), _instance_row(visit, visit.samples.ct[0]))
    came = [first(row.get("00080056")) for row in rows]
    demand(all(value in ("ONLINE", "NEARLINE", "OFFLINE", "UNAVAILABLE") for value in came), f"{came}")
    return f"{came[0]}"


@check(
    "search.series-with-study", MUST, "10.6.3.3.2", "Results of /series also have the attributes of the study", own=True
)
def series_with_study(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    row = row_of(visit.search("/series", SeriesInstanceUID=sample.series), "0020000E", sample.series)
    return _no_problem(_missing(sample, row, _STUDY + _SERIES), "all are there")


@check(
    "search.instances-with-study",
    MUST,
    "10.6.3.3.3",
    "Results of /instances also have the attributes of study and series",
    own=True,
)
def instances_with_study(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    row = row_of(visit.search("/instances", SOPInstanceUID=sample.instance), "00080018", sample.instance)
    return _no_problem(_missing(sample, row, _STUDY + _SERIES + _INSTANCE), "all are there")


@check("search.study-instances-with-series", MUST, "10.6.3.3.3",
       "Results of /studies/{study}/instances also have the attributes of the series", own=True)  # fmt: skip
def study_instances_with_series(visit: Visit) -> str:
    sample = visit.samples.rle
    row = row_of(visit.search(f"/studies/{sample.study}/instances"), "00080018", sample.instance)
    return _no_problem(_missing(sample, row, _SERIES + _INSTANCE), "all are there")


@check(
    "search.study-instances-complete",
    MUST,
    "Table 10.6.1-2",
    "/studies/{study}/instances finds every instance of the study once",
    own=True,
)
def study_instances_complete(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    came = sorted(str(first(row.get("00080018"))) for row in visit.search(f"/studies/{sample.study}/instances"))
    wanted = sorted(member.instance for member in visit.samples.of_study(sample.study))
    demand(came == wanted, f"{len(came)} results, {len(set(came) & set(wanted))} of {len(wanted)} instances")
    return f"{len(came)} instances"


@check("search.other-study", MUST, "10.6.1.1", "A search below a study finds nothing of another study", own=True)
def other_study(visit: Visit) -> str:
    wrong = f"/studies/{visit.samples.multiframe.study}/series/{visit.samples.ct[0].series}/instances"
    response = visit.server.get(wrong)
    if response.status_code == 404:
        return status(response, 404)
    rows = visit.results(response)
    demand(not rows, f"{len(rows)} instances of a series of another study")
    return "nothing"
