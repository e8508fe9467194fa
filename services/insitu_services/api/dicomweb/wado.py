"""WADO-RS: studies, series and instances as objects, as metadata, as frames and as bulk data (PS3.18 10.4).

Objects are sent as they are stored unless the client asks for explicit VR little endian. Not here: images for the eye (rendered).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from insitu.archive.blobs import BlobStore
from insitu.archive.examine import file_meta
from insitu.audit import trail
from insitu.database import Row
from insitu.projects.permissions import Action, Principal

from ... import outgoing
from ..access import requires
from ..context import Context, Ctx
from ..problems import problem
from ..zerocopy import FilePart, Segment, SegmentResponse
from . import bulkdata, frames, multipart
from .answers import instance_url
from .documents import documents
from .negotiation import (
    EXPLICIT_LITTLE,
    FRAME_MEDIA_TYPES,
    IMPLICIT_LITTLE,
    BadRequest,
    Offer,
    choose,
    json_type,
    parse_accept,
)
from .resource import accept_of, base_url, instances

router = APIRouter(tags=["dicomweb"])
Reader = Annotated[Principal, Depends(requires(Action.IMAGE_READ))]
CHUNK = 1 << 20


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
) -> list[Row]:
    """The instances of the resource; that they were looked at or taken out is noted once."""
    with context.database.transaction() as connection:
        rows = instances(connection, principal, study, series, instance, with_metadata=action == "view")
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
    accepted = parse_accept(accept_of(request))
    base = base_url(request)
    single = next((a for a in accepted if not a.multipart and a.name == "application/dicom"), None)
    if single is not None and len(rows) == 1 and not any(a.multipart and a.quality >= single.quality for a in accepted):
        syntax = _syntax(rows[0]["transfer_syntax_uid"], accept_of(request), multiple=False)
        return StreamingResponse(
            _object(context.archive.blobs, rows[0], syntax),
            media_type=f"application/dicom; transfer-syntax={syntax}",
            headers={"Content-Location": instance_url(base, rows[0])},
        )
    stored = {row["transfer_syntax_uid"] for row in rows}
    syntaxes = {uid: _syntax(uid, accept_of(request), multiple=True) for uid in stored}
    boundary = multipart.new_boundary()
    heads = [
        multipart.part_head(
            boundary,
            {
                "Content-Type": f"application/dicom; transfer-syntax={syntaxes[row['transfer_syntax_uid']]}",
                "Content-Location": instance_url(base, row),
            },
            first=not number,
        )
        for number, row in enumerate(rows)
    ]

    kind = multipart.content_type("application/dicom", boundary)
    if all(syntaxes[uid] == uid for uid in stored):
        return SegmentResponse(
            _segments(context.archive.blobs, rows, heads, multipart.end(boundary)),
            sum(map(len, heads)) + sum(row["size"] for row in rows) + len(multipart.end(boundary)),
            media_type=kind,
        )

    def pieces() -> Iterator[bytes]:
        for head, row in zip(heads, rows, strict=True):
            yield head
            yield from _object(context.archive.blobs, row, syntaxes[row["transfer_syntax_uid"]])
        yield multipart.end(boundary)

    return StreamingResponse(multipart.gathered(pieces()), media_type=kind)


def _segments(blobs: BlobStore, rows: list[Row], heads: list[bytes], end: bytes) -> Iterator[Segment]:
    for head, row in zip(heads, rows, strict=True):
        yield head
        yield FilePart(functools.partial(blobs.open, row["blob_key"]), 0, row["size"])
    yield end


def _syntax(stored: str, accept: str | None, *, multiple: bool) -> str:
    """The transfer syntax in which an instance is sent: the stored one where the client takes it."""
    offers = [Offer("application/dicom", multiple, stored)]
    if stored != EXPLICIT_LITTLE and outgoing.can_be_sent_in(stored, EXPLICIT_LITTLE):
        offers.append(Offer("application/dicom", multiple, EXPLICIT_LITTLE))
    return choose(accept, offers).transfer_syntax or stored


def _object(blobs: BlobStore, row: Row, transfer_syntax: str) -> Iterator[bytes]:
    if transfer_syntax == row["transfer_syntax_uid"]:
        with blobs.open(row["blob_key"]) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
        return
    with outgoing.opened(blobs, row, transfer_syntax) as data_set:
        yield file_meta(transfer_syntax, row["sop_class_uid"], row["sop_instance_uid"], None)
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


def _metadata(request: Request, context: Context, rows: list[Row], media_type: str) -> Response:
    return StreamingResponse(
        multipart.gathered(documents(context.archive.blobs, rows, base_url(request))), media_type=media_type
    )


@router.get("/studies/{study}/metadata")
def study_metadata(request: Request, context: Ctx, principal: Reader, study: str) -> Response:
    """DICOM JSON of all instances of a study, without bulk data."""
    media_type = json_type(accept_of(request))
    return _metadata(request, context, _rows(context, principal, "view", study), media_type)


@router.get("/studies/{study}/series/{series}/metadata")
def series_metadata(request: Request, context: Ctx, principal: Reader, study: str, series: str) -> Response:
    """DICOM JSON of all instances of a series, without bulk data."""
    media_type = json_type(accept_of(request))
    return _metadata(request, context, _rows(context, principal, "view", study, series), media_type)


@router.get("/studies/{study}/series/{series}/instances/{instance}/metadata")
def instance_metadata(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str
) -> Response:
    """DICOM JSON of one instance, without bulk data."""
    media_type = json_type(accept_of(request))
    return _metadata(request, context, _rows(context, principal, "view", study, series, instance), media_type)


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
    """The representations there are of frames, ours first: as stored, then decoded."""
    octets = "application/octet-stream"
    offers = []
    if where.encapsulated:
        stored_type = FRAME_MEDIA_TYPES.get(where.transfer_syntax)
        for media_type in (stored_type, octets):
            if media_type:
                offers.append(FrameOffer(media_type, True, where.transfer_syntax))
                offers.append(FrameOffer(media_type, False, where.transfer_syntax))
        if frames.decodable(where):
            offers += [
                FrameOffer(octets, True, EXPLICIT_LITTLE, True),
                FrameOffer(octets, False, EXPLICIT_LITTLE, True),
            ]
    else:
        # the bytes of native frames are the same in implicit VR
        for syntax in (EXPLICIT_LITTLE, IMPLICIT_LITTLE):
            offers += [FrameOffer(octets, True, syntax), FrameOffer(octets, False, syntax)]
    return offers if count == 1 else [offer for offer in offers if offer.multipart]


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
    offer = choose(accept_of(request), frame_offers(where, len(wanted)), {"application/octet-stream": EXPLICIT_LITTLE})
    content = (frames.uncompressed if offer.decoded else frames.stored)(context.archive.blobs, where, wanted)
    part_type = f"{offer.media_type}; transfer-syntax={offer.transfer_syntax}"
    if not offer.multipart:
        return Response(next(iter(content)), media_type=part_type)
    url = instance_url(base_url(request), row)
    parts = (
        ({"Content-Type": part_type, "Content-Location": f"{url}/frames/{number}"}, [frame])
        for number, frame in zip(wanted, content, strict=True)
    )
    boundary = multipart.new_boundary()
    media_type = multipart.content_type(offer.media_type, boundary, offer.transfer_syntax)
    stream = multipart.body(boundary, parts)
    if len(wanted) == 1:  # an error while reading is still an error of the request
        return Response(b"".join(stream), media_type=media_type)
    return StreamingResponse(stream, media_type=media_type)


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
    names = dict.fromkeys((value.media_type, "application/octet-stream"))
    ranged = "range" in request.headers  # of a value alone, not of a multipart body
    shapes = (False, True) if ranged else (True, False)
    offer = choose(accept_of(request), [Offer(name, shape) for name in names for shape in shapes])
    if not offer.multipart:
        return _value(request, value, offer.media_type, f'"{row["digest"].hex()}"')
    boundary = multipart.new_boundary()
    url = f"{instance_url(base_url(request), row)}/bulkdata/{path}"
    stream = multipart.body(boundary, [({"Content-Type": offer.media_type, "Content-Location": url}, value.chunks)])
    return StreamingResponse(stream, media_type=multipart.content_type(offer.media_type, boundary))


def _value(request: Request, value: bulkdata.Value, media_type: str, tag: str) -> Response:
    """A value or a range of it (RFC 9110 13 and 14); the tag is that of the object, whose values never change."""
    headers = {"ETag": tag, "Accept-Ranges": "bytes"}
    known = [text.strip().removeprefix("W/") for text in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    whole = request.headers.get("if-range", tag) != tag  # the client holds bytes of another object
    try:
        found = None if whole else bulkdata.byte_range(request.headers.get("range"), value.length)
    except bulkdata.OutOfRange as error:
        response = problem(error)
        response.headers.update(headers | {"Content-Range": f"bytes */{value.length}"})
        return response
    begin, end = found or (0, value.length)
    headers["Content-Length"] = str(end - begin)
    if found:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{value.length}"
    return StreamingResponse(
        value.pieces(begin, end), status_code=206 if found else 200, media_type=media_type, headers=headers
    )
