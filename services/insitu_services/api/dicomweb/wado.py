"""WADO-RS: studies, series and instances as objects, as metadata, as frames and as bulk data (PS3.18 10.4).

Where the client names no transfer syntax, objects come in explicit VR little endian, with the exceptions of PS3.18 8.7.3.4; with
`transfer-syntax=*` as they are stored. Not here: images for the eye (rendered), which bytes a client has already (conditional).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from insitu.archive.blobs import BlobStore
from insitu.archive.examine import file_meta
from insitu.audit import trail
from insitu.database import Row
from insitu.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE, LOSSY
from insitu.errors import NotFound
from insitu.projects.permissions import Action, Principal

from ... import bulkdata, frames, outgoing
from ..access import requires
from ..context import Context, Ctx
from ..head import Streamed
from ..problems import problem
from ..zerocopy import FilePart, Segment, SegmentResponse
from . import conditional, multipart
from .answers import instance_url
from .documents import document_response, references
from .negotiation import FRAME_MEDIA_TYPES, BadRequest, NotAcceptable, Offer, choose, document_offer
from .resource import accept_of, base_url, instances

router = APIRouter(tags=["dicomweb"])
Reader = Annotated[Principal, Depends(requires(Action.IMAGE_READ))]
OCTETS = "application/octet-stream"
PIXELS = ("7FE00008", "7FE00009", "7FE00010")
LONGEST_VALUE = 0xFFFFFFFE  # bytes of a value in explicit VR little endian (PS3.5 7.1.2)


@dataclass(frozen=True)
class FrameOffer(Offer):
    """A representation of frames; `decoded` where it is not the stored one."""

    decoded: bool = False


def _rows(
    context: Context,
    principal: Principal,
    action: str,
    study: str,
    series: str | None = None,
    instance: str | None = None,
    *,
    with_metadata: bool = False,
) -> list[Row]:
    """The instances of the resource; that they were looked at or taken out is noted once."""
    with context.database.transaction() as connection:
        rows = instances(
            connection, principal, study, series, instance, with_metadata=with_metadata or action == "view"
        )
        kind, uid = ("instance", instance) if instance else ("series", series) if series else ("study", study)
        trail.record(
            connection,
            principal.name,
            action,
            kind,
            uid or study,
            None,
            detail={"study": study, "instances": len(rows)},
        )
    return rows


def _objects(request: Request, context: Context, rows: list[Row]) -> Response:
    blobs, accept, base = context.archive.blobs, accept_of(request), base_url(request)
    found = {
        key: _offer(blobs, row, accept, alone=len(rows) == 1) for key, row in {_kind(row): row for row in rows}.items()
    }
    offers = [found[_kind(row)] for row in rows]
    stored = all(offer.transfer_syntax == row["transfer_syntax_uid"] for row, offer in zip(rows, offers, strict=True))
    multiple = offers[0].multipart
    tag = conditional.tag_of(rows, base, *found.values())
    if stored and not multiple:
        tag = conditional.tag_of_object(rows[0])
    if same := conditional.unchanged(request, tag):
        return same
    headers = conditional.headers(tag)
    if not multiple:
        headers["Content-Location"] = instance_url(base, rows[0])
        kind = _type(offers[0])
        if stored:
            return SegmentResponse(_file(blobs, rows[0]), rows[0]["size"], media_type=kind, headers=headers)
        return Streamed(_early(_transcoded(blobs, rows[0], offers[0])), media_type=kind, headers=headers)
    boundary = multipart.new_boundary()
    kind = multipart.content_type("application/dicom", boundary)
    if stored:
        heads = [
            _head(boundary, base, row, offer, row["size"], first=not number)
            for number, (row, offer) in enumerate(zip(rows, offers, strict=True))
        ]
        end = multipart.end(boundary)
        length = sum(map(len, heads)) + sum(row["size"] for row in rows) + len(end)
        pieces = chain.from_iterable((head, *_file(blobs, row)) for head, row in zip(heads, rows, strict=True))
        return SegmentResponse(chain(pieces, (end,)), length, media_type=kind, headers=headers)

    def pieces_of_all() -> Iterator[bytes]:
        for number, (row, offer) in enumerate(zip(rows, offers, strict=True)):
            make_head = functools.partial(_head, boundary, base, row, offer, first=not number)
            yield from _transcoded(blobs, row, offer, make_head)
        yield multipart.end(boundary)

    return Streamed(multipart.gathered(_early(pieces_of_all())), media_type=kind, headers=headers)


def _file(blobs: BlobStore, row: Row) -> tuple[Segment, ...]:
    return (FilePart(functools.partial(blobs.open, row["blob_key"]), 0, row["size"]),)


def _type(offer: Offer) -> str:
    return f"{offer.media_type}; transfer-syntax={offer.transfer_syntax}"


def _head(boundary: str, base: str, row: Row, offer: Offer, size: int, *, first: bool) -> bytes:
    headers = {"Content-Type": _type(offer), "Content-Location": instance_url(base, row), "Content-Length": str(size)}
    return multipart.part_head(boundary, headers, first=first)


def _early(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same, with the first piece made now, while an error is still one of the request."""
    return chain([next(pieces)], pieces)


def _kind(row: Row) -> tuple[str, bool]:
    """What decides in which transfer syntax an object can be sent."""
    frames_of = (row["image_rows"] or 0) * (row["image_columns"] or 0) * (row["number_of_frames"] or 1)
    return row["transfer_syntax_uid"], frames_of > LONGEST_VALUE // 16  # 16: no pixel has more bytes


def _default(blobs: BlobStore, row: Row, *, large: bool) -> str:
    """The transfer syntax that is meant where none is named (PS3.18 8.7.3.4)."""
    stored: str = row["transfer_syntax_uid"]
    if stored in LOSSY:
        return stored
    if large:
        where = frames.layout(blobs, row)
        if where.encapsulated and where.frames * where.decoded_bytes > LONGEST_VALUE:
            return stored
    return EXPLICIT_LITTLE


def _offer(blobs: BlobStore, row: Row, accept: str | None, *, alone: bool) -> Offer:
    """The form in which an object is sent: the stored one where the client takes it.

    Raises
    ------
    NotAcceptable
        There is none, for example because no decoder is installed.
    """
    stored, large = _kind(row)
    syntaxes = [stored]
    if stored != EXPLICIT_LITTLE and outgoing.can_be_sent_in(stored, EXPLICIT_LITTLE):
        syntaxes.append(EXPLICIT_LITTLE)
    shapes = (True, False) if alone else (True,)
    offers = [Offer("application/dicom", shape, syntax) for shape in shapes for syntax in syntaxes]
    try:
        return choose(accept, offers, {"application/dicom": _default(blobs, row, large=large)})
    except NotAcceptable as error:
        if len(syntaxes) > 1 or stored == EXPLICIT_LITTLE:
            raise
        raise NotAcceptable(
            error.what, value=error.value, remedy=error.remedy,
            why=f"it is stored in {stored}, which cannot be decoded here: no decoder for it is installed",
        ) from error  # fmt: skip


def _transcoded(
    blobs: BlobStore, row: Row, offer: Offer, head: Callable[[int], bytes] | None = None
) -> Iterator[bytes]:
    """An object, behind the head of its part, which is made once its length is known."""
    syntax = offer.transfer_syntax or row["transfer_syntax_uid"]
    with outgoing.opened(blobs, row, syntax) as data_set:
        meta = file_meta(syntax, row["sop_class_uid"], row["sop_instance_uid"], None)
        if syntax == row["transfer_syntax_uid"]:  # byte for byte
            data_set.seek(0)
            meta = b""
        begin = data_set.tell()
        length = data_set.seek(0, os.SEEK_END) - begin
        data_set.seek(begin)
        yield (head(len(meta) + length) if head else b"") + meta
        yield from outgoing.chunks(data_set)


@router.get("/studies/{study}")
def retrieve_study(request: Request, context: Ctx, principal: Reader, study: str) -> Response:
    """The objects of a study."""
    return _objects(request, context, _rows(context, principal, "export", study))


@router.get("/studies/{study}/series/{series}")
def retrieve_series(request: Request, context: Ctx, principal: Reader, study: str, series: str) -> Response:
    """The objects of a series."""
    return _objects(request, context, _rows(context, principal, "export", study, series))


@router.get("/studies/{study}/series/{series}/instances/{instance}")
def retrieve_instance(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str
) -> Response:
    """One object."""
    return _objects(request, context, _rows(context, principal, "export", study, series, instance))


def _metadata(request: Request, context: Context, rows: list[Row], offer: Offer) -> Response:
    base = base_url(request)
    tag = conditional.tag_of(rows, base, offer, [row["body"] is None for row in rows])
    if same := conditional.unchanged(request, tag):
        return same
    return document_response(context.archive.blobs, rows, base, offer, conditional.headers(tag))


@router.get("/studies/{study}/metadata")
def study_metadata(request: Request, context: Ctx, principal: Reader, study: str) -> Response:
    """DICOM JSON or XML of all instances of a study, without bulk data."""
    offer = document_offer(accept_of(request))
    return _metadata(request, context, _rows(context, principal, "view", study), offer)


@router.get("/studies/{study}/series/{series}/metadata")
def series_metadata(request: Request, context: Ctx, principal: Reader, study: str, series: str) -> Response:
    """DICOM JSON or XML of all instances of a series, without bulk data."""
    offer = document_offer(accept_of(request))
    return _metadata(request, context, _rows(context, principal, "view", study, series), offer)


@router.get("/studies/{study}/series/{series}/instances/{instance}/metadata")
def instance_metadata(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str
) -> Response:
    """DICOM JSON or XML of one instance, without bulk data."""
    offer = document_offer(accept_of(request))
    return _metadata(request, context, _rows(context, principal, "view", study, series, instance), offer)


def frame_numbers(text: str) -> list[int]:
    """The numbers of `1,2,5`.

    Raises
    ------
    BadRequest
        It is not a list of positive whole numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < len(part) < 10 and int(part) for part in parts):
        raise BadRequest("Frames are a list of numbers from 1", value=text[:100], remedy="For example /frames/1,2,3")
    return [int(part) for part in parts]


def frame_offers(where: frames.Layout, count: int) -> list[FrameOffer]:
    """The representations there are of frames; the first that the client takes is sent.

    As stored stands first among bytes without a format; where no transfer syntax is named, it does not count (PS3.18 8.7.3.3). A
    format of its own comes before them where the pixels have lost something already, else behind.
    """
    offers = []
    if where.encapsulated:
        stored_type = FRAME_MEDIA_TYPES.get(where.transfer_syntax)
        pictures = (
            [FrameOffer(stored_type, shape, where.transfer_syntax) for shape in (True, False)] if stored_type else []
        )
        octets = [FrameOffer(OCTETS, shape, where.transfer_syntax) for shape in (True, False)]
        if frames.decodable(where):
            octets += [FrameOffer(OCTETS, shape, EXPLICIT_LITTLE, True) for shape in (True, False)]
        offers = pictures + octets if where.transfer_syntax in LOSSY else octets + pictures
    else:
        # the bytes of native frames are the same in implicit VR
        for syntax in (EXPLICIT_LITTLE, IMPLICIT_LITTLE):
            offers += [FrameOffer(OCTETS, True, syntax), FrameOffer(OCTETS, False, syntax)]
    return offers if count == 1 else [offer for offer in offers if offer.multipart]


def _frame_offer(request: Request, where: frames.Layout, count: int) -> FrameOffer:
    return choose(accept_of(request), frame_offers(where, count), {OCTETS: EXPLICIT_LITTLE})


@router.get("/studies/{study}/series/{series}/instances/{instance}/frames/{numbers}")
def retrieve_frames(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str, numbers: str
) -> Response:
    """Frames of an instance, by number from 1."""
    wanted = frame_numbers(numbers)
    with context.database.transaction() as connection:
        row = instances(connection, principal, study, series, instance)[0]
    where = frames.layout(context.archive.blobs, row)
    frames.check_numbers(where, wanted)
    return _frames(request, context, row, where, wanted)


def _frames(request: Request, context: Context, row: Row, where: frames.Layout, wanted: list[int]) -> Response:
    offer = _frame_offer(request, where, len(wanted))
    tag = conditional.tag_of([row], base_url(request), offer, wanted)
    if same := conditional.unchanged(request, tag):
        return same
    content = (frames.uncompressed if offer.decoded else frames.stored)(context.archive.blobs, where, wanted)
    headers = conditional.headers(tag)
    if not offer.multipart:
        return Response(next(iter(content)), media_type=_type(offer), headers=headers)
    url = instance_url(base_url(request), row)
    parts = (
        multipart.part(_type(offer), f"{url}/frames/{number}", frame)
        for number, frame in zip(wanted, content, strict=True)
    )
    return _parts(parts, offer, headers)


def _parts(parts: Iterator[multipart.Part], offer: Offer, headers: dict[str, str]) -> Response:
    """A multipart answer; the first part is made now, while an error is still one of the request."""
    boundary = multipart.new_boundary()
    return Streamed(
        multipart.body(boundary, chain([next(parts)], parts)),
        media_type=multipart.content_type(offer.media_type, boundary, offer.transfer_syntax),
        headers=headers,
    )


@router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{path:path}")
def retrieve_bulk_data(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str, path: str
) -> Response:
    """The value of one attribute that the metadata gives as BulkDataURI; compressed pixel data comes frame by frame."""
    with context.database.transaction() as connection:
        row = instances(connection, principal, study, series, instance)[0]
    blobs = context.archive.blobs
    if path.upper() == f"{frames.PIXEL_DATA:08X}":
        where = frames.layout(blobs, row)
        if where.encapsulated:
            return _frames(request, context, row, where, list(range(1, where.frames + 1)))
    value = bulkdata.value(blobs, row, path)
    names = dict.fromkeys((value.media_type, OCTETS))
    ranged = "range" in request.headers  # of a value alone, not of a multipart body
    shapes = (False, True) if ranged else (True, False)
    offer = choose(accept_of(request), [Offer(name, shape) for name in names for shape in shapes])
    if not offer.multipart:
        return _value(request, value, offer.media_type, conditional.tag_of_object(row))
    url = f"{instance_url(base_url(request), row)}/bulkdata/{path}"
    tag = conditional.tag_of([row], url, offer)
    if same := conditional.unchanged(request, tag):
        return same
    return _parts(iter([_value_part(value, offer.media_type, url)]), offer, conditional.headers(tag))


def _value_part(value: bulkdata.Value, media_type: str, url: str) -> multipart.Part:
    headers = {"Content-Type": media_type, "Content-Location": url, "Content-Length": str(value.length)}
    return headers, value.chunks


def _value(request: Request, value: bulkdata.Value, media_type: str, tag: str) -> Response:
    """A value or a range of it (RFC 9110 14); the tag is that of the object, whose values never change."""
    if same := conditional.unchanged(request, tag):
        return same
    headers = conditional.headers(tag) | {"Accept-Ranges": "bytes"}
    whole = request.headers.get("if-range", tag) != tag  # the client holds bytes of another object
    try:
        found = None if whole else conditional.byte_range(request.headers.get("range"), value.length)
    except conditional.OutOfRange as error:
        response = problem(error)
        response.headers.update(headers | {"Content-Range": f"bytes */{value.length}"})
        return response
    begin, end = found or (0, value.length)
    headers["Content-Length"] = str(end - begin)
    if found:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{value.length}"
    return Streamed(value.pieces(begin, end), status_code=206 if found else 200, media_type=media_type, headers=headers)


def _all_bulk_data(
    request: Request, context: Context, principal: Principal, *uids: str, only_pixels: bool = False
) -> Response:
    """Every value that the metadata of the resource names by address, or only the pixel data (PS3.18 10.4.1.1.5 and .6).

    Compressed pixel data that is not decoded has a part for each frame, all of the same address.
    """
    rows = _rows(context, principal, "export", *uids, with_metadata=True)
    base, blobs = base_url(request), context.archive.blobs
    named = [(row, path) for row in rows for path in references(blobs, row)]
    if only_pixels:
        named = [(row, path) for row, path in named if path in PIXELS]
    if not named:
        raise NotFound("There is no such bulk data", why="None of the attributes here is given by address")
    offers = {row["id"]: _bulk_offer(request, blobs, row) for row, _ in named}
    offer = Offer(OCTETS, multipart=True) if len(set(offers.values())) > 1 else next(iter(offers.values()))
    tag = conditional.tag_of(rows, base, only_pixels, *offers.values())
    if same := conditional.unchanged(request, tag):
        return same
    parts = (
        part
        for row, path in named
        for part in _bulk_parts(blobs, row, path, offers[row["id"]], f"{instance_url(base, row)}/bulkdata/{path}")
    )
    return _parts(parts, Offer(offer.media_type, multipart=True), conditional.headers(tag))


def _bulk_offer(request: Request, blobs: BlobStore, row: Row) -> FrameOffer:
    """How the bulk data of an instance is sent: its own types do not count, octets are always there."""
    try:
        where = frames.layout(blobs, row)
    except NotFound:
        where = None
    if where is None or not where.encapsulated:
        octets = [FrameOffer(OCTETS, True, EXPLICIT_LITTLE)]
        return choose(accept_of(request), octets, {OCTETS: EXPLICIT_LITTLE})
    return choose(accept_of(request), frame_offers(where, 2), {OCTETS: EXPLICIT_LITTLE})


def _bulk_parts(blobs: BlobStore, row: Row, path: str, offer: FrameOffer, url: str) -> Iterator[multipart.Part]:
    if path != f"{frames.PIXEL_DATA:08X}" or not frames.layout(blobs, row).encapsulated:
        yield _value_part(bulkdata.value(blobs, row, path), OCTETS, url)
        return
    where = frames.layout(blobs, row)
    numbers = list(range(1, where.frames + 1))
    if offer.decoded:
        headers = {"Content-Length": str(where.frames * where.decoded_bytes)}
        yield (
            {"Content-Type": _type(offer), "Content-Location": url, **headers},
            frames.uncompressed(blobs, where, numbers),
        )
        return
    for frame in frames.stored(blobs, where, numbers):
        yield multipart.part(_type(offer), url, frame)


@router.get("/studies/{study}/bulkdata")
def study_bulk_data(request: Request, context: Ctx, principal: Reader, study: str) -> Response:
    """All bulk data of a study."""
    return _all_bulk_data(request, context, principal, study)


@router.get("/studies/{study}/series/{series}/bulkdata")
def series_bulk_data(request: Request, context: Ctx, principal: Reader, study: str, series: str) -> Response:
    """All bulk data of a series."""
    return _all_bulk_data(request, context, principal, study, series)


@router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata")
def instance_bulk_data(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str
) -> Response:
    """All bulk data of an instance."""
    return _all_bulk_data(request, context, principal, study, series, instance)


@router.get("/studies/{study}/pixeldata")
def study_pixel_data(request: Request, context: Ctx, principal: Reader, study: str) -> Response:
    """The pixel data of a study."""
    return _all_bulk_data(request, context, principal, study, only_pixels=True)


@router.get("/studies/{study}/series/{series}/pixeldata")
def series_pixel_data(request: Request, context: Ctx, principal: Reader, study: str, series: str) -> Response:
    """The pixel data of a series."""
    return _all_bulk_data(request, context, principal, study, series, only_pixels=True)


@router.get("/studies/{study}/series/{series}/instances/{instance}/pixeldata")
def instance_pixel_data(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str
) -> Response:
    """The pixel data of an instance."""
    return _all_bulk_data(request, context, principal, study, series, instance, only_pixels=True)
