"""WADO-RS: studies, series and instances as objects, as metadata, as frames and as bulk data (PS3.18 10.4).

Objects are sent as they are stored unless the client asks for explicit VR little endian. Not here: images for the eye (rendered).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import pydicom
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian

from insitu.archive.blobs import BlobStore
from insitu.archive.header import syntax_of
from insitu.audit import trail
from insitu.database import Row
from insitu.projects.permissions import Action, Principal

from ..access import requires
from ..context import Context, Ctx
from . import bulkdata, frames, multipart
from .answers import instance_url
from .documents import documents
from .negotiation import (
    EXPLICIT_LITTLE,
    FRAME_MEDIA_TYPES,
    IMPLICIT_LITTLE,
    NATIVE,
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
        syntax = _syntax(rows[0], accept_of(request), multiple=False)
        return StreamingResponse(
            _object(context.archive.blobs, rows[0], syntax),
            media_type=f"application/dicom; transfer-syntax={syntax}",
            headers={"Content-Location": instance_url(base, rows[0])},
        )
    syntaxes = [_syntax(row, accept_of(request), multiple=True) for row in rows]

    def parts() -> Iterator[tuple[dict[str, str], Iterable[bytes]]]:
        for row, syntax in zip(rows, syntaxes, strict=True):
            headers = {
                "Content-Type": f"application/dicom; transfer-syntax={syntax}",
                "Content-Location": instance_url(base, row),
            }
            yield headers, _object(context.archive.blobs, row, syntax)

    boundary = multipart.new_boundary()
    return StreamingResponse(
        multipart.body(boundary, parts()), media_type=multipart.content_type("application/dicom", boundary)
    )


def _syntax(row: Row, accept: str | None, *, multiple: bool) -> str:
    """The transfer syntax in which an instance is sent: the stored one where the client takes it."""
    stored = row["transfer_syntax_uid"]
    offers = [Offer("application/dicom", multiple, stored)]
    if stored != EXPLICIT_LITTLE and _transcodable(stored):
        offers.append(Offer("application/dicom", multiple, EXPLICIT_LITTLE))
    return choose(accept, offers).transfer_syntax or stored


def _transcodable(transfer_syntax: str) -> bool:
    if transfer_syntax in NATIVE:
        return True
    try:
        return bool(get_decoder(UID(transfer_syntax)).is_available)
    except NotImplementedError:
        return False


def _object(blobs: BlobStore, row: Row, transfer_syntax: str) -> Iterator[bytes]:
    with blobs.open(row["blob_key"]) as stream:
        if transfer_syntax == row["transfer_syntax_uid"]:
            while chunk := stream.read(CHUNK):
                yield chunk
            return
        dataset = pydicom.dcmread(stream)  # transcoding needs the whole object
        if row["transfer_syntax_uid"] in NATIVE:
            for item in list(
                dataset.iterall()
            ):  # values are read in the old encoding before they are written in the new
                if not syntax_of(row["transfer_syntax_uid"]).little and isinstance(item.value, bytes):
                    bits = int(dataset.get("BitsAllocated", 16)) if item.tag == frames.PIXEL_DATA else 0
                    item.value = bulkdata.little_endian(item.value, item.VR, bits)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        else:
            dataset.decompress(generate_instance_uid=False)
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True, force_encoding=True)
    yield buffer.getvalue()


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
    return StreamingResponse(documents(context.archive.blobs, rows, base_url(request)), media_type=media_type)


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
    offer = choose(accept_of(request), [Offer(name, shape) for name in names for shape in (True, False)])
    if not offer.multipart:
        return StreamingResponse(value.chunks, media_type=offer.media_type)
    boundary = multipart.new_boundary()
    url = f"{instance_url(base_url(request), row)}/bulkdata/{path}"
    stream = multipart.body(boundary, [({"Content-Type": offer.media_type, "Content-Location": url}, value.chunks)])
    return StreamingResponse(stream, media_type=multipart.content_type(offer.media_type, boundary))
