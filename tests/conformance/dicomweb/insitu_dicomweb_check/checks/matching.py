"""Searching (QIDO-RS): matching by each attribute that a server has to support, and by each type of matching (PS3.4 C.2.2.2)."""

from __future__ import annotations

from collections.abc import Callable

from ..check import MAY, MUST, SHOULD, Check, NotOffered, add, check
from ..dicomjson import first
from ..objects import Sample, Samples
from ..visit import Visit, demand, status

STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"


def found(visit: Visit, path: str, unique: str, **query: str) -> set[str]:
    """UIDs that a search finds, kept to this run's objects."""
    rows = visit.search(path, **query)
    own = {uid for s in visit.samples.all for uid in (s.study, s.series, s.instance)}
    return {str(first(row.get(unique))) for row in rows} & own


def _both_ways(name: str, path: str, unique: str, query: dict[str, str], wrong: dict[str, str],
               wanted: Callable[[Samples], set[str]], paragraph: str, expects: str) -> None:  # fmt: skip
    """A check that a search finds exactly what it should, and that another value finds nothing of it."""

    def ask(visit: Visit) -> str:
        samples = visit.samples
        at = path.format(study=samples.ct[0].study, series=samples.ct[0].series)
        fill = {"study": samples.ct[0].study, "physician": samples.physician, "run": samples.run}
        first_ct = samples.ct[0].dataset
        values = {
            k: v.format(ds=first_ct, request=first_ct.RequestAttributesSequence[0], **fill) for k, v in query.items()
        }
        came = found(visit, at, unique, **values)
        demand(came == wanted(samples), f"{len(came)} of this run's objects found, not {len(wanted(samples))}")
        others = found(visit, at, unique, **(values | wrong))
        demand(not others & wanted(samples), "another value finds it too")
        return f"{len(came)} found, and none by another value"

    add(Check(name, MUST, paragraph, expects, ask, True, False))


def _one_study(samples: Samples) -> set[str]:
    return {samples.ct[0].study}


def _ct_series(samples: Samples) -> set[str]:
    return {samples.ct[0].series}


def _first_ct(samples: Samples) -> set[str]:
    return {samples.ct[0].instance}


# keyword: (value, a value that must not match). The accession number keeps searches by common values to this run's study.
_STUDY_KEYS = {
    "StudyDate": ("{ds.StudyDate}", "19010101"),
    "StudyTime": ("{ds.StudyTime}", "030303"),
    "AccessionNumber": ("{ds.AccessionNumber}", "NO-SUCH-NUMBER"),
    "ModalitiesInStudy": ("MR", "XA"),
    "ReferringPhysicianName": ("{physician}", "NobodyOfThisName"),
    "PatientName": ("Conformance{run}*", "Nobody*"),
    "PatientID": ("{ds.PatientID}", "NO-SUCH-PATIENT"),
    "StudyInstanceUID": ("{ds.StudyInstanceUID}", "2.25.1"),
    "StudyID": ("{ds.StudyID}", "NO-SUCH-ID"),
}
for _keyword, (_value, _other) in _STUDY_KEYS.items():
    _narrow = {} if _keyword == "AccessionNumber" else {"AccessionNumber": "{ds.AccessionNumber}"}
    _both_ways(
        f"match.{_keyword}", "/studies", STUDY, {**_narrow, _keyword: _value}, {_keyword: _other}, _one_study,
        "Table 10.6.1-5", f"Studies are found by {_keyword}, and not by another value of it",
    )  # fmt: skip

_SERIES_KEYS = {
    "Modality": ("CT", "XA"),
    "SeriesInstanceUID": ("{ds.SeriesInstanceUID}", "2.25.1"),
    "SeriesNumber": ("1", "77"),
    "PerformedProcedureStepStartDate": ("{ds.PerformedProcedureStepStartDate}", "19010101"),
    "PerformedProcedureStepStartTime": ("{ds.PerformedProcedureStepStartTime}", "030303"),
    "RequestAttributesSequence__RequestedProcedureID": ("{request.RequestedProcedureID}", "NO-SUCH-ID"),
    "RequestAttributesSequence__ScheduledProcedureStepID": ("{request.ScheduledProcedureStepID}", "NO-SUCH-ID"),
}
for _keyword, (_value, _other) in _SERIES_KEYS.items():
    _shown = _keyword.replace("__", ".")
    _both_ways(
        f"match.{_shown}", "/studies/{study}/series", SERIES, {_keyword: _value}, {_keyword: _other}, _ct_series,
        "Table 10.6.1-5", f"Series of a study are found by {_shown}, and not by another value of it",
    )  # fmt: skip

_INSTANCE_KEYS = {
    "SOPClassUID": ("{ds.SOPClassUID}", "1.2.840.10008.5.1.4.1.1.20", lambda s: {c.instance for c in s.ct}),
    "SOPInstanceUID": ("{ds.SOPInstanceUID}", "2.25.1", _first_ct),
    "InstanceNumber": ("1", "77", _first_ct),
}
for _keyword, (_value, _other, _wanted) in _INSTANCE_KEYS.items():
    _both_ways(
        f"match.{_keyword}", "/studies/{study}/series/{series}/instances", INSTANCE, {_keyword: _value},
        {_keyword: _other}, _wanted, "Table 10.6.1-5",
        f"Instances of a series are found by {_keyword}, and not by another value of it",
    )  # fmt: skip

_both_ways(
    "match.series-by-study", "/series", SERIES, {"AccessionNumber": "{ds.AccessionNumber}", "Modality": "CT"},
    {"AccessionNumber": "NO-SUCH-NUMBER"}, _ct_series, "Table 10.6.1-4",
    "A search of /series takes attributes of the study and of the series together",
)  # fmt: skip
_both_ways(
    "match.instances-by-study", "/instances", INSTANCE,
    {"PatientID": "{ds.PatientID}", "Modality": "CT", "InstanceNumber": "1"}, {"PatientID": "NO-SUCH-PATIENT"},
    _first_ct, "Table 10.6.1-4", "A search of /instances takes attributes of the study, the series and the instance together",
)  # fmt: skip
_both_ways(
    "match.study-instances-by-series", "/studies/{study}/instances", INSTANCE, {"Modality": "CT", "InstanceNumber": "1"},
    {"Modality": "XA"}, _first_ct, "Table 10.6.1-4",
    "A search of /studies/{study}/instances takes attributes of the series and of the instance",
)  # fmt: skip
_both_ways(
    "match.by-tag", "/studies", STUDY, {"00100020": "{ds.PatientID}"}, {"00100020": "NO-SUCH-PATIENT"}, _one_study,
    "8.3.4.1", "An attribute is named by its tag as well as by its keyword",
)  # fmt: skip
_both_ways(
    "match.by-tag-lower-case", "/studies", STUDY, {"0020000d": "{ds.StudyInstanceUID}"}, {"0020000d": "2.25.1"}, _one_study,
    "8.3.4.1 (8HEXDIG, RFC 5234 2.3)", "The hexadecimal digits of a tag may be lower case",
)  # fmt: skip
_both_ways(
    "match.sequence-by-tag", "/studies/{study}/series", SERIES, {"00400275__00401001": "{request.RequestedProcedureID}"},
    {"00400275__00401001": "NO-SUCH-ID"}, _ct_series, "8.3.4.1", "An attribute in a sequence is named by tags with a dot",
)  # fmt: skip


def _of_run(visit: Visit, **query: str) -> set[str]:
    return found(visit, "/studies", STUDY, ReferringPhysicianName=visit.samples.physician, **query)


def _only(visit: Visit, wanted: list[Sample], **query: str) -> str:
    came, uids = _of_run(visit, **query), {sample.study for sample in wanted}
    demand(came == uids, f"{len(came)} of this run's studies, {len(came & uids)} of the {len(uids)} wanted")
    return f"{len(came)} studies"


def _wildcard(name: str, value: str, wanted: Callable[[Samples], list[Sample]], expects: str) -> None:
    def ask(visit: Visit) -> str:
        return _only(visit, wanted(visit.samples), PatientID=value.format(run=visit.samples.run))

    add(Check(name, MUST, "8.3.4.1.1, PS3.4 C.2.2.2.4", expects, ask, True, False))


_wildcard(
    "match.star", "CHK-{run}-*", lambda s: [s.ct[0], s.multiframe, s.report, s.document], "* stands for any characters"
)
_wildcard(
    "match.star-inside", "CHK*{run}-B", lambda s: [s.multiframe], "* stands for any characters inside a value too"
)
_wildcard(
    "match.question-mark",
    "CHK-{run}-?",
    lambda s: [s.ct[0], s.multiframe, s.report, s.document],
    "? stands for one character",
)
_wildcard("match.question-mark-one", "CHK-{run}?", lambda s: [], "? does not stand for two characters")


def _range(name: str, keyword: str, value: str, wanted: Callable[[Samples], list[Sample]], expects: str) -> None:
    def ask(visit: Visit) -> str:
        return _only(visit, wanted(visit.samples), **{keyword: value})

    add(Check(name, MUST, "8.3.4.1.1, PS3.4 C.2.2.2.5", expects, ask, True, False))


_range(
    "match.date-range",
    "StudyDate",
    "20240201-20240310",
    lambda s: [s.multiframe, s.report],
    "A range of dates includes both ends",
)
_range(
    "match.date-from",
    "StudyDate",
    "20240310-",
    lambda s: [s.report, s.document],
    "A range of dates may be open at its end",
)
_range(
    "match.date-until",
    "StudyDate",
    "-20240220",
    lambda s: [s.ct[0], s.multiframe],
    "A range of dates may be open at its start",
)
_range(
    "match.time-range", "StudyTime", "0900-1200", lambda s: [s.ct[0]], "A range of times takes times without seconds"
)
_range(
    "match.time-from",
    "StudyTime",
    "143000-",
    lambda s: [s.multiframe, s.document],
    "A range of times may be open at its end",
)


@check("match.date-time", MUST, "8.3.4.1.1 (combined date-time), PS3.4 C.2.2.2.5",
       "Ranges of date and time together are one range of date-times", own=True)  # fmt: skip
def date_time(visit: Visit) -> str:
    wanted = [visit.samples.multiframe, visit.samples.report]
    return _only(visit, wanted, StudyDate="20240115-20240310", StudyTime="120000-090000")


@check("match.uid-list", MUST, "8.3.4.1, PS3.4 C.2.2.2.2", "A list of UIDs with commas finds each of them", own=True)
def uid_list(visit: Visit) -> str:
    wanted = {visit.samples.ct[0].study, visit.samples.report.study}
    came = found(visit, "/studies", STUDY, StudyInstanceUID=",".join(wanted))
    demand(came == wanted, f"{len(came)} studies, not 2")
    return "2 studies"


@check("match.and", MUST, "8.3.4.1", "Several attributes must all fit", own=True)
def both(visit: Visit) -> str:
    samples = visit.samples
    came = found(visit, "/studies", STUDY, PatientID=samples.ct[0].dataset.PatientID, StudyDate="20240220")
    demand(not came, f"{len(came)} studies that fit only one of two attributes")
    return "nothing that fits only one"


@check(
    "match.universal",
    MUST,
    "PS3.4 C.2.2.2.3",
    "An attribute with an empty value fits everything and is returned",
    own=True,
)
def universal(visit: Visit) -> str:
    return _only(visit, [visit.samples.ct[0]], PatientID=str(visit.samples.ct[0].dataset.PatientID), AccessionNumber="")


@check("match.name-non-ascii", MUST, "8.3.4.1 (5)",
       "A name stored in ISO 8859-1 is found by its characters, percent-encoded in UTF-8", own=True)  # fmt: skip
def name_non_ascii(visit: Visit) -> str:
    return _only(visit, [visit.samples.multiframe], PatientName="Müller*")


@check(
    "match.percent-encoded",
    MUST,
    "8.3.4.1 (5), RFC 3986 2.1",
    "Percent-encoded characters of a value are decoded",
    own=True,
)
def percent_encoded(visit: Visit) -> str:
    return _only(visit, [visit.samples.ct[0]], PatientName=f"Conformance{visit.samples.run}^Alpha")


@check("match.name-star", MUST, "PS3.4 C.2.2.2.4", "Person names take wildcards", own=True)
def name_star(visit: Visit) -> str:
    return _only(visit, [visit.samples.ct[0]], PatientName=f"Conf*{visit.samples.run}*pha")


@check(
    "match.name-ideographic",
    SHOULD,
    "PS3.4 C.2.2.2.1, PS3.5 6.2.1",
    "A name is found by its ideographic group",
    own=True,
)
def name_ideographic(visit: Visit) -> str:
    return _only(visit, [visit.samples.report], PatientName="*山田*")


@check("match.name-case", MAY, "PS3.4 C.2.2.2.1", "Person names are found whatever their case", own=True)
def name_case(visit: Visit) -> str:
    if not _of_run(visit, PatientName=f"conformance{visit.samples.run.lower()}*"):
        raise NotOffered("names are matched by case")
    return _only(visit, [visit.samples.ct[0]], PatientName=f"conformance{visit.samples.run.lower()}*")


@check("match.modalities-list", MAY, "PS3.4 C.2.2.2.2", "Modalities in Study takes a list, any of which fits", own=True)
def modalities_list(visit: Visit) -> str:
    response = visit.server.get(
        "/studies", query=[("ReferringPhysicianName", visit.samples.physician), ("ModalitiesInStudy", "MR,SR")]
    )
    if response.status_code == 400 or not visit.results(response):
        raise NotOffered("one modality at a time")
    came = {str(first(row.get(STUDY))) for row in visit.results(response)}
    demand(came == {visit.samples.ct[0].study, visit.samples.report.study}, f"{len(came)} studies, not 2")
    return "2 studies"


@check("match.fuzzy", MUST, "8.3.4.2",
       "fuzzymatching=true matches names loosely, or literally with a Warning header that says so", own=True)  # fmt: skip
def fuzzy(visit: Visit) -> str:
    query = [("AccessionNumber", str(visit.samples.ct[0].dataset.AccessionNumber)), ("fuzzymatching", "true")]
    exact = visit.server.get("/studies", query=[*query, ("PatientName", f"Conformance{visit.samples.run}*")])
    status(exact, 200)
    demand(len(visit.results(exact)) == 1, f"{len(visit.results(exact))} studies by the exact name")
    if exact.headers.get("warning", "").startswith("299"):
        return "literal, and the Warning says so"
    near = visit.server.get("/studies", query=[*query, ("PatientName", f"Konformance{visit.samples.run}")])
    demand(
        near.status_code == 200 and visit.results(near),
        "a name that sounds alike is not found, and there is no Warning 299",
    )
    return "loose"
