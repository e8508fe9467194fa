"""A server that makes a mistake is found out: each class of mistake by the check that is about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest

from insitu_dicomweb_check.check import REGISTER, Result
from insitu_dicomweb_check.command import chosen, main
from insitu_dicomweb_check.runner import Report, run
from insitu_dicomweb_check.server import Server

from .servers import Service
from .wrong import Answer, Mistake, Request, wrong_server

JSON = "application/dicom+json"
Document = dict[str, Any]


def ask(url: str, service: Service, patterns: list[str]) -> Report:
    server = Server(url, service.headers)
    try:
        return run(server, chosen(patterns), keep=True, settle=service.settle)
    finally:
        server.close()


def store(change: Callable[[Document], None]) -> Mistake:
    """Change the answers to store requests."""

    def answer(request: Request, given: Answer) -> Answer:
        if request.method == "POST" and given.headers.get("content-type", "").startswith(JSON):
            document = json.loads(given.body)
            change(document)
            given.body = json.dumps(document).encode()
        return given

    return Mistake(answer=answer)


def documents(change: Callable[[Document], None], path: str = r".*") -> Mistake:
    """Change each result or metadata document."""

    def answer(request: Request, given: Answer) -> Answer:
        fits = request.method == "GET" and re.search(path, request.path.partition("?")[0])
        if fits and given.status == 200 and given.headers.get("content-type", "").startswith(JSON):
            found = json.loads(given.body)
            for document in found:
                change(document)
            given.body = json.dumps(found).encode()
        return given

    return Mistake(answer=answer)


def status(old: int, new: int, method: str = "GET", path: str = "") -> Mistake:
    """Another status."""

    def answer(request: Request, given: Answer) -> Answer:
        if given.status == old and request.method == method and path in request.path:
            given.status = new
        return given

    return Mistake(answer=answer)


def blind(parameter: str) -> Mistake:
    """Ignore a query parameter."""

    def request(asked: Request) -> Request:
        path, _, query = asked.path.partition("?")
        kept = [part for part in query.split("&") if part and part.partition("=")[0] != parameter]
        asked.path = path + ("?" + "&".join(kept) if kept else "")
        return asked

    return Mistake(request=request)


def body(change: Callable[[bytes], bytes], path: str) -> Mistake:
    """Change the bytes of good answers."""

    def answer(request: Request, given: Answer) -> Answer:
        if request.method == "GET" and given.status == 200 and re.search(path, request.path):
            given.body = change(given.body)
        return given

    return Mistake(answer=answer)


def header(name: str, change: Callable[[str], str], path: str) -> Mistake:
    """Change a header of good answers; an empty value takes it away."""

    def answer(request: Request, given: Answer) -> Answer:
        if given.status == 200 and re.search(path, request.path) and name in given.headers:
            given.headers[name] = change(given.headers[name])
            given.headers = {key: value for key, value in given.headers.items() if value}
        return given

    return Mistake(answer=answer)


def accept(kind: str, instead: str, path: str) -> Mistake:
    """Read another Accept than was sent."""

    def request(asked: Request) -> Request:
        if re.search(path, asked.path):
            for name in asked.headers:
                if name.lower() == "accept" and kind in asked.headers[name]:
                    asked.headers[name] = instead
        return asked

    return Mistake(request=request)


def lying_delete(request: Request) -> Request | Answer:
    return Answer(204, {}) if request.method == "DELETE" else request


def forget(*tags: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for tag in tags:
            document.pop(tag, None)

    return change


def put(tag: str, make: Callable[[Any], Any]) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        if tag in document:
            document[tag] = make(document[tag])

    return change


def rename(tag: str, name: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        if tag in document:
            document[name] = document.pop(tag)

    return change


def first_reference(change: Callable[[Document], None]) -> Callable[[Document], None]:
    def whole(document: Document) -> None:
        for item in document.get("00081199", {}).get("Value", [])[:1]:
            change(item)

    return whole


def swapped(data: bytes) -> bytes:
    """The first two parts in the other's place."""
    boundary = data[: data.index(b"\r\n")]
    parts = data.split(boundary)
    if len(parts) > 3:
        parts[1], parts[2] = parts[2], parts[1]
    return boundary.join(parts)


def without_a_part(data: bytes) -> bytes:
    boundary = data[: data.index(b"\r\n")]
    parts = data.split(boundary)
    return boundary.join([parts[0], *parts[2:]]) if len(parts) > 3 else data


def last_byte(data: bytes) -> bytes:
    at = data.rindex(b"\r\n--") - 1
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


WADO = r"/instances/[0-9.]+$"
META = "/metadata"
MISTAKES = {
    "an instance of another study is accepted": (status(409, 200, "POST"), ["stow.wrong-study"]),
    "a partial success is called a success": (status(202, 200, "POST"), ["stow.mixed"]),
    "any media type is taken": (status(415, 200, "POST"), ["stow.wrong-media-type"]),
    "not DICOM is a mistake of the server": (status(409, 500, "POST"), ["stow.not-dicom"]),
    "stored instances are not named": (store(forget("00081199")), ["stow.referenced"]),
    "a stored instance is named wrongly": (
        store(first_reference(put("00081155", lambda _: {"vr": "UI", "Value": ["1.2.3"]}))), ["stow.referenced"],
    ),
    "a stored instance has no address": (store(first_reference(forget("00081190"))), ["stow.instance-url"]),
    "a failure has no reason": (
        store(lambda d: [i.pop("00081197", None) for t in ("00081198", "0008119A") for i in d.get(t, {}).get("Value", [])]),
        ["stow.mixed-failed"],
    ),
    "answers to storing have another media type": (
        Mistake(answer=lambda q, a: Answer(a.status, {"content-type": "text/plain"}, a.body) if q.method == "POST" else a),
        ["stow.answer-type"],
    ),
    "a required attribute is not returned": (documents(forget("00200010")), ["search.study-attributes"]),
    "instances are counted wrongly": (
        documents(put("00201208", lambda a: {"vr": "IS", "Value": [a["Value"][0] + 1]})), ["search.study-counts"],
    ),
    "results have no address": (documents(forget("00081190")), ["search.study-url", "search.instance-url"]),
    "modalities are not counted": (documents(forget("00080061")), ["search.study-modalities"]),
    "a matching attribute is ignored": (blind("PatientID"), ["match.PatientID", "match.star-inside", "match.and"]),
    "tags are not understood": (blind("00100020"), ["match.by-tag"]),
    "ranges of dates are ignored": (blind("StudyDate"), ["match.date-range", "match.StudyDate"]),
    "lists of UIDs are ignored": (blind("StudyInstanceUID"), ["match.StudyInstanceUID"]),
    "limit is ignored": (blind("limit"), ["page.limit", "page.all-once"]),
    "offset is ignored": (blind("offset"), ["page.offset", "page.all-once", "page.beyond"]),
    "nothing is said of results that are left": (header("warning", lambda _: "", "/instances"), ["page.warning"]),
    "fuzzy matching is ignored without a word": (blind("fuzzymatching"), ["match.fuzzy"]),
    "a wrong limit is taken": (status(400, 200, path="limit="), ["page.limit-wrong", "page.limit-negative"]),
    "texts are decoded wrongly": (
        documents(put("00100010", lambda a: json.loads(json.dumps(a, ensure_ascii=False).replace("ü", "Ã¼")))),
        ["result.name-latin"],
    ),
    "a group of a name is lost": (
        documents(lambda d: d.get("00100010", {}).get("Value", [{}])[0].pop("Ideographic", None)),
        ["result.name-japanese"],
    ),
    "results have another media type": (header("content-type", lambda _: "text/plain", "/studies"), ["result.content-type"]),
    "what is of the series stands in the study": (
        documents(lambda d: d.update({"0008103E": {"vr": "LO", "Value": ["x"]}}), r"/studies$"), ["result.include-lower"],
    ),
    "a body is not closed": (body(lambda data: data[: data.rindex(b"\r\n--")], WADO), ["retrieve.closing"]),
    "the boundary is not named": (
        header("content-type", lambda v: re.sub(r"; boundary=[^;]*", "", v), WADO), ["retrieve.boundary"],
    ),
    "the type parameter is wrong": (
        header("content-type", lambda v: v.replace("application/dicom", "application/json"), WADO),
        ["retrieve.type-parameter"],
    ),
    "an instance is left out of a series": (body(without_a_part, r"/series/[0-9.]+$"), ["retrieve.series"]),
    "an attribute is changed": (body(lambda data: data.replace(b"Conformance CT", b"conformance CT"), WADO), ["retrieve.equal"]),
    "what is not there is an empty success": (status(404, 200), ["retrieve.unknown-instance", "metadata.unknown"]),
    "what is not there is a mistake of the server": (status(404, 500), ["retrieve.unknown-study", "frames.beyond"]),
    "compressed pixels are not decompressed": (
        accept("1.2.840.10008.1.2.1", 'multipart/related; type="application/dicom"; transfer-syntax=*', WADO),
        ["retrieve.explicit"],
    ),
    "JSON: lower case tags": (documents(rename("0008103E", "0008103e"), META), ["json.names"]),
    "JSON: not in order": (documents(lambda d: d.update({"00080016": d.pop("00080016")}), META), ["json.order"]),
    "JSON: file meta information": (
        documents(lambda d: d.update({"00020010": {"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]}}), META), ["json.file-meta"],
    ),
    "JSON: group lengths": (
        documents(lambda d: d.update({"00080000": {"vr": "UL", "Value": [1]}}), META), ["json.group-length"],
    ),
    "JSON: no vr": (documents(put("00080060", lambda a: {"Value": a["Value"]}), META), ["json.vr"]),
    "JSON: names as texts": (
        documents(put("00100010", lambda a: {"vr": "PN", "Value": ["A^B"]}), META), ["json.names-of-persons"],
    ),
    "JSON: numbers as texts": (documents(put("00280010", lambda a: {"vr": "US", "Value": ["24"]}), META), ["json.numbers"]),
    "JSON: a value that is no array": (documents(put("00080060", lambda a: {"vr": "CS", "Value": "CT"}), META), ["json.array"]),
    "JSON: value and binary together": (
        documents(put("00080060", lambda a: {**a, "InlineBinary": "QUE="}), META), ["json.one-of"],
    ),
    "JSON: broken base64": (documents(put("00991008", lambda a: {"vr": "OB", "InlineBinary": "!"}), META), ["json.inline"]),
    "JSON: a sequence of texts": (documents(put("00400275", lambda a: {"vr": "SQ", "Value": ["x"]}), META), ["json.sequences"]),
    "private attributes are lost": (
        documents(lambda d: [d.pop(t) for t in list(d) if t.startswith("0099")], META), ["metadata.private", "metadata.equal-ct"],
    ),
    "empty attributes are lost": (documents(forget("00104000"), META), ["metadata.empty"]),
    "a nested value is lost": (
        documents(lambda d: [i.pop("00401001", None) for i in d.get("00400275", {}).get("Value", [])], META),
        ["metadata.equal-ct"],
    ),
    "pixels stand in the metadata": (
        documents(put("7FE00010", lambda a: {"vr": "OW", "InlineBinary": "AAAA"}), META), ["metadata.no-pixels"],
    ),
    "frames come in another order": (body(swapped, "/frames/1,2,5"), ["frames.list"]),
    "a pixel is wrong": (body(last_byte, "/frames/1$"), ["frames.one", "frames.decompressed"]),
    "there is always another frame": (status(404, 200, path="/frames/"), ["frames.beyond"]),
    "bulk data is cut off": (body(lambda data: data[:400] + data[data.rindex(b"\r\n--") :], "/bulkdata/00991010"), ["bulk.private"]),
    "XML: texts are changed": (body(lambda data: data.replace(b"AXIAL", b"axial"), META), ["metadata.xml-values"]),
    "XML: a name is one text": (
        body(lambda data: data.replace(b"<GivenName>Tarou</GivenName>", b""), META), ["metadata.xml-names"],
    ),
    "XML: private creators are not named": (
        body(lambda data: data.replace(b"privateCreator=", b"creator="), META), ["metadata.xml-private"],
    ),
    "XML: the weight is ignored": (accept("q=0.9", JSON, META), ["metadata.xml-weight"]),
    "bulk data: an attribute is left out": (body(without_a_part, "/bulkdata$"), ["bulk.locations"]),
    "bulk data: addresses of its own": (
        body(lambda data: re.sub(rb"/bulkdata/7FE00010", b"/pixels", data), "/bulkdata$"), ["bulk.locations"],
    ),
    "bulk data: compressed as it is": (
        accept("octet-stream", 'multipart/related; type="application/octet-stream"; transfer-syntax=*', "/bulkdata$"),
        ["bulk.decompressed"],
    ),
    "implicit VR goes out": (
        accept('type="application/dicom"', 'multipart/related; type="application/dicom"; transfer-syntax=*', WADO),
        ["retrieve.default-implicit", "retrieve.default-syntax"],
    ),
    "bulk data that is missing is not missed": (status(409, 200, "POST"), ["stow.bulkdata-missing"]),
    "bulk data is stored wrongly": (body(last_byte, WADO), ["stow.bulkdata-stored"]),
    "any entity tag is taken for the right one": (
        Mistake(request=lambda q: Answer(304, {}) if "if-none-match" in {n.lower() for n in q.headers} else q),
        ["http.modified"],
    ),
    "another media type than asked for": (accept("image/png", "image/jpeg", "/rendered"), ["rendered.png"]),
    "the viewport is ignored": (blind("viewport"), ["rendered.viewport-larger", "rendered.viewport-zero"]),
    "the window is ignored": (blind("window"), ["rendered.window", "rendered.window-effect", "rendered.window-words"]),
    "wrong values are taken": (status(400, 200, path="quality="), ["rendered.quality-0", "rendered.quality-best"]),
    "thumbnails only of some": (
        Mistake(request=lambda q: Answer(404, {}) if q.path.endswith(f"{'/frames/1'}/thumbnail") else q), ["thumbnail.all"],
    ),
    "a deletion that is none": (Mistake(request=lying_delete), ["delete.instance-gone", "delete.instance-not-found"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(ours: Service, name: str) -> None:
    mistake, names = MISTAKES[name]
    assert set(names) <= set(REGISTER)
    with wrong_server(ours.url, mistake) as url:
        report = ask(url, ours, names)
    found = {outcome.check.name: (outcome.result, outcome.came) for outcome in report.outcomes}
    assert {result for result, _ in found.values()} == {Result.FAILED}, found
    assert not report.conforms


def test_without_a_mistake_the_same_checks_pass(ours: Service) -> None:
    names = sorted({name for _, several in MISTAKES.values() for name in several if not name.startswith("delete.")})
    with wrong_server(ours.url, Mistake()) as url:
        report = ask(url, ours, names)
    assert {o.check.name: o.came for o in report.outcomes if o.result != Result.PASSED} == {}


def test_a_login_page_in_place_of_everything_is_no_conforming_server_and_no_crash(ours: Service) -> None:
    page = Answer(200, {"content-type": "text/html"}, b"<html>Please log in</html>")
    with wrong_server(ours.url, Mistake(request=lambda _: page)) as url:
        report = ask(url, ours, ["*"])
    assert len(report.outcomes) == len(REGISTER)
    assert not report.conforms
    assert sum(outcome.result == Result.PASSED for outcome in report.outcomes) < len(REGISTER) / 4


def test_a_server_that_drops_connections_is_told_of_and_checked_to_the_end(ours: Service) -> None:
    count = [0]

    def drop(request: Request) -> Request | Answer:
        count[0] += "/metadata" in request.path
        return Answer(0, {}) if "/metadata" in request.path and count[0] % 2 else request

    with wrong_server(ours.url, Mistake(request=drop)) as url:
        report = ask(url, ours, ["metadata.*", "retrieve.instance"])
    dropped = [outcome for outcome in report.outcomes if outcome.came.startswith("no answer")]
    assert dropped
    assert next(o for o in report.outcomes if o.check.name == "retrieve.instance").result == Result.PASSED


def test_the_suite_deletes_what_it_stored_where_the_server_can_and_tells_of_it_where_it_cannot(ours: Service) -> None:
    refused = Mistake(request=lambda q: Answer(405, {}) if q.method == "DELETE" else q)
    server = Server("", ours.headers)
    with wrong_server(ours.url, refused) as url:
        server.url = url
        report = run(server, chosen(["stow.one"]))
    server.close()
    assert len(report.left) == 4
    assert all(uid.startswith("2.25.") for uid in report.left)


def test_a_read_only_visit_stores_and_deletes_nothing(ours: Service) -> None:
    ask(ours.url, ours, ["stow.one"])  # so that there is something to look at
    methods: list[tuple[str, str]] = []

    def watch(request: Request) -> Request:
        methods.append((request.method, unquote(request.path)))
        return request

    with wrong_server(ours.url, Mistake(request=watch)) as url:
        server = Server(url, ours.headers)
        report = run(server, chosen(["*"]), read_only=True)
        server.close()
    assert {method for method, _ in methods} <= {"GET", "HEAD", "OPTIONS", "PATCH"}
    assert next(o for o in report.outcomes if o.check.name == "retrieve.instance").result == Result.PASSED


def test_a_credential_never_stands_in_a_report(ours: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert ours.token
    assert main([ours.url, "--token", ours.token, "--only", "retrieve.*", "--verbose"]) in (0, 1)
    main([ours.url, "--token", ours.token, "--only", "retrieve.instance", "--json"])
    printed = capsys.readouterr().out
    assert ours.token not in printed
    assert "$AUTHORIZATION" in printed


def test_credentials_do_not_leave_for_another_host(ours: Service) -> None:
    seen: list[dict[str, str]] = []

    def look(request: Request) -> Answer:
        seen.append(request.headers)
        return Answer(200, {"content-type": "text/plain"}, b"")

    with wrong_server(ours.url, Mistake(request=look)) as elsewhere:
        server = Server(ours.url, {"Authorization": "Bearer secret"}, ("name", "password"))
        server.get(f"{elsewhere}/bulk")
        server.close()
    assert "authorization" not in {name.lower() for name in seen[0]}
