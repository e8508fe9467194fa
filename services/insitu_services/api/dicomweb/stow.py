"""STOW-RS: storing objects (PS3.18 10.5). The body is taken part by part into the archive; no object is held in memory.

Objects that come as metadata and bulk data apart are put together at the end of the request (assembly).

New series enter the project named by the query parameter `project` or the header `X-Insitu-Project`, else the site's default
project; the caller needs the right to store there. Not here: what makes an object archivable (insitu.archive).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from insitu.archive import reserve
from insitu.archive.incoming import Incoming
from insitu.archive.outcome import Outcome, Stored
from insitu.archive.receipts import Receipt
from insitu.archive.search import tag_of
from insitu.archive.store import Archive
from insitu.archive.tolerant import FAILURES
from insitu.audit import trail
from insitu.errors import Invalid, Unavailable
from insitu.projects.permissions import Action, Principal, Resource, authorize

from ..access import requires
from ..context import Context, Ctx
from ..problems import RETRY_AFTER
from . import native
from .answers import element, instance_url, study_url
from .assembly import Assembly, Built, write
from .multipart import Parser, PartData, PartStart
from .negotiation import XML_TYPE, BadRequest, UnsupportedMediaType, document_offer, parse_media_type
from .resource import accept_of, base_url

router = APIRouter(tags=["dicomweb"])
logger = logging.getLogger(__name__)
Storer = Annotated[Principal, Depends(requires(Action.IMAGE_STORE))]

DICOM = "application/dicom"
SEPARATE = ("application/dicom+json", XML_TYPE)  # metadata beside bulk data
HAND_OVER = 1 << 20  # bytes gathered before a thread writes them
RENEW_EVERY = 10.0  # seconds
UNDER_WAY = 4  # complete objects of one request that become durable together
_COMMITS = ThreadPoolExecutor(2 * UNDER_WAY, thread_name_prefix="commit")

RETRIEVE_URL = tag_of("RetrieveURL")

# Failure Reason (0008,1197), PS3.18 10.5.3.2 with the status codes of PS3.4 B.2.3 and PS3.7 C
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True)
class Item:
    """What became of one part. `failure` None: it is safe."""

    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    failure: int | None = None


def item_of(stored: Stored, study: str | None) -> Item:
    """The item for an outcome of the archive; `study` is the one named by the resource."""
    failure = None
    if stored.outcome is Outcome.CONFLICT_REFUSED:
        failure = DUPLICATE_SOP_INSTANCE
    elif not stored.success:
        other_study = study is not None and stored.study_instance_uid not in (None, study)
        failure = DOES_NOT_MATCH if other_study else CANNOT_UNDERSTAND
    known = stored.outcome in (Outcome.STORED, Outcome.DUPLICATE)
    return Item(
        stored.sop_class_uid,
        stored.sop_instance_uid,
        stored.study_instance_uid if known else None,
        stored.series_instance_uid if known else None,
        failure,
    )


class Session:
    """One request's parts on their way into the archive. Used by one thread at a time.

    While the next parts are read, a few that are complete become durable and indexed in threads of their own: each of them waits
    for the disk twice, and they can do so together.

    Parameters
    ----------
    archive : Archive
    receipt : Receipt
    boundary : str
        Of the multipart body.
    study : str, optional
        Study Instance UID every object must have.
    """

    def __init__(self, archive: Archive, receipt: Receipt, boundary: str, study: str | None) -> None:
        self._archive = archive
        self._receipt = receipt
        self._parser = Parser(boundary)
        self._study = study
        self._incoming: Incoming | None = None
        self._failure: int | None = None
        self._open = False
        self._results: list[Item | Future[Item]] = []
        self._under_way: dict[Future[Item], str | None] = {}  # with the SOP Instance UID
        self._series: set[str | None] = set()  # whose first object of this request is through

    @property
    def items(self) -> list[Item]:
        """What became of the parts, in their order; waits for those that are under way."""
        return [each if isinstance(each, Item) else each.result() for each in self._results]

    def fail(self) -> None:
        """Note that something of the body could not be understood."""
        self._results.append(Item(failure=CANNOT_UNDERSTAND))

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body.

        Raises
        ------
        BadRequest
            The body is no multipart body.
        """
        for event in self._parser.feed(data):
            if isinstance(event, PartStart):
                self._begin(event)
            elif isinstance(event, PartData):
                self._write(event.data)
            else:
                self._end()

    def finish(self) -> None:
        """Say that the body has ended: a part without an end is a failure.

        Raises
        ------
        BadRequest
            The body held no part.
        """
        if self._open:
            self.abort()
            self.fail()
        elif not self._results:
            raise BadRequest(
                "The body holds no part",
                why="no delimiter with this boundary was found in it",
                remedy="Send multipart/related with one application/dicom part per object",
            )
        elif not self._parser.complete:
            self.fail()

    def abort(self) -> None:
        """Forget the object at hand; those that were complete are waited for."""
        self._forget()
        wait(self._under_way)

    def _forget(self) -> None:
        if self._incoming is not None:
            self._incoming.abort()
            self._incoming = None

    def _begin(self, part: PartStart) -> None:
        self._open = True
        self._failure = None
        declared = part.headers.get("content-type", "application/dicom").split(";")[0].strip().lower()
        if declared not in ("application/dicom", "application/octet-stream"):
            self._failure = CANNOT_UNDERSTAND
            return
        try:
            self._incoming = self._archive.begin(self._receipt, study_instance_uid=self._study)
        except Unavailable as error:
            self._out_of_resources(error)

    def _write(self, data: memoryview) -> None:
        if self._incoming is None:
            return
        try:
            self._incoming.write(data)
        except Unavailable as error:
            self._out_of_resources(error)

    def _end(self) -> None:
        self._open = False
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            self._results.append(Item(failure=self._failure or PROCESSING_FAILURE))
            return
        self._hand_over(incoming)

    def _hand_over(self, incoming: Incoming) -> None:
        """Let a complete object become durable while the next one is read."""
        try:
            uid, series = incoming.seen_uids()
        except Unavailable as error:
            self._out_of_resources(error)
            incoming.abort()
            self._results.append(Item(failure=OUT_OF_RESOURCES))
            return
        self._make_way(uid)
        future = _COMMITS.submit(self._commit, incoming)
        self._under_way[future] = uid
        self._results.append(future)
        if series not in self._series:
            # The first object says what its series and study are, and since when they are here: none may overtake it.
            wait([future])
            self._series.add(series)

    def _make_way(self, uid: str | None) -> None:
        """Wait while too many are under way, and for one of the same UID: the first of a request is the first in the archive."""
        while self._under_way:
            same = [each for each, other in self._under_way.items() if other == uid and uid is not None]
            if same:
                wait(same)
            elif len(self._under_way) >= UNDER_WAY:
                wait(self._under_way, return_when=FIRST_COMPLETED)
            self._under_way = {each: other for each, other in self._under_way.items() if not each.done()}
            if not same and len(self._under_way) < UNDER_WAY:
                return

    def _commit(self, incoming: Incoming) -> Item:
        try:
            return item_of(incoming.commit(), self._study)
        except Unavailable as error:
            logger.warning("an object was refused: %s", error)
            return Item(failure=OUT_OF_RESOURCES)
        except Exception:  # the other parts are stored or refused on their own
            logger.exception("an object could not be stored")
            return Item(failure=PROCESSING_FAILURE)

    def _out_of_resources(self, error: Unavailable) -> None:
        logger.warning("an object was refused: %s", error)
        self._failure = OUT_OF_RESOURCES
        self._forget()


class SeparateSession(Session):
    """One request of metadata and bulk data (PS3.18 10.5.1.4): objects are put together once its last part is here.

    Parameters
    ----------
    archive, receipt, boundary, study
        As of a `Session`.
    assembly : Assembly
        Takes the parts.
    """

    def __init__(
        self, archive: Archive, receipt: Receipt, boundary: str, study: str | None, assembly: Assembly
    ) -> None:
        super().__init__(archive, receipt, boundary, study)
        self._assembly = assembly

    def finish(self) -> None:
        """Put the objects together and store them.

        Raises
        ------
        BadRequest
            The body is not complete, or its metadata cannot be read.
        """
        if not self._parser.complete:
            raise BadRequest("The body ends before its last part does", remedy="Send it again as a whole")
        for built in self._assembly.objects():
            self._take(built)
        if not self._results:
            raise BadRequest("The metadata of the request holds no object")

    def abort(self) -> None:
        """Forget what waits to be put together."""
        super().abort()
        self._assembly.close()

    def _begin(self, part: PartStart) -> None:
        with _disk():
            reserve.require(self._archive.settings)
            self._assembly.begin(part.headers)

    def _write(self, data: memoryview) -> None:
        with _disk():
            self._assembly.write(data)

    def _end(self) -> None:
        self._assembly.end()

    def _take(self, built: Built) -> None:
        failure, incoming = CANNOT_UNDERSTAND, None
        try:
            if built.dataset is None:
                raise Invalid(built.why or "")
            incoming = self._archive.begin(
                self._receipt,
                transfer_syntax_uid=built.transfer_syntax,
                sop_class_uid=built.sop_class_uid,
                sop_instance_uid=built.sop_instance_uid,
                study_instance_uid=self._study,
            )
            write(built.dataset, incoming.write)
        except Unavailable as error:
            logger.warning("an object was refused: %s", error)
            failure = OUT_OF_RESOURCES
        except (Invalid, *FAILURES) as error:
            why = error if isinstance(error, Invalid) else type(error).__name__
            logger.warning("an object could not be put together: %s", why)
        else:
            self._hand_over(incoming)
            return
        if incoming is not None:
            incoming.abort()
        self._results.append(Item(built.sop_class_uid, built.sop_instance_uid, failure=failure))


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable("The disk does not take the bulk data", why=error.strerror) from error


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
