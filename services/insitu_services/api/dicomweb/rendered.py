"""Images for the eye: rendered instances and frames, and thumbnails (PS3.18 10.4.1.1.3 and 10.4.1.1.4), as JPEG, PNG or GIF.

Not here: frames as data (wado, frames).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from PIL import Image
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import EncapsulatedPDFStorage, SegmentationStorage

from insitu.archive.blobs import BlobStore
from insitu.database import Row
from insitu.dicom.syntaxes import VIDEO
from insitu.errors import NotFound
from insitu.projects.permissions import Action, Principal

from ... import bulkdata, frames
from ..access import requires
from ..context import Context, Ctx
from ..head import Streamed
from . import multipart
from .answers import instance_url
from .negotiation import BadRequest, NotAcceptable, Offer, choose
from .resource import accept_of, base_url, instances
from .wado import frame_numbers

router = APIRouter(tags=["dicomweb"])
Reader = Annotated[Principal, Depends(requires(Action.IMAGE_READ))]

THUMBNAIL = 128  # pixels of the longer side
_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
GIF = "image/gif"
LARGEST_ANIMATION = 256 << 20  # bytes of its pixels
FRAME_TIME = 0x00181063  # milliseconds
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/gif": "GIF"}
_ANNOTATIONS = ("patient", "technique")

Region = tuple[float, float, float | None, float | None]


@dataclass(frozen=True)
class View:
    """How to render.

    Attributes
    ----------
    window : (float, float, str), optional
        Centre, width, function.
    size : (int, int), optional
        Width and height in pixels into which the image is fitted.
    region : (float, float, float or None, float or None), optional
        Left, top, width, height of what is shown, in pixels of the frame; None reaches to the edge, a negative one flips.
    quality : int
        Of JPEG, in percent.
    warnings : tuple of str
        What was not done as asked.
    """

    window: tuple[float, float, str] | None = None
    size: tuple[int, int] | None = None
    region: Region | None = None
    quality: int = 90
    warnings: tuple[str, ...] = ()


def parse_view(parameters: Mapping[str, str], *, thumbnail: bool = False) -> View:
    """Read `window`, `viewport`, `quality` and `annotation` (PS3.18 8.3.5); others are ignored with a warning (8.3).

    Raises
    ------
    BadRequest
        A value cannot be meant.
    """
    window, size, region, quality = None, None, None, 90
    warnings = []
    for name, value in parameters.items():
        if name == "window":
            window = _window(value)
        elif name == "viewport":
            size, region = _viewport(value)
            if thumbnail and region is not None:
                raise BadRequest("The viewport of a thumbnail is WIDTH,HEIGHT", value=value[:100])
        elif name == "quality":
            if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 100):
                raise BadRequest("quality is a whole number from 1 to 100", value=value[:100])
            quality = int(value)
        elif name == "annotation":
            if not set(value.split(",")) <= set(_ANNOTATIONS):
                raise BadRequest("annotation is patient or technique", value=value[:100])
            warnings.append(f"The following annotation values are not supported: {value}")
        elif name not in ("accept", "charset"):
            warnings.append("A parameter that is not supported was ignored")
    return View(window, size, region, quality, tuple(dict.fromkeys(warnings)))


def _viewport(value: str) -> tuple[tuple[int, int], Region | None]:
    """`WIDTH,HEIGHT[,LEFT,TOP,WIDTH,HEIGHT]`; of the region each may be left out (PS3.18 8.3.5.1.3)."""
    parts = value.split(",")
    refused = BadRequest(
        "viewport is WIDTH,HEIGHT and perhaps a region LEFT,TOP,WIDTH,HEIGHT, in pixels, at most 8192",
        value=value[:100],
    )
    if not 2 <= len(parts) <= 6 or not all(n.isascii() and n.isdigit() and 0 < int(n) <= 8192 for n in parts[:2]):
        raise refused
    size = int(parts[0]), int(parts[1])
    if len(parts) == 2:
        return size, None
    try:
        left, top, width, height = (float(part) if part else None for part in (parts[2:] + [""] * 4)[:4])
    except ValueError as error:
        raise refused from error
    numbers = (abs(left or 0.0), abs(top or 0.0), width, height)
    if not all(number is None or abs(number) < 1e6 for number in numbers) or 0.0 in (width, height):
        raise refused
    return size, numbers


def _window(value: str) -> tuple[float, float, str]:
    parts = value.split(",")
    refused = BadRequest(
        "window is CENTRE,WIDTH,FUNCTION",
        value=value[:100],
        remedy="For example 40,400,linear (or linear-exact, sigmoid)",
    )
    if len(parts) != 3:
        raise refused
    try:
        centre, width = float(parts[0]), float(parts[1])
    except ValueError as error:
        raise refused from error
    function = _FUNCTIONS.get(parts[2].lower().replace("_", "-"))
    if function is None or not np.isfinite(centre) or not 0 < width < 1e12 or (function == "LINEAR" and width < 1):
        raise refused
    return centre, width, function


def render(blobs: BlobStore, row: Row, number: int, view: View) -> Image.Image:
    """One frame as an 8-bit image: modality LUT, window or VOI LUT, presentation, colours.

    Raises
    ------
    NotFound
        The instance has no such frame.
    Undecodable, NotAcceptable
        No decoder takes its pixel data, or it is a video.
    """
    where = frames.layout(blobs, row)
    if where.transfer_syntax in VIDEO:
        raise NotAcceptable(
            "A video is not rendered",
            value=where.transfer_syntax,
            remedy="Ask for it as it is stored: transfer-syntax=*",
        )
    frames.check_numbers(where, [number])
    frame = next(iter(frames.stored(blobs, where, [number])))
    pixels = frames.decode(where, frame)
    syntax, offset = row["transfer_syntax_uid"], row["dataset_offset"]
    with frames.source(blobs, row["blob_key"], syntax, offset) as stream:
        dataset = frames.header(stream, syntax, offset)
    photometric = str(where.description.get("PhotometricInterpretation", "MONOCHROME2"))
    if photometric == "PALETTE COLOR":
        image = Image.fromarray(_eight_bits(apply_color_lut(pixels, dataset)))
    elif pixels.ndim == 3:
        image = Image.fromarray(_eight_bits(pixels))
    else:
        image = Image.fromarray(_grey(pixels, dataset, number, view, inverted=photometric == "MONOCHROME1"))
    return image if view.size is None else _fitted(image, view.size, view.region or (0.0, 0.0, None, None))


def _fitted(image: Image.Image, size: tuple[int, int], region: Region) -> Image.Image:
    """The region as large as fits, undistorted.

    Raises
    ------
    BadRequest
        The region is outside of the image.
    """
    left, top, width, height = region
    right = image.width if width is None else min(left + abs(width), image.width)
    bottom = image.height if height is None else min(top + abs(height), image.height)
    if left >= right or top >= bottom:
        raise BadRequest(
            "The region of the viewport is outside of the image",
            value=f"{left:g},{top:g}",
            why=f"the image has {image.width} x {image.height} pixels",
        )
    scale = min(size[0] / (right - left), size[1] / (bottom - top))
    wanted = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    image = image.resize(wanted, box=(left, top, right, bottom))
    if width is not None and width < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if height is not None and height < 0:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image


def _eight_bits(colours: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (colours >> 8).astype(np.uint8) if colours.dtype.itemsize == 2 else colours.astype(np.uint8)


def _grey(
    pixels: np.ndarray[Any, Any], dataset: Dataset, number: int, view: View, *, inverted: bool
) -> np.ndarray[Any, Any]:
    attributes = _of_frame(dataset, number)
    values = apply_modality_lut(pixels, attributes).astype(np.float64)
    window = view.window or _stored_window(attributes)
    if view.window is None and "VOILUTSequence" in attributes:
        highest = float(2 ** int(attributes.VOILUTSequence[0].LUTDescriptor[2]) - 1)
        share = apply_voi_lut(values.astype(np.int64), attributes).astype(np.float64) / highest
    elif window is not None:
        share = windowed(values, *window)
    else:
        padding = dataset.get("PixelPaddingValue")
        inside = values[pixels != padding] if isinstance(padding, int) else values
        inside = inside if inside.size else values
        low, high = float(inside.min()), float(inside.max())
        share = (values - low) / ((high - low) or 1.0)
    grey: np.ndarray[Any, Any] = np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return 255 - grey if inverted else grey


def windowed(values: np.ndarray[Any, Any], centre: float, width: float, function: str) -> np.ndarray[Any, Any]:
    """Values through a window, 0 to 1 inside it (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def _stored_window(attributes: Dataset) -> tuple[float, float, str] | None:
    """The first window the object asks for."""
    ends = []
    for keyword in ("WindowCenter", "WindowWidth"):
        value = attributes.get(keyword)
        ends.append(next(iter(value), None) if isinstance(value, MultiValue) else value)
    centre, width = ends
    if centre is None or width is None or not float(width) > 0:
        return None
    function = str(attributes.get("VOILUTFunction") or "LINEAR")
    return float(centre), float(width), function if function in _FUNCTIONS.values() else "LINEAR"


def _of_frame(dataset: Dataset, number: int) -> Dataset:
    """The attributes of grey values that hold for a frame: from the functional groups where there are any (PS3.3 C.7.6.16)."""
    found = Dataset()
    sources = [dataset]
    for keyword, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", number - 1)):
        groups = dataset.get(keyword) or []
        if index < len(groups):
            for inner in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                if groups[index].get(inner):
                    sources.append(groups[index].get(inner)[0])
    for source in sources:
        for keyword in (
            "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
            "VOILUTSequence", "BitsStored", "BitsAllocated", "PixelRepresentation",
        ):  # fmt: skip
            if keyword in source and source[keyword].value not in (None, ""):
                found[keyword] = source[keyword]
    found.PhotometricInterpretation = "MONOCHROME2"  # inversion comes last, here
    for keyword, value in (("BitsStored", 16), ("BitsAllocated", 16), ("PixelRepresentation", 0)):
        if keyword not in found:
            setattr(found, keyword, value)
    return found


def encode(image: Image.Image, media_type: str, quality: int) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    options = {"quality": quality} if media_type == "image/jpeg" else {}
    image.save(buffer, _FORMATS[media_type], **options)
    return buffer.getvalue()


def _media_type(request: Request) -> str:
    return choose(accept_of(request), [Offer(name, multipart=False) for name in _FORMATS]).media_type


def _rows(
    context: Context, principal: Principal, study: str, series: str | None = None, instance: str | None = None
) -> list[Row]:
    with context.database.transaction() as connection:
        return instances(connection, principal, study, series, instance)


@router.get("/studies/{study}/series/{series}/instances/{instance}/rendered")
def rendered_instance(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str
) -> Response:
    """The instance as an image, of several frames the first one, or all as multipart or GIF; an encapsulated PDF as itself."""
    view = parse_view(dict(request.query_params))
    row = _rows(context, principal, study, series, instance)[0]
    if row["sop_class_uid"] == EncapsulatedPDFStorage:
        offer = choose(accept_of(request), [Offer("application/pdf", multipart=False)])
        document = bulkdata.value(context.archive.blobs, row, "00420011")
        return Streamed(document.chunks, media_type=offer.media_type)
    return _images(request, context, [(row, None)], view)


def _image(request: Request, content: bytes, media_type: str, view: View) -> Response:
    return Response(content, media_type=media_type, headers=_warnings(request, view))


def _warnings(request: Request, view: View) -> dict[str, str]:
    texts = [f'299 {base_url(request)}/dicom-web "{warning}"' for warning in view.warnings]
    return {"Warning": ", ".join(texts)} if texts else {}


@router.get("/studies/{study}/series/{series}/instances/{instance}/frames/{numbers}/rendered")
def rendered_frames(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str, numbers: str
) -> Response:
    """Frames as images: one as itself, several as multipart."""
    wanted, view = frame_numbers(numbers), parse_view(dict(request.query_params))
    row = _rows(context, principal, study, series, instance)[0]
    frames.check_numbers(frames.layout(context.archive.blobs, row), wanted)
    return _images(request, context, [(row, wanted)], view)


@router.get("/studies/{study}/series/{series}/rendered")
def rendered_series(request: Request, context: Ctx, principal: Reader, study: str, series: str) -> Response:
    """Every frame of a series as an image, in a multipart answer."""
    view = parse_view(dict(request.query_params))
    return _of_many(request, context, _rows(context, principal, study, series), view)


@router.get("/studies/{study}/rendered")
def rendered_study(request: Request, context: Ctx, principal: Reader, study: str) -> Response:
    """Every frame of a study as an image, in a multipart answer."""
    view = parse_view(dict(request.query_params))
    return _of_many(request, context, _rows(context, principal, study), view)


def _of_many(request: Request, context: Context, rows: list[Row], view: View) -> Response:
    images = [row for row in rows if row["image_rows"]]
    if not images:
        raise NotFound("There is no image to show", why="None of these instances has pixel data")
    return _images(request, context, [(row, None) for row in images], view)


def _images(request: Request, context: Context, wanted: list[tuple[Row, list[int] | None]], view: View) -> Response:
    """Frames of instances as images; None stands for all, and for the first where one single part is accepted.

    The first image is made before the answer begins, so that a mistake in the request is still answered as one. A later frame that
    cannot be decoded breaks the answer off.
    """
    blobs = context.archive.blobs
    alone = len(wanted) == 1 and (wanted[0][1] is None or len(wanted[0][1]) == 1)
    offers = [Offer(name, multipart=shape) for shape in ((False, True) if alone else (True,)) for name in _FORMATS]
    offer = choose(accept_of(request), offers)
    base = base_url(request)
    if alone and offer.media_type == GIF and not offer.multipart and wanted[0][1] is None:
        return _image(request, _animation(blobs, wanted[0][0], view), GIF, view)

    def pictures() -> Iterator[tuple[dict[str, str], list[bytes]]]:
        for row, numbers in wanted:
            for number in numbers or range(1, frames.layout(blobs, row).frames + 1):
                url = f"{instance_url(base, row)}/frames/{number}/rendered"
                image = encode(render(blobs, row, number, view), offer.media_type, view.quality)
                yield {"Content-Type": offer.media_type, "Content-Location": url}, [image]

    parts = pictures()
    first = next(parts)
    if not offer.multipart:
        return _image(request, first[1][0], offer.media_type, view)
    boundary = multipart.new_boundary()
    return Streamed(
        multipart.body(boundary, chain([first], parts)),
        media_type=multipart.content_type(offer.media_type, boundary),
        headers=_warnings(request, view),
    )


def _animation(blobs: BlobStore, row: Row, view: View) -> bytes:
    """Every frame of an instance in one GIF, at the pace the object asks for (PS3.18 8.7.4, multi-frame images).

    Raises
    ------
    NotAcceptable
        It would be too large.
    """
    where = frames.layout(blobs, row)
    if where.frames * where.frame_bits // 8 > LARGEST_ANIMATION and where.frames > 1:
        raise NotAcceptable(
            "This instance has too many frames for one GIF", value=str(where.frames),
            remedy='Ask for multipart/related; type="image/jpeg", or for /frames/N/rendered',
        )  # fmt: skip
    with frames.source(blobs, row["blob_key"], where.transfer_syntax, where.dataset_offset) as stream:
        pace = frames.header(stream, where.transfer_syntax, where.dataset_offset, [FRAME_TIME]).get("FrameTime")
    images = (render(blobs, row, number, view) for number in range(1, where.frames + 1))
    buffer = io.BytesIO()
    first = next(images)
    options = {"duration": max(20, int(pace or 100)), "loop": 0} if where.frames > 1 else {}
    first.save(buffer, "GIF", save_all=where.frames > 1, append_images=images, **options)
    return buffer.getvalue()


LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
SEGMENTATIONS = (SegmentationStorage, LABEL_MAP_SEGMENTATION)


def _thumbnail(request: Request, context: Context, rows: list[Row], number: int | None = None) -> Response:
    """The middle of the first series that has images, segmentations last."""
    media_type, view = _media_type(request), parse_view(dict(request.query_params), thumbnail=True)
    view = replace(view, size=view.size or (THUMBNAIL, THUMBNAIL))
    images = [row for row in rows if row["image_rows"]]
    if not images:
        raise NotFound("There is no image to show", why="None of these instances has pixel data")
    # What was acquired shows the study; a segmentation is mostly black.
    shown = next((row for row in images if row["sop_class_uid"] not in SEGMENTATIONS), images[0])
    first = [row for row in images if row["series"] == shown["series"]]
    row = first[len(first) // 2]
    chosen = number or (frames.layout(context.archive.blobs, row).frames + 1) // 2
    image = render(context.archive.blobs, row, chosen, view)
    return _image(request, encode(image, media_type, view.quality), media_type, view)


@router.get("/studies/{study}/thumbnail")
def study_thumbnail(request: Request, context: Ctx, principal: Reader, study: str) -> Response:
    """A small image of a study."""
    return _thumbnail(request, context, _rows(context, principal, study))


@router.get("/studies/{study}/series/{series}/thumbnail")
def series_thumbnail(request: Request, context: Ctx, principal: Reader, study: str, series: str) -> Response:
    """A small image of a series."""
    return _thumbnail(request, context, _rows(context, principal, study, series))


@router.get("/studies/{study}/series/{series}/instances/{instance}/thumbnail")
def instance_thumbnail(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str
) -> Response:
    """A small image of an instance."""
    return _thumbnail(request, context, _rows(context, principal, study, series, instance))


@router.get("/studies/{study}/series/{series}/instances/{instance}/frames/{number}/thumbnail")
def frame_thumbnail(
    request: Request, context: Ctx, principal: Reader, study: str, series: str, instance: str, number: str
) -> Response:
    """A small image of a frame."""
    return _thumbnail(request, context, _rows(context, principal, study, series, instance), frame_numbers(number)[0])
