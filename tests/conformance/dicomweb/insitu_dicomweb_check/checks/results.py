"""Searching (QIDO-RS): what is returned on request, media types, character sets, and parameters that are wrong or unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import dicomjson, multipart
from ..check import MAY, MUST, SHOULD, Broken, NotOffered, Skipped, check
from ..dicomjson import first
from ..objects import Sample
from ..server import JSON, NO_ACCEPT
from ..visit import Visit, demand, said, status
from .search import row_of, study_row

DESCRIPTION, SERIES_DESCRIPTION, DIAGNOSES, IMAGE_TYPE = "00081030", "0008103E", "00081080", "00080008"


def _study(visit: Visit, *query: tuple[str, str]) -> Mapping[str, Any]:
    sample = visit.samples.ct[0]
    response = visit.server.get("/studies", query=[("StudyInstanceUID", sample.study), *query])
    status(response, 200)
    return row_of(visit.results(response), "0020000D", sample.study)


def _includes(visit: Visit, tags: list[str], *query: tuple[str, str]) -> str:
    row = _study(visit, *query)
    lacking = [tag for tag in tags if tag not in row]
    demand(not lacking, f"without {', '.join(lacking)}")
    return "it is there"


@check("result.content-type", MUST, "10.6.3.2, 10.6.4", "The Content-Type of results is application/dicom+json")
def content_type(visit: Visit) -> str:
    response = visit.server.get("/studies", query=[("limit", "1")])
    if response.status_code == 204:
        return said(response)
    kind = response.headers.get("content-type", "no Content-Type")
    demand(multipart.media_type(kind)[0] == JSON, kind)
    return str(kind)


@check(
    "result.default",
    MUST,
    "8.7.7, 10.6.4",
    "With Accept: */* results come in the default media type, application/dicom+json",
)
def default(visit: Visit) -> str:
    response = visit.server.get("/studies", "*/*", query=[("limit", "1")])
    if response.status_code == 204:
        return said(response)
    demand(multipart.media_type(response.headers.get("content-type", ""))[0] == JSON, said(response))
    return said(response)


@check("result.no-accept", SHOULD, "8.7.7", "A request without an Accept header is refused with 406")
def no_accept(visit: Visit) -> str:
    return status(visit.server.get("/studies", NO_ACCEPT, query=[("limit", "1")]), 406)


@check("result.not-acceptable", MUST, "8.7.8.1, Table 8.7.3-1",
       "A search that accepts only text/csv is refused with 406, or answered in the default media type")  # fmt: skip
def not_acceptable(visit: Visit) -> str:
    response = visit.server.get("/studies", "text/csv", query=[("limit", "1")])
    if response.status_code == 406:
        return said(response)
    demand(multipart.media_type(response.headers.get("content-type", ""))[0] == JSON, said(response))
    return said(response)


@check("result.accept-parameter", MUST, "8.3.3.1, Table 10.1.2-1", "The query parameter accept is understood")
def accept_parameter(visit: Visit) -> str:
    response = visit.server.get("/studies", "*/*", query=[("limit", "1"), ("accept", JSON)])
    status(response, 200, 204)
    if response.status_code == 200:
        demand(multipart.media_type(response.headers.get("content-type", ""))[0] == JSON, said(response))
    return said(response)


@check("result.xml", MUST, "10.6.4 (required), PS3.19 A.1",
       "Results come as multipart/related of application/dicom+xml, one part per result, where that is accepted", own=True)  # fmt: skip
def xml(visit: Visit) -> str:
    from xml.etree import ElementTree

    response = visit.server.get(
        f"/studies/{visit.samples.ct[0].study}/series", 'multipart/related; type="application/dicom+xml"'
    )
    if response.status_code == 406 or multipart.media_type(response.headers.get("content-type", ""))[0] == JSON:
        raise NotOffered(said(response))
    status(response, 200)
    body = multipart.take_apart(response)
    demand(len(body.parts) == 2, f"{len(body.parts)} parts, not 2")
    for part in body.parts:
        root = ElementTree.fromstring(part.content)  # noqa: S314 - the answer of the server the user chose
        demand(root.tag.rpartition("}")[2] == "NativeDicomModel", f"the root element is {root.tag}")
    return f"{len(body.parts)} parts"


@check(
    "result.json-model",
    MUST,
    "F.2",
    "Study, series and instance results keep the rules of the DICOM JSON Model",
    own=True,
)
def json_model(visit: Visit) -> str:
    study = visit.samples.ct[0].study
    rows = [study_row(visit, visit.samples.ct[0])]
    rows += [*visit.search(f"/studies/{study}/series"), *visit.search(f"/studies/{study}/instances")]
    found = {rule: places for row in rows for rule, places in dicomjson.problems(row).items()}
    demand(not found, "; ".join(f"{dicomjson.RULES[rule][1]}: {places[0]}" for rule, places in list(found.items())[:3]))
    return f"{len(rows)} results"


@check(
    "result.include-keyword",
    SHOULD,
    "8.3.4.3, 10.6.3.3.1",
    "includefield by keyword returns an attribute of the study",
    own=True,
)
def include_keyword(visit: Visit) -> str:
    return _includes(visit, [DESCRIPTION], ("includefield", "StudyDescription"))


@check(
    "result.include-tag",
    SHOULD,
    "8.3.4.3, 10.6.3.3.1",
    "includefield by tag returns an attribute of the study",
    own=True,
)
def include_tag(visit: Visit) -> str:
    return _includes(visit, [DESCRIPTION], ("includefield", DESCRIPTION))


@check("result.include-commas", SHOULD, "8.3.4.3", "includefield takes several attributes with commas", own=True)
def include_commas(visit: Visit) -> str:
    return _includes(visit, [DESCRIPTION, DIAGNOSES], ("includefield", f"StudyDescription,{DIAGNOSES}"))


@check("result.include-repeated", SHOULD, "8.3.4.3", "includefield may stand several times", own=True)
def include_repeated(visit: Visit) -> str:
    query = [("includefield", "StudyDescription"), ("includefield", "AdmittingDiagnosesDescription")]
    return _includes(visit, [DESCRIPTION, DIAGNOSES], *query)


@check(
    "result.include-all",
    MUST,
    "8.3.4.3, 10.6.3.3.1",
    "includefield=all is understood, and the required attributes are still there",
    own=True,
)
def include_all(visit: Visit) -> str:
    row = _study(visit, ("includefield", "all"))
    demand("00100020" in row and "0020000D" in row, f"{len(row)} attributes without identifiers")
    return f"{len(row)} attributes"


@check(
    "result.include-all-more",
    SHOULD,
    "10.6.3.3.3",
    "includefield=all returns attributes of an instance that are not returned otherwise",
    own=True,
)
def include_all_more(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    path = f"/studies/{sample.study}/series/{sample.series}/instances"
    plain = row_of(visit.search(path), "00080018", sample.instance)
    every = row_of(visit.search(path, includefield="all"), "00080018", sample.instance)
    more = set(every) - set(plain)
    demand(
        IMAGE_TYPE in every and more,
        f"{len(more)} more attributes, Image Type {'is' if IMAGE_TYPE in every else 'is not'} there",
    )
    return f"{len(more)} more attributes"


@check(
    "result.include-lower",
    MUST,
    "10.6.3.3.1",
    "An attribute of the series asked for in a search of studies is not returned",
    own=True,
)
def include_lower(visit: Visit) -> str:
    row = _study(visit, ("includefield", SERIES_DESCRIPTION))
    demand(SERIES_DESCRIPTION not in row, f"Series Description {first(row.get(SERIES_DESCRIPTION))!r} of the study")
    return "it is not there"


@check(
    "result.include-upper",
    SHOULD,
    "10.6.3.3.3",
    "An attribute of the study asked for in a search of instances is returned",
    own=True,
)
def include_upper(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    path = f"/studies/{sample.study}/series/{sample.series}/instances"
    row = row_of(visit.search(path, includefield="PatientName"), "00080018", sample.instance)
    demand("00100010" in row, "without it")
    return "it is there"


@check("result.match-returned", MUST, "10.6.3.3.2", "An attribute that is matched by is returned", own=True)
def match_returned(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    rows = visit.search(f"/studies/{sample.study}/series", Modality="CT", SeriesDescription="Conformance CT")
    row = row_of(rows, "0020000E", sample.series)
    demand(first(row.get(SERIES_DESCRIPTION)) == "Conformance CT", f"{row.get(SERIES_DESCRIPTION)}")
    return "it is there"


@check("result.unknown-parameter", MUST, "8.3", "A query parameter the standard does not know is ignored", own=True)
def unknown_parameter(visit: Visit) -> str:
    row = _study(visit, ("conformancesuite", "1"))
    return f"ignored, {len(row)} attributes"


@check(
    "result.unknown-keyword",
    MUST,
    "8.3, 8.3.4.1",
    "A keyword that DICOM does not know is ignored or refused with 400, and no error of the server",
)
def unknown_keyword(visit: Visit) -> str:
    return status(visit.server.get("/studies", query=[("NoSuchKeyword", "1"), ("limit", "1")]), 200, 204, 400)


@check("result.wrong-date", MUST, "8.3", "A date that is none is refused with 400")
def wrong_date(visit: Visit) -> str:
    return status(visit.server.get("/studies", query=[("StudyDate", "yesterday"), ("limit", "1")]), 400)


@check(
    "result.repeated",
    MAY,
    "8.3.4.1 (2)",
    "An attribute that stands twice is refused with 400, as it shall not be repeated",
)
def repeated(visit: Visit) -> str:
    return status(
        visit.server.get("/studies", query=[("PatientID", "A"), ("PatientID", "B"), ("limit", "1")]), 400,
        offered=(200, 204),
    )  # fmt: skip


@check(
    "result.injection",
    MUST,
    "8.3.4.1",
    "Quotes, percent signs and underscores in a value are characters like others",
    own=True,
)
def injection(visit: Visit) -> str:
    for text in ("' OR '1'='1", '"; --', "%", "_HK-" + visit.samples.run + "-A", "a\\"):
        response = visit.server.get("/studies", query=[("PatientID", text)])
        if response.status_code == 400:
            continue
        rows = visit.results(response)
        own = [row for row in rows if first(row.get("0020000D")) in visit.samples.studies]
        demand(not own, f"{text!r} finds {len(own)} of this run's studies")
    return "nothing found by them"


def _name(visit: Visit, sample: Sample, *wanted: tuple[str, str]) -> str:
    came = first(study_row(visit, sample).get("00100010"))
    demand(isinstance(came, dict), f"{came!r}")
    for group, text in wanted:
        demand(came.get(group) == text, f"{group}: {came.get(group)!r}, not {text!r}")
    return str(came.get(wanted[-1][0]))


@check("result.text-utf8", MUST, "F.2", "A text stored in UTF-8 is in the results with its characters", own=True)
def text_utf8(visit: Visit) -> str:
    came = first(_study(visit, ("includefield", "StudyDescription")).get(DESCRIPTION))
    if came is None:
        raise Skipped("the Study Description is not returned")
    demand(came == "Conformance Größe", f"{came!r}")
    return str(came)


@check("result.name-latin", MUST, "F.2, 8.7.3.5.3", "A name stored in ISO 8859-1 is in the results in UTF-8", own=True)
def name_latin(visit: Visit) -> str:
    return _name(visit, visit.samples.multiframe, ("Alphabetic", "Müller^Jürgen"))


@check(
    "result.name-japanese",
    MUST,
    "F.2.2",
    "A name stored in ISO 2022 is in the results in its three groups, in UTF-8",
    own=True,
)
def name_japanese(visit: Visit) -> str:
    return _name(
        visit,
        visit.samples.report,
        ("Alphabetic", "Yamada^Tarou"),
        ("Ideographic", "山田^太郎"),
        ("Phonetic", "やまだ^たろう"),
    )


@check("result.name-chinese", MUST, "F.2.2", "A name stored in GB18030 is in the results in UTF-8", own=True)
def name_chinese(visit: Visit) -> str:
    return _name(visit, visit.samples.document, ("Alphabetic", "Wang^XiaoDong"), ("Ideographic", "王^小东"))


@check(
    "result.character-set",
    SHOULD,
    "F.2, PS3.3 C.12.1.1.2",
    "Where a result names its character set, that is UTF-8 (ISO_IR 192)",
    own=True,
)
def character_set(visit: Visit) -> str:
    row = study_row(visit, visit.samples.multiframe)
    came = (row.get("00080005") or {}).get("Value")
    if came is None:
        return "none named"
    demand(came == ["ISO_IR 192"], f"{came}")
    return "ISO_IR 192"


@check("result.private", SHOULD, "10.6.1.2.1, 10.6.3.3.3",
       "A private attribute asked for with its creator is returned with it", own=True)  # fmt: skip
def private(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    path = f"/studies/{sample.study}/series/{sample.series}/instances"
    response = visit.server.get(path, query=[("00990010", "INSITU CONFORMANCE"), ("includefield", "00991001")])
    if response.status_code == 400:
        raise NotOffered(said(response))
    rows = visit.results(response)
    if not rows:
        raise Broken("no results")
    row = row_of(rows, "00080018", sample.instance)
    demand("00991001" in row and "00990010" in row, "without it or its creator")
    return "both are there"
