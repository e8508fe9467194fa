"""Frames (WADO-RS, PS3.18 10.4.1.1): pixel data frame by frame, uncompressed and as stored."""

from __future__ import annotations

from .. import multipart
from ..check import MAY, MUST, SHOULD, NotOffered, check
from ..multipart import Body
from ..objects import Sample
from ..visit import Visit, demand, said, status

OCTETS = 'multipart/related; type="application/octet-stream"'


def _body(visit: Visit, sample: Sample, numbers: str, accept: str = OCTETS) -> Body:
    response = visit.server.get(f"{sample.path}/frames/{numbers}", accept)
    status(response, 200)
    return multipart.take_apart(response)


def _same(sample: Sample, body: Body, *numbers: int) -> str:
    demand(len(body.parts) == len(numbers), f"{len(body.parts)} parts, not {len(numbers)}")
    for part, number in zip(body.parts, numbers, strict=True):
        wanted = sample.frames[number - 1]
        demand(
            part.content == wanted, f"frame {number}: {len(part.content)} bytes, not the {len(wanted)} that were stored"
        )
    return f"{len(body.parts)} frames, as stored"


@check(
    "frames.one",
    MUST,
    "Table 10.3-2, 10.4.1.1.1",
    "Frame 1 of a single-frame image comes as its uncompressed pixels",
    own=True,
)
def one(visit: Visit) -> str:
    return _same(visit.samples.ct[0], _body(visit, visit.samples.ct[0], "1"), 1)


@check("frames.one-of-many", MUST, "Table 10.3-2", "A frame inside a multi-frame object comes alone", own=True)
def one_of_many(visit: Visit) -> str:
    return _same(visit.samples.multiframe, _body(visit, visit.samples.multiframe, "3"), 3)


@check("frames.list", MUST, "10.4.1.1.1", "A list of frames comes as one part for each", own=True)
def several(visit: Visit) -> str:
    return _same(visit.samples.multiframe, _body(visit, visit.samples.multiframe, "1,2,5"), 1, 2, 5)


@check("frames.order", SHOULD, "10.4.1.1.1", "The parts are in the order of the list", own=True)
def order(visit: Visit) -> str:
    return _same(visit.samples.multiframe, _body(visit, visit.samples.multiframe, "4,2"), 4, 2)


@check(
    "frames.part-type", MUST, "8.6.1.2, Table 8.7.3-4", "Each part has Content-Type application/octet-stream", own=True
)
def part_type(visit: Visit) -> str:
    kinds = {part.media_type for part in _body(visit, visit.samples.multiframe, "1,2").parts}
    demand(kinds == {"application/octet-stream"}, f"{kinds}")
    return "each has"


@check(
    "frames.part-location",
    SHOULD,
    "8.7.3.3.2 (note), Table 8.6.1-1",
    "The parts are told apart by Content-Location",
    own=True,
)
def part_location(visit: Visit) -> str:
    places = [part.headers.get("content-location") for part in _body(visit, visit.samples.multiframe, "1,2").parts]
    demand(all(places) and len(set(places)) == 2, f"{places}")
    return str(places[0])


@check(
    "frames.decompressed",
    MUST,
    "8.7.3.3",
    "A frame of an RLE compressed image comes uncompressed where no transfer syntax is named",
    own=True,
)
def decompressed(visit: Visit) -> str:
    return _same(visit.samples.rle, _body(visit, visit.samples.rle, "1"), 1)


@check(
    "frames.compressed",
    MAY,
    "Table 8.7.3-5",
    "A frame of an RLE compressed image comes as image/dicom-rle where that is accepted",
    own=True,
)
def compressed(visit: Visit) -> str:
    response = visit.server.get(f"{visit.samples.rle.path}/frames/1", 'multipart/related; type="image/dicom-rle"')
    if response.status_code in (400, 406):
        raise NotOffered(said(response))
    status(response, 200)
    part = multipart.take_apart(response).parts[0]
    demand(
        part.media_type == "image/dicom-rle" and part.content[0] == 2,
        f"{part.media_type}, {part.content[:1].hex()} segments",
    )
    return said(response)


@check("frames.anything", MUST, "8.7.7", "With Accept: */* a frame comes", own=True)
def anything(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.samples.ct[0].path}/frames/1", "*/*"), 200)


@check(
    "frames.single-part",
    MAY,
    "8.7.3.3.1",
    "One frame comes as a plain application/octet-stream body where that is accepted",
    own=True,
)
def single_part(visit: Visit) -> str:
    response = visit.server.get(f"{visit.samples.ct[0].path}/frames/1", "application/octet-stream")
    kind = multipart.media_type(response.headers.get("content-type", ""))[0]
    if response.status_code in (400, 406) or kind == "multipart/related":
        raise NotOffered(said(response))
    status(response, 200)
    demand(
        response.content == visit.samples.ct[0].frames[0], f"{len(response.content)} bytes, not those that were stored"
    )
    return said(response)


@check("frames.beyond", MUST, "Table 10.4.3-1", "A frame beyond the last is answered with 404", own=True)
def beyond(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.samples.multiframe.path}/frames/6", OCTETS), 404)


@check(
    "frames.beyond-in-list",
    MUST,
    "Table 10.4.3-1",
    "A list with a frame beyond the last is refused (404 or 400)",
    own=True,
)
def beyond_in_list(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.samples.multiframe.path}/frames/1,99", OCTETS), 400, 404)


@check("frames.zero", MUST, "Table 10.4.3-1", "Frame 0 is refused (400 or 404): frames count from 1", own=True)
def zero(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.samples.multiframe.path}/frames/0", OCTETS), 400, 404)


@check("frames.words", MUST, "Table 10.4.3-1", "A frame number that is none is refused (400 or 404)", own=True)
def words(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.samples.multiframe.path}/frames/first", OCTETS), 400, 404)


@check("frames.no-pixels", MUST, "Table 10.4.3-1", "A frame of an object without pixel data is refused (4xx)", own=True)
def no_pixels(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.samples.report.path}/frames/1", OCTETS), 400, 404, 406)


@check("frames.unknown", MUST, "Table 10.4.3-1", "A frame of an instance that does not exist is answered with 404")
def unknown(visit: Visit) -> str:
    return status(visit.server.get(f"{visit.target().series_path}/instances/2.25.1/frames/1", OCTETS), 404)
