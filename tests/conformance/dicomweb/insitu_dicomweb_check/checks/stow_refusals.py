"""Storing (STOW-RS, PS3.18 10.5) where it cannot: which status, and what the answer says about each failure."""

from __future__ import annotations

import httpx

from .. import multipart, objects
from ..check import MAY, MUST, SHOULD, Broken, NotOffered, Skipped, check
from ..dicomjson import first
from ..server import JSON
from ..visit import Visit, demand, said, status
from .stow import FAILED, FAILURE_REASON, OTHER, REFERENCED, items, module, named

GARBAGE = b"This is a text, and not a DICOM object. " * 20


def _post(visit: Visit, body: bytes, content_type: str | None, path: str = "/studies") -> httpx.Response:
    headers = {"Content-Type": content_type} if content_type else {}
    return visit.server.request("POST", path, accept=JSON, body=body, headers=headers)


@check(
    "stow.not-dicom",
    MUST,
    "Table 10.5.3-1",
    "A part that is no DICOM object is refused: 400 or 409",
    own=True,
    writes=True,
)
def not_dicom(visit: Visit) -> str:
    return status(visit.store([GARBAGE]), 400, 409)


@check(
    "stow.mixed",
    MUST,
    "Table 10.5.3-1",
    "A good object beside a part that is none is answered with 202",
    own=True,
    writes=True,
)
def mixed(visit: Visit) -> str:
    response = visit.once("mixed", lambda: visit.store([visit.samples.ct[0].file, GARBAGE]))
    return status(response, 202)


@check("stow.mixed-stored", MUST, "Table I.1-1", "The answer to it references the good object", own=True, writes=True)
def mixed_stored(visit: Visit) -> str:
    response = visit.once("mixed", lambda: visit.store([visit.samples.ct[0].file, GARBAGE]))
    listed = named(items(module(response), REFERENCED))
    demand(listed == [visit.samples.ct[0].instance], f"{len(listed)} referenced")
    return "it is referenced"


@check("stow.mixed-failed", MUST, "Table I.1-1 (1C)",
       "The answer to it has one item in the Other Failures or the Failed SOP Sequence, with a Failure Reason",
       own=True, writes=True)  # fmt: skip
def mixed_failed(visit: Visit) -> str:
    response = visit.once("mixed", lambda: visit.store([visit.samples.ct[0].file, GARBAGE]))
    document = module(response)
    found = items(document, OTHER) + items(document, FAILED)
    demand(len(found) == 1, f"{len(found)} items of failures")
    reason = first(found[0].get(FAILURE_REASON))
    demand(isinstance(reason, int), f"Failure Reason {reason!r}")
    return f"Failure Reason {reason:04X}"


@check("stow.wrong-study", MUST, "10.5.1.1.1, Table 10.5.3-1", "An instance of another study than the path names is not stored (409)",
       own=True, writes=True)  # fmt: skip
def wrong_study(visit: Visit) -> str:
    sample = objects.foreign(visit.samples)
    visit.extra.append(sample.study)
    response = visit.store([sample.file], f"/studies/{visit.samples.ct[0].study}")
    return status(response, 409)


@check("stow.wrong-study-mixed", MUST, "Table I.1-1",
       "Of two instances, one of another study than the path names, that one is in the Failed SOP Sequence (202)",
       own=True, writes=True)  # fmt: skip
def wrong_study_mixed(visit: Visit) -> str:
    sample, good = objects.foreign(visit.samples), visit.samples.ct[0]
    visit.extra.append(sample.study)
    response = visit.store([good.file, sample.file], f"/studies/{good.study}")
    status(response, 202)
    failed = items(module(response), FAILED)
    demand(named(failed) == [sample.instance], f"202, failed: {len(failed)}")
    reason = first(failed[0].get(FAILURE_REASON))
    demand(isinstance(reason, int) and 0 < reason < 65536, f"Failure Reason {reason!r}")
    return f"Failure Reason {reason:04X}"


@check("stow.wrong-study-not-there", MUST, "10.5.1.1.1", "An instance that was refused for its study is not on the server",
       own=True, writes=True)  # fmt: skip
def wrong_study_not_there(visit: Visit) -> str:
    sample = objects.foreign(visit.samples)
    visit.extra.append(sample.study)
    answer = visit.store([sample.file], f"/studies/{visit.samples.ct[0].study}")
    if answer.status_code == 200:
        raise Broken(f"it was accepted: {said(answer)}")
    return status(visit.server.get(f"{sample.path}/metadata"), 404)


@check("stow.failure-body", SHOULD, "10.5.3.3", "The answer to a refused instance says in the Failed SOP Sequence why",
       own=True, writes=True)  # fmt: skip
def failure_body(visit: Visit) -> str:
    sample = objects.foreign(visit.samples)
    visit.extra.append(sample.study)
    response = visit.store([sample.file], f"/studies/{visit.samples.ct[0].study}")
    if response.status_code < 400:
        raise Skipped("it was not refused")
    failed = items(module(response), FAILED)
    demand(failed and first(failed[0].get(FAILURE_REASON)), f"{said(response)}, no item with a Failure Reason")
    return f"Failure Reason {first(failed[0].get(FAILURE_REASON)):04X}"


@check("stow.no-parts", SHOULD, "10.5.1.4", "A multipart body without a part is refused (400)", own=True, writes=True)
def no_parts(visit: Visit) -> str:
    return status(_post(visit, b"--conformance--\r\n", multipart.content_type()), 400, 409)


@check("stow.empty-body", SHOULD, "10.5.1.4", "A request without a body is refused (400)", own=True, writes=True)
def empty_body(visit: Visit) -> str:
    return status(_post(visit, b"", multipart.content_type()), 400, 409, 411)


@check("stow.cut-off", MUST, "Table 10.5.3-1", "A body that ends within an object is refused, and the object is not stored",
       own=True, writes=True)  # fmt: skip
def cut_off(visit: Visit) -> str:
    sample = objects.foreign(visit.samples)
    visit.extra.append(sample.study)
    whole = multipart.put_together([sample.file])
    response = _post(visit, whole[: len(whole) - 900], multipart.content_type())
    came = status(response, 400, 409)
    status(visit.server.get(f"{sample.path}/metadata"), 404)
    return came


@check("stow.no-boundary", MUST, "8.7.1, Table 10.5.3-1", "A Content-Type without a boundary is refused (400 or 415)",
       own=True, writes=True)  # fmt: skip
def no_boundary(visit: Visit) -> str:
    body = multipart.put_together([visit.samples.ct[0].file])
    return status(_post(visit, body, 'multipart/related; type="application/dicom"'), 400, 415)


@check("stow.no-type", SHOULD, "8.7.1", "A Content-Type without the type parameter is refused (400, 415) or understood (200)",
       own=True, writes=True)  # fmt: skip
def no_type(visit: Visit) -> str:
    body = multipart.put_together([visit.samples.ct[0].file])
    return status(_post(visit, body, multipart.content_type(kind=None)), 200, 400, 415)


@check(
    "stow.wrong-media-type", MUST, "Table 10.5.3-1", "A body of text/plain is refused with 415", own=True, writes=True
)
def wrong_media_type(visit: Visit) -> str:
    return status(_post(visit, GARBAGE, "text/plain"), 415)


@check("stow.wrong-part-type", MUST, "Table 10.5.3-1", "A multipart body of text/plain parts is refused (400, 409 or 415)",
       own=True, writes=True)  # fmt: skip
def wrong_part_type(visit: Visit) -> str:
    body = multipart.put_together([GARBAGE], headers={"Content-Type": "text/plain"})
    return status(_post(visit, body, multipart.content_type(kind="text/plain")), 400, 409, 415)


@check(
    "stow.no-content-type",
    MUST,
    "Table 10.5.1-2",
    "A body without a Content-Type is refused (400 or 415)",
    own=True,
    writes=True,
)
def no_content_type(visit: Visit) -> str:
    return status(_post(visit, multipart.put_together([visit.samples.ct[0].file]), None), 400, 415)


@check("stow.not-acceptable", MUST, "8.7.8.1, Table 8.7.3-1",
       "A request that accepts only text/csv is refused with 406, or answered in the default media type",
       own=True, writes=True)  # fmt: skip
def not_acceptable(visit: Visit) -> str:
    response = visit.store([visit.samples.ct[0].file], accept="text/csv")
    if response.status_code == 406:
        return said(response)
    kind = multipart.media_type(response.headers.get("content-type", ""))[0]
    demand(response.status_code in (200, 202, 409) and kind == JSON, said(response))
    return said(response)


@check(
    "stow.query",
    MUST,
    "8.3, 10.5.1.2",
    "An unknown query parameter of a store request is ignored",
    own=True,
    writes=True,
)
def query(visit: Visit) -> str:
    return status(visit.store([visit.samples.ct[0].file], query=[("conformancesuite", "1")]), 200, 202, 409)


@check("stow.study-of-path-malformed", MUST, "8.2, Table 10.5.3-1", "A store request to a study whose UID is malformed is refused (4xx)",
       own=True, writes=True)  # fmt: skip
def study_of_path_malformed(visit: Visit) -> str:
    response = visit.store([visit.samples.ct[0].file], "/studies/not-a-uid")
    return status(response, 400, 404, 409)


@check(
    "stow.put", MAY, "10.3", "Storing is done by POST; PUT to /studies is refused with 405 (or 404, 501)", writes=True
)
def put(visit: Visit) -> str:
    response = visit.server.request("PUT", "/studies", accept=JSON, body=b"", headers={"Content-Type": "text/plain"})
    if response.status_code in (404, 501):
        raise NotOffered(said(response))
    return status(response, 405)
