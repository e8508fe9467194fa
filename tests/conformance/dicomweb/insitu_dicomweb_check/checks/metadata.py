"""Metadata (WADO-RS, PS3.18 10.4.1.1.2): the resources, the rules of the DICOM JSON Model (annex F), and that nothing is lost."""

from __future__ import annotations

import base64
import re
from typing import Any
from xml.etree import ElementTree

from .. import dicomjson, multipart, objects
from ..check import MUST, SHOULD, Check, NotOffered, add, check
from ..dicomjson import first
from ..objects import Sample
from ..server import JSON
from ..visit import Visit, demand, said, status

PIXELS = "7FE00010"
XML = 'multipart/related; type="application/dicom+xml"'


@check("metadata.instance", MUST, "Table 10.3-2", "The metadata of an instance is an array of one object")
def instance(visit: Visit) -> str:
    found = visit.metadata(visit.target().path)
    demand(len(found) == 1, f"{len(found)} objects")
    return "one object"


@check("metadata.series", MUST, "Table 10.3-2", "The metadata of a series has one object for each instance", own=True)
def series(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    return _all(visit, f"/studies/{sample.study}/series/{sample.series}", visit.samples.ct)


@check("metadata.study", MUST, "Table 10.3-2", "The metadata of a study has one object for each instance", own=True)
def study(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    return _all(visit, f"/studies/{sample.study}", visit.samples.of_study(sample.study))


def _all(visit: Visit, path: str, wanted: list[Sample]) -> str:
    came = sorted(str(first(document.get("00080018"))) for document in visit.metadata(path))
    demand(came == sorted(s.instance for s in wanted), f"{len(came)} objects, not {len(wanted)}, or other instances")
    return f"{len(came)} objects"


@check("metadata.content-type", MUST, "10.4.3.2, 10.4.4", "The Content-Type of metadata is application/dicom+json")
def content_type(visit: Visit) -> str:
    response = visit.server.get(f"{visit.target().path}/metadata")
    demand(multipart.media_type(response.headers.get("content-type", ""))[0] == JSON, said(response))
    return said(response)


@check(
    "metadata.default",
    MUST,
    "8.7.7, 10.4.4",
    "With Accept: */* metadata comes in the default media type, application/dicom+json",
)
def default(visit: Visit) -> str:
    response = visit.server.get(f"{visit.target().path}/metadata", "*/*")
    demand(multipart.media_type(response.headers.get("content-type", ""))[0] == JSON, said(response))
    return said(response)


@check("metadata.utf8", MUST, "F.2", "The body is JSON in UTF-8")
def utf8(visit: Visit) -> str:
    response = visit.server.get(f"{visit.target().path}/metadata")
    status(response, 200)
    try:
        response.content.decode("utf-8")
    except UnicodeDecodeError as error:
        demand(False, f"a byte that is not UTF-8 at {error.start}")
    return "it is"


def _rule(rule: str, paragraph: str, expects: str) -> None:
    def ask(visit: Visit) -> str:
        paths = [s.path for s in visit.samples.all] if visit.stored else [visit.target().path]
        places = [
            place for path in paths for d in visit.metadata(path) for place in dicomjson.problems(d).get(rule, [])
        ]
        demand(not places, f"{len(places)} places, the first {places[0] if places else ''}")
        return f"kept by {len(paths)} instances"

    add(Check(f"json.{rule}", MUST, paragraph, expects, ask, False, False))


for _key, (_paragraph, _expects) in dicomjson.RULES.items():
    _rule(_key, _paragraph, _expects)


def _kind(name: str, pick: str, expects: str) -> None:
    def ask(visit: Visit) -> str:
        sample: Sample = {
            "ct": visit.samples.ct[0], "rle": visit.samples.rle, "multiframe": visit.samples.multiframe,
            "report": visit.samples.report, "document": visit.samples.document,
        }[pick]  # fmt: skip
        document = visit.metadata_of(sample)
        wrong = dicomjson.differences(sample.dataset, document)
        demand(not wrong, "; ".join(wrong[:4]))
        return f"{len(document)} attributes"

    add(Check(name, MUST, "10.4.1.1.2 (all Attributes)", expects, ask, True, False))


_kind(
    "metadata.equal-ct",
    "ct",
    "The metadata of a CT image is what was stored: all attributes, sequences and private ones too",
)
_kind("metadata.equal-compressed", "rle", "The metadata of a compressed MR image is what was stored")
_kind(
    "metadata.equal-multiframe",
    "multiframe",
    "The metadata of a multi-frame object stored in ISO 8859-1 is what was stored",
)
_kind(
    "metadata.equal-report",
    "report",
    "The metadata of a structured report stored in ISO 2022 is what was stored, content tree and all",
)
_kind("metadata.equal-document", "document", "The metadata of an encapsulated PDF stored in GB18030 is what was stored")


def _ct(visit: Visit, tag: str) -> dict[str, object]:
    document = visit.metadata_of(visit.samples.ct[0])
    demand(tag in document, f"{tag} is missing")
    return dict(document[tag])


@check("metadata.empty", MUST, "F.2.5", "An attribute that is stored empty is there, without a value", own=True)
def empty(visit: Visit) -> str:
    came = _ct(visit, "00104000")
    demand(set(came) == {"vr"}, f"{came}")
    return "it is"


@check("metadata.null", MUST, "F.2.5", "An empty value between others is null", own=True)
def null(visit: Visit) -> str:
    came = _ct(visit, "00081080").get("Value")
    demand(came == ["first", None, "third"], f"{came}")
    return "it is"


@check("metadata.empty-item", MUST, "F.2.5", "An empty item of a sequence is an empty object", own=True)
def empty_item(visit: Visit) -> str:
    came = _ct(visit, "00991021").get("Value")
    demand(isinstance(came, list) and len(came) == 2 and came[1] == {}, f"{came}")
    return "it is"


@check("metadata.empty-sequence", MUST, "F.2.5", "A sequence without items is there, without a value", own=True)
def empty_sequence(visit: Visit) -> str:
    came = _ct(visit, "00991020")
    demand(set(came) == {"vr"}, f"{came}")
    return "it is"


@check(
    "metadata.private", MUST, "10.4.1.1.2 (all Attributes)", "Private attributes are there with their creator", own=True
)
def private(visit: Visit) -> str:
    creator, value = _ct(visit, "00990010").get("Value"), _ct(visit, "00991001").get("Value")
    demand(creator == [objects.PRIVATE_CREATOR] and value == ["private 1"], f"{creator}, {value}")
    return "they are"


@check(
    "metadata.binary",
    MUST,
    "F.2.7, F.2.6",
    "A short binary value is there, inline or by reference, byte for byte (OW in little endian)",
    own=True,
)
def binary(visit: Visit) -> str:
    for tag in ("00991008", "00991009"):
        wanted = visit.samples.ct[0].dataset[int(tag, 16)].value
        came = _ct(visit, tag)
        if "InlineBinary" in came:
            value = base64.b64decode(str(came["InlineBinary"]))
        else:
            demand("BulkDataURI" in came, f"{tag}: {came}")
            value = bulk(visit, visit.samples.ct[0], str(came["BulkDataURI"]))
        demand(value == wanted, f"{tag}: other bytes")
    return "they are"


def bulk(visit: Visit, sample: Sample, uri: str) -> bytes:
    """The value behind a BulkDataURI."""
    address = visit.server.absolute(f"{visit.server.url}{sample.path}/metadata", uri)
    response = visit.server.get(address, 'multipart/related; type="application/octet-stream"')
    status(response, 200)
    return multipart.take_apart(response).parts[0].content


@check("metadata.no-pixels", MUST, "10.4.1.1.2", "Pixel data is not in the metadata itself", own=True)
def no_pixels(visit: Visit) -> str:
    for sample in (visit.samples.ct[0], visit.samples.rle):
        came = visit.metadata_of(sample).get(PIXELS) or {}
        demand("InlineBinary" not in came and "Value" not in came, f"{list(came)}")
    return "it is not"


@check("metadata.pixels-reference", SHOULD, "10.4.1.1.2", "Pixel data is referenced by a BulkDataURI", own=True)
def pixels_reference(visit: Visit) -> str:
    came = visit.metadata_of(visit.samples.ct[0]).get(PIXELS) or {}
    demand("BulkDataURI" in came, f"{list(came) or 'absent'}")
    return str(came["BulkDataURI"])


@check("metadata.unknown", MUST, "Table 10.4.3-1", "Metadata of an instance that does not exist is answered with 404")
def unknown(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.target().series_path}/instances/2.25.1/metadata"), 404)


@check("metadata.unknown-study", MUST, "Table 10.4.3-1", "Metadata of a study that does not exist is answered with 404")
def unknown_study(visit: Visit) -> str:
    return status(visit.server.get("/studies/2.25.1/metadata"), 404)


def _xml(visit: Visit, path: str) -> multipart.Body:
    """Metadata in XML.

    Raises
    ------
    NotOffered
        The server has it in JSON only.
    """
    response = visit.once(f"xml {path}", lambda: visit.server.get(f"{path}/metadata", XML))
    if response.status_code == 406 or multipart.media_type(response.headers.get("content-type", ""))[0] == JSON:
        raise NotOffered(said(response))
    status(response, 200)
    return multipart.take_apart(response)


@check("metadata.xml", MUST, "10.4.4 (required), PS3.19 A.1",
       "Metadata comes as multipart/related of application/dicom+xml, one part per instance, where that is accepted", own=True)  # fmt: skip
def xml(visit: Visit) -> str:
    body = _xml(visit, visit.samples.ct[0].path.partition("/instances")[0])
    demand(len(body.parts) == len(visit.samples.ct), f"{len(body.parts)} parts, not {len(visit.samples.ct)}")
    names = set()
    for part in body.parts:
        root = ElementTree.fromstring(part.content)  # noqa: S314 - the answer of the server the user chose
        demand(root.tag.rpartition("}")[2] == "NativeDicomModel", f"the root element is {root.tag}")
        names |= {e.text for a in root if a.get("tag") == "00080018" for e in a}
    demand(names == {s.instance for s in visit.samples.ct}, "other SOP Instance UIDs")
    return f"{len(body.parts)} parts"


@check("metadata.xml-values", MUST, "PS3.19 A.1.5",
       "In XML the values of an instance are those that were stored: texts, numbers, sequences, empty values", own=True)  # fmt: skip
def xml_values(visit: Visit) -> str:
    sample = visit.samples.ct[0]
    came = dicomjson.from_native(_xml(visit, sample.path).parts[0].content)
    wanted: dict[str, list[Any]] = {
        "00080008": ["ORIGINAL", "PRIMARY", "AXIAL"], "00280010": [str(objects.ROWS)], "00281050": ["155", "50"],
        "00081080": ["first", None, "third"], "00104000": [], "00400275": [3],
    }  # fmt: skip
    wrong = [f"{tag} {came.get(tag)}" for tag, values in wanted.items() if not _alike(came.get(tag), values)]
    demand(not wrong, ", ".join(wrong))
    return "they are"


def _alike(came: list[Any] | None, wanted: list[Any]) -> bool:
    """Whether texts are the same, or the same numbers."""
    if came is None or len(came) != len(wanted):
        return False
    return all(
        one == other or (one and other and re.fullmatch(r"[0-9.]+", f"{one}{other}") and float(one) == float(other))
        for one, other in zip(came, wanted, strict=True)
    )


@check("metadata.xml-names", MUST, "PS3.19 A.1.5",
       "In XML the three groups of a person's name are there, each in its components", own=True)  # fmt: skip
def xml_names(visit: Visit) -> str:
    came = dicomjson.from_native(_xml(visit, visit.samples.report.path).parts[0].content).get("00100010")
    wanted = [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}]
    demand(came == wanted, f"{came}")
    return "they are"


@check("metadata.xml-private", MUST, "PS3.19 A.1.5",
       "In XML a private attribute names its private creator", own=True)  # fmt: skip
def xml_private(visit: Visit) -> str:
    came = dicomjson.from_native(_xml(visit, visit.samples.ct[0].path).parts[0].content)
    found = came.get(f"{objects.PRIVATE_CREATOR}/{objects.PRIVATE_GROUP:04X}01")
    demand(found == ["private 1"], f"{found}")
    return "it does"


@check("metadata.xml-weight", MUST, "8.7.8.1, RFC 9110 12.4.2",
       "Of JSON and XML the one with the higher weight comes", own=True)  # fmt: skip
def xml_weight(visit: Visit) -> str:
    path = visit.samples.ct[0].path
    _xml(visit, path)
    for wanted, accept in (
        (JSON, f"{XML}; q=0.3, {JSON}; q=0.9"),
        ("multipart/related", f"{JSON}; q=0.3, {XML}; q=0.9"),
    ):
        response = visit.server.get(f"{path}/metadata", accept)
        status(response, 200)
        kind = multipart.media_type(response.headers.get("content-type", ""))[0]
        demand(kind == wanted, f"{kind} for Accept: {accept}")
    return "it does"
