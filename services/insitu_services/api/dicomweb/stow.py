"""STOW-RS: storing objects (PS3.18 10.5). The body is taken part by part into the archive; no object is held in memory.

New series enter the project named by the query parameter `project` or the header `X-Insitu-Project`, else the site's default
project; the caller needs the right to store there. Not here: the parts of the body (session).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from insitu.archive.receipts import Receipt
from insitu.archive.search import tag_of
from insitu.archive.store import Archive
from insitu.audit import trail
from insitu.errors import Unavailable
from insitu.projects.permissions import Action, Principal, Resource, authorize

from ..access import requires
from ..context import Context, Ctx
from ..problems import RETRY_AFTER
from . import native
from .answers import element, instance_url, study_url
from .assembly import Assembly
from .negotiation import XML_TYPE, BadRequest, UnsupportedMediaType, document_offer, parse_media_type
from .resource import accept_of, base_url
from .session import OUT_OF_RESOURCES, Item, SeparateSession, Session

router = APIRouter(tags=["dicomweb"])
logger = logging.getLogger(__name__)
Storer = Annotated[Principal, Depends(requires(Action.IMAGE_STORE))]

DICOM = "application/dicom"
SEPARATE = ("application/dicom+json", XML_TYPE)  # metadata beside bulk data
HAND_OVER = 1 << 20  # bytes gathered before a thread writes them
RENEW_EVERY = 10.0  # seconds

RETRIEVE_URL = tag_of("RetrieveURL")


def status_of(items: Sequence[Item]) -> int:
    """The HTTP status (PS3.18 table 10.5.3-1): 200 all stored, 202 some, 409 none, 503 none for want of resources."""
    failures = [item.failure for item in items if item.failure is not None]
    if not failures:
        return 200
    if len(failures) < len(items):
        return 202
    return 503 if set(failures) == {OUT_OF_RESOURCES} else 409


def response_document(items: Sequence[Item], base: str) -> dict[str, Any]:
    """The Store Instances Response Module (PS3.18 annex I) as DICOM JSON.

    Failures that cannot be tied to a SOP Instance UID stand in the Other Failures Sequence.
    """
    stored: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for item in items:
        uids = dict(
            element(keyword, uid)
            for keyword, uid in (
                ("ReferencedSOPClassUID", item.sop_class_uid),
                ("ReferencedSOPInstanceUID", item.sop_instance_uid),
            )
            if uid
        )
        if item.failure is not None:
            reason = dict([element("FailureReason", item.failure)])
            (failed if item.sop_instance_uid else others).append(uids | reason)
            continue
        url = {}
        if item.study_instance_uid and item.series_instance_uid:
            url = dict([element("RetrieveURL", instance_url(base, vars(item)))])
        stored.append(uids | url)
    document: dict[str, Any] = {}
    studies = {item.study_instance_uid for item in items if item.study_instance_uid}
    if len(studies) == 1:
        document.update([element("RetrieveURL", study_url(base, {"study_instance_uid": studies.pop()}))])
    for keyword, sequence in (
        ("FailedSOPSequence", failed),
        ("ReferencedSOPSequence", stored),
        ("OtherFailuresSequence", others),
    ):
        if sequence:
            document.update([element(keyword, *sequence)])
    return document


def body_of(content_type: str | None) -> tuple[str, str]:
    """Media type of the parts of a request, and their boundary.

    Raises
    ------
    UnsupportedMediaType
        It is not multipart/related with parts we take.
    BadRequest
        It names no boundary.
    """
    media = parse_media_type(content_type or "/")
    kind = (media.parameter("type") or DICOM).lower()
    if media.name != "multipart/related" or kind not in (DICOM, *SEPARATE):
        raise UnsupportedMediaType(
            "Objects are stored as multipart/related with application/dicom parts, or with metadata and bulk data",
            value=(content_type or "")[:200],
            remedy='Send Content-Type: multipart/related; type="application/dicom" (or +json, +xml); boundary=...',
        )
    boundary = media.parameter("boundary")
    if not boundary or len(boundary) > 200:
        raise BadRequest("The Content-Type names no usable boundary", value=(content_type or "")[:200])
    return kind, boundary


async def _store(
    request: Request, context: Context, principal: Principal, project: str | None, study: str | None
) -> Response:
    offer = document_offer(accept_of(request), multipart=False)
    target = project or context.settings.default_project
    authorize(principal, Action.IMAGE_STORE, Resource(kind="project", id=target, projects=frozenset({target})))
    kind, boundary = body_of(request.headers.get("content-type"))
    archive = context.archive
    peer = request.client.host if request.client else None
    receipt = await run_in_threadpool(
        archive.open_receipt, channel="stow", peer=peer, principal=principal.name, project=project
    )
    session = Session(archive, receipt, boundary, study)
    if kind != DICOM:
        assembly = Assembly(kind, context.settings.home / "incoming", str(request.url))
        session = SeparateSession(archive, receipt, boundary, study, assembly)
    renewal = asyncio.create_task(_renew(archive, receipt))
    try:
        malformed = await _receive(request, session)
    except ClientDisconnect:
        logger.info("a client left while it was storing; receipt %s", receipt.id)
        return Response(status_code=400)
    finally:
        renewal.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewal
        await run_in_threadpool(session.abort)
        items = session.items
        await run_in_threadpool(archive.close_receipt, receipt)
        await run_in_threadpool(_audit, context, principal, receipt, items)
    if malformed is not None and all(item.failure is not None for item in items):
        raise malformed
    status = status_of(items)
    document = response_document(items, base_url(request))
    headers = {"Retry-After": RETRY_AFTER} if status == 503 else {}
    if RETRIEVE_URL in document:
        headers["Content-Location"] = document[RETRIEVE_URL]["Value"][0]
    content = native.to_xml(document) if offer.media_type == XML_TYPE else to_json(document)
    return Response(content, status, headers, media_type=offer.media_type)


async def _receive(request: Request, session: Session) -> BadRequest | None:
    """Feed the body to the session; what is wrong with the body as a whole, if anything."""
    gathered: list[bytes] = []
    length = 0
    try:
        async for chunk in request.stream():
            gathered.append(chunk)
            length += len(chunk)
            if length >= HAND_OVER:
                data, gathered, length = b"".join(gathered), [], 0
                await run_in_threadpool(session.feed, data)
        await run_in_threadpool(session.feed, b"".join(gathered))
        await run_in_threadpool(session.finish)
    except BadRequest as error:
        session.fail()
        return error
    return None


async def _renew(archive: Archive, receipt: Receipt) -> None:
    """Keep the series of this request from becoming complete while it goes on."""
    while True:
        await asyncio.sleep(RENEW_EVERY)
        try:
            await run_in_threadpool(archive.renew, receipt)
        except Unavailable as error:
            logger.warning("the lease of a request was not renewed: %s", error)


def _audit(context: Context, principal: Principal, receipt: Receipt, items: Sequence[Item]) -> None:
    failed = sum(item.failure is not None for item in items)
    try:
        with context.database.transaction() as connection:
            trail.record(
                connection, principal.name, "store", "receipt", receipt.id, receipt.link_project,
                outcome="success" if items and not failed else "failure",
                detail={"stored": len(items) - failed, "failed": failed},
            )  # fmt: skip
    except Unavailable as error:
        logger.warning("storing was not noted in the audit trail: %s", error)


ProjectQuery = Annotated[str | None, Query(alias="project", description="Project that new series enter.")]
ProjectHeader = Annotated[str | None, Header(alias="X-Insitu-Project", description="The same as a header.")]


@router.post("/studies")
async def store(
    request: Request,
    context: Ctx,
    principal: Storer,
    project: ProjectQuery = None,
    project_header: ProjectHeader = None,
) -> Response:
    """Store objects of any studies."""
    return await _store(request, context, principal, project or project_header, None)


@router.post("/studies/{study}")
async def store_in_study(
    request: Request,
    context: Ctx,
    principal: Storer,
    study: str,
    project: ProjectQuery = None,
    project_header: ProjectHeader = None,
) -> Response:
    """Store objects of one study; objects of another are refused."""
    return await _store(request, context, principal, project or project_header, study)
