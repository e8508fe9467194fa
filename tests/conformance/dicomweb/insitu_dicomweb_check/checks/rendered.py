"""Rendered images and thumbnails (WADO-RS, PS3.18 8.3.5, 8.7.4, 10.4.1.1.3, 10.4.1.1.4)."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from .. import multipart, pictures
from ..check import MAY, MUST, SHOULD, Check, NotOffered, Skipped, add, check
from ..objects import COLUMNS, ROWS, WINDOW
from ..pictures import Picture
from ..visit import ABSENT, Visit, demand, said, status

JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"


def ask(visit: Visit, path: str, media: str = JPEG, **query: str) -> httpx.Response:
    """A request for a rendered image, made once."""
    key = f"{path} {media} {sorted(query.items())}"
    return visit.once(key, lambda: visit.server.get(path, media, query=list(query.items())))


def picture(response: httpx.Response, kind: str | None = None) -> Picture:
    """The image in an answer that must succeed; the first where they come as multipart."""
    status(response, 200)
    name = multipart.media_type(response.headers.get("content-type", ""))[0]
    content = response.content
    if name == "multipart/related":
        part = multipart.take_apart(response).parts[0]
        name, content = part.media_type, part.content
    found = pictures.read(content)
    demand(found.kind == name, f"Content-Type {name}, and the body is {found.kind}")
    demand(kind in (None, name), f"{name}, not {kind}")
    return found


def _ct(visit: Visit, media: str = JPEG, **query: str) -> httpx.Response:
    return ask(visit, f"{visit.samples.ct[0].path}/rendered", media, **query)


def _offered(visit: Visit) -> None:
    """Rendering is there at all.

    Raises
    ------
    Skipped
        It is not.
    """
    if _ct(visit).status_code != 200:
        raise Skipped("the instance is not rendered")


@check(
    "rendered.instance",
    MUST,
    "Table 10.3-2, Table 8.7.4-1 (default)",
    "A CT instance is rendered as image/jpeg",
    own=True,
)
def instance(visit: Visit) -> str:
    response = _ct(visit)
    if response.status_code in ABSENT:
        raise NotOffered(said(response))
    picture(response, JPEG)
    return said(response)


@check(
    "rendered.size",
    MUST,
    "8.3.5.1.3",
    "Without a viewport the image has the rows and columns of the instance",
    own=True,
)
def size(visit: Visit) -> str:
    _offered(visit)
    came = picture(_ct(visit))
    demand((came.width, came.height) == (COLUMNS, ROWS), f"{came.width} x {came.height}, not {COLUMNS} x {ROWS}")
    return f"{came.width} x {came.height}"


@check("rendered.baseline", MUST, "8.7.4", "A JPEG is baseline with 8 bits per channel", own=True)
def baseline(visit: Visit) -> str:
    _offered(visit)
    came = picture(_ct(visit), JPEG)
    demand(came.bits == 8 and came.process == "baseline", f"{came.process}, {came.bits} bits")
    return "it is"


@check(
    "rendered.png",
    MUST,
    "Table 8.7.4-1 (required)",
    "It is rendered as image/png with 8 bits per channel where that is accepted",
    own=True,
)
def png(visit: Visit) -> str:
    _offered(visit)
    response = _ct(visit, PNG)
    if response.status_code in (400, 406):
        raise NotOffered(said(response))
    came = picture(response, PNG)
    demand(came.bits <= 8, f"{came.bits} bits")
    return said(response)


@check("rendered.gif", MUST, "Table 8.7.4-1 (required)", "It is rendered as image/gif where that is accepted", own=True)
def gif(visit: Visit) -> str:
    _offered(visit)
    response = _ct(visit, GIF)
    if response.status_code in (400, 406):
        raise NotOffered(said(response))
    picture(response, GIF)
    return said(response)


@check("rendered.jp2", MAY, "Table 8.7.4-1 (optional)", "It is rendered as image/jp2 where that is accepted", own=True)
def jp2(visit: Visit) -> str:
    _offered(visit)
    response = _ct(visit, "image/jp2")
    status(response, 200, offered=(400, 406))
    kind = multipart.media_type(response.headers.get("content-type", ""))[0]
    if kind != "image/jp2":
        raise NotOffered(said(response))
    demand(response.content[4:8] == b"jP  ", "no JPEG 2000 file")
    return said(response)


@check("rendered.default", MUST, "8.7.7, Table 8.7.4-1", "With Accept: */* the default comes, image/jpeg", own=True)
def default(visit: Visit) -> str:
    _offered(visit)
    response = _ct(visit, "*/*")
    picture(response, JPEG)
    return said(response)


@check("rendered.any-image", MUST, "8.7.7", "With Accept: image/* an image comes", own=True)
def any_image(visit: Visit) -> str:
    _offered(visit)
    response = _ct(visit, "image/*")
    picture(response)
    return said(response)


@check("rendered.not-acceptable", MUST, "8.7.8.1, Table 8.7.3-1",
       "A rendered image asked for as audio/ogg is refused with 406, or comes as the default image/jpeg", own=True)  # fmt: skip
def not_acceptable(visit: Visit) -> str:
    _offered(visit)
    response = _ct(visit, "audio/ogg")
    if response.status_code == 406:
        return said(response)
    picture(response, JPEG)
    return said(response)


@check(
    "rendered.accept-parameter",
    MUST,
    "8.3.3.1, Table 10.4.1-5",
    "The query parameter accept chooses the media type: /rendered?accept=image/png",
    own=True,
)
def accept_parameter(visit: Visit) -> str:
    _offered(visit)
    if _ct(visit, PNG).status_code != 200:
        raise Skipped("there is only one media type")
    response = _ct(visit, "*/*", accept=PNG)
    picture(response, PNG)
    return said(response)


@check(
    "rendered.weights",
    MUST,
    "8.7.8.1, RFC 9110 12.4.2",
    "Of image/jpeg and image/png the one with the higher weight comes",
    own=True,
)
def weights(visit: Visit) -> str:
    _offered(visit)
    if _ct(visit, PNG).status_code != 200:
        raise Skipped("there is only one media type")
    for high, low in ((PNG, JPEG), (JPEG, PNG)):
        picture(_ct(visit, f"{low};q=0.3, {high};q=0.9"), high)
    return "it does"


def _rows(visit: Visit, **query: str) -> tuple[bytes, ...]:
    response = _ct(visit, PNG, **query)
    if response.status_code == 406:
        raise Skipped("the pixels are judged in a PNG, and there is none")
    came = picture(response, PNG)
    if not came.rows:
        raise Skipped(f"a PNG with {came.bits} bits")
    return came.rows


@check(
    "rendered.window",
    MUST,
    "8.3.5.1.4, Table 10.4.1-5",
    "window=155,10,linear splits the gradient in the middle: black left, white right",
    own=True,
)
def window(visit: Visit) -> str:
    _offered(visit)
    for row in _rows(visit, window=WINDOW):
        demand(max(row[: COLUMNS // 2 - 1]) <= 8 and min(row[COLUMNS // 2 + 1 :]) >= 247, f"pixels {row.hex(' ')[:60]}")
    return "it does"


@check("rendered.window-effect", MUST, "8.3.5.1.4", "Two windows give two different images", own=True)
def window_effect(visit: Visit) -> str:
    _offered(visit)
    first, second = _ct(visit, window=WINDOW), _ct(visit, window="40,2000,linear")
    picture(first)
    picture(second)
    demand(first.content != second.content, "the same image")
    return "they do"


def _refusal(name: str, level: str, paragraph: str, path: str, query: Mapping[str, str], expects: str) -> None:
    def ask_it(visit: Visit) -> str:
        _offered(visit)
        at = visit.samples.ct[0].path + path
        if path == "/thumbnail" and ask(visit, at).status_code != 200:
            raise Skipped("there is no thumbnail")
        return status(visit.server.get(at, JPEG, query=list(query.items())), 400)

    add(Check(name, MUST if level == "must" else SHOULD, paragraph, expects, ask_it, True, False))


for _name, _value, _what in (
    ("short", "155,10", "without its function"),
    ("words", "bright,10,linear", "whose centre is no number"),
    ("function", "155,10,cubic", "whose function is none of the three"),
    ("empty", "", "without a value"),
    ("width", "155,0,linear", "of width 0 (PS3.3 C.11.2.1.2 wants at least 1)"),
):
    _refusal(
        f"rendered.window-{_name}", "must", "8.3.5.1.4", "/rendered", {"window": _value},
        f"A window {_what} is refused with 400",
    )  # fmt: skip
for _name, _value, _what in (
    ("zero", "0,10", "of width 0"),
    ("words", "wide,high", "that is no numbers"),
    ("one", "64", "with a width only"),
    ("negative", "-10,10", "of negative width"),
):
    _refusal(
        f"rendered.viewport-{_name}", "must", "8.3.5.1.3", "/rendered", {"viewport": _value},
        f"A viewport {_what} is refused with 400",
    )  # fmt: skip
for _value in ("0", "101", "best"):
    _refusal(
        f"rendered.quality-{_value}", "must", "8.3.5.1.2", "/rendered", {"quality": _value},
        f"quality={_value} is refused with 400",
    )  # fmt: skip
_refusal(
    "thumbnail.region", "must", "8.3.5.1.3, 8.3.5.2", "/thumbnail", {"viewport": "10,10,0,0,5,5"},
    "A thumbnail's viewport with a region is refused with 400",
)  # fmt: skip


@check(
    "rendered.function-sigmoid", MUST, "8.3.5.1.4", "The functions linear-exact and sigmoid are understood", own=True
)
def functions(visit: Visit) -> str:
    _offered(visit)
    for function in ("linear-exact", "sigmoid"):
        picture(_ct(visit, window=f"155,200,{function}"))
    return "both are"


@check(
    "rendered.quality", MUST, "8.3.5.1.2, Table 10.4.1-5", "quality=10 gives no larger a JPEG than quality=95", own=True
)
def quality(visit: Visit) -> str:
    _offered(visit)
    low, high = _ct(visit, quality="10"), _ct(visit, quality="95")
    picture(low, JPEG)
    picture(high, JPEG)
    demand(len(low.content) <= len(high.content), f"{len(low.content)} bytes with 10, {len(high.content)} with 95")
    return f"{len(low.content)} and {len(high.content)} bytes"


def _viewport(name: str, value: str, width: int, height: int, expects: str) -> None:
    def ask_it(visit: Visit) -> str:
        _offered(visit)
        came = picture(_ct(visit, viewport=value))
        demand((came.width, came.height) == (width, height), f"{came.width} x {came.height}")
        return f"{came.width} x {came.height}"

    add(Check(name, MUST, "8.3.5.1.3, Table 10.4.1-5", expects, ask_it, True, False))


_viewport(
    "rendered.viewport-larger",
    "64,64",
    64,
    48,
    "viewport=64,64 gives an image of 32 x 24 as 64 x 48: as large as fits, undistorted",
)
_viewport("rendered.viewport-smaller", "16,100", 16, 12, "viewport=16,100 gives an image of 32 x 24 as 16 x 12")
_viewport(
    "rendered.viewport-region",
    "32,32,0,0,16,12",
    32,
    24,
    "viewport=32,32,0,0,16,12 gives the upper left quarter as 32 x 24",
)
_viewport("rendered.viewport-elided", "64,48,,,16,12", 64, 48, "viewport=64,48,,,16,12 takes missing values for 0")


@check(
    "rendered.viewport-content",
    MUST,
    "8.3.5.1.3",
    "The region of a viewport is what is shown: the left half of the gradient is black",
    own=True,
)
def viewport_content(visit: Visit) -> str:
    _offered(visit)
    rows = _rows(visit, window=WINDOW, viewport="32,32,0,0,14,12")
    demand(all(max(row) <= 8 for row in rows), f"pixels {rows[0].hex(' ')[:60]}")
    return "it is"


@check(
    "rendered.viewport-flip",
    MUST,
    "8.3.5.1.3",
    "A negative width of the region flips the image: white left, black right",
    own=True,
)
def viewport_flip(visit: Visit) -> str:
    _offered(visit)
    for row in _rows(visit, window=WINDOW, viewport=f"{COLUMNS},{ROWS},0,0,-{COLUMNS},{ROWS}"):
        demand(min(row[: COLUMNS // 2 - 1]) >= 247 and max(row[COLUMNS // 2 + 1 :]) <= 8, f"pixels {row.hex(' ')[:60]}")
    return "it does"


@check("rendered.annotation-wrong", MUST, "8.3.5.1.1",
       "annotation with a value that is no keyword is refused with 400, or ignored with a Warning", own=True)  # fmt: skip
def annotation_wrong(visit: Visit) -> str:
    _offered(visit)
    response = visit.server.get(f"{visit.samples.ct[0].path}/rendered", JPEG, query=[("annotation", "no keyword")])
    if response.status_code == 200:
        demand(response.headers.get("warning", "").startswith("299"), f"{said(response)} without a Warning")
        return "ignored, with a Warning"
    return status(response, 400)


@check(
    "rendered.frame",
    MUST,
    "Table 10.3-2",
    "A frame of a multi-frame object is rendered at /frames/{frame}/rendered",
    own=True,
)
def frame(visit: Visit) -> str:
    response = ask(visit, f"{visit.samples.multiframe.path}/frames/2/rendered")
    if response.status_code in ABSENT:
        raise NotOffered(said(response))
    came = picture(response)
    demand((came.width, came.height) == (COLUMNS, ROWS), f"{came.width} x {came.height}")
    return said(response)


@check(
    "rendered.frame-beyond", MUST, "Table 10.4.3-1", "A rendered frame beyond the last is answered with 404", own=True
)
def frame_beyond(visit: Visit) -> str:
    if ask(visit, f"{visit.samples.multiframe.path}/frames/2/rendered").status_code != 200:
        raise Skipped("frames are not rendered")
    return status(ask(visit, f"{visit.samples.multiframe.path}/frames/99/rendered"), 400, 404)


@check("rendered.compressed", MUST, "10.4.1.1.3", "An RLE compressed image is rendered", own=True)
def compressed(visit: Visit) -> str:
    _offered(visit)
    response = ask(visit, f"{visit.samples.rle.path}/rendered")
    picture(response)
    return said(response)


def _collection(name: str, level: str, expects: str) -> None:
    def ask_it(visit: Visit) -> str:
        _offered(visit)
        sample = visit.samples.ct[0]
        path = f"/studies/{sample.study}" + (f"/series/{sample.series}" if level == "series" else "")
        response = ask(visit, f"{path}/rendered", f'{JPEG}, multipart/related; type="{JPEG}"')
        if response.status_code in (*ABSENT, 400, 406):
            raise NotOffered(said(response))
        picture(response)
        return said(response)

    add(Check(name, MUST, "Table 10.3-2", expects, ask_it, True, False))


_collection("rendered.series", "series", "A series is rendered at .../series/{series}/rendered")
_collection("rendered.study", "study", "A study is rendered at /studies/{study}/rendered")


@check(
    "rendered.report", MUST, "Table 8.7.4-1 (Text: default)", "A structured report is rendered as text/html", own=True
)
def report(visit: Visit) -> str:
    response = ask(visit, f"{visit.samples.report.path}/rendered", "text/html")
    if response.status_code in (*ABSENT, 400, 406):
        raise NotOffered(said(response))
    status(response, 200)
    demand(multipart.media_type(response.headers.get("content-type", ""))[0] == "text/html", said(response))
    demand(b"conformance suite" in response.content, "without the text of the report")
    return said(response)


@check(
    "rendered.document",
    MAY,
    "Table 8.7.4-1 (Text: optional)",
    "An encapsulated PDF is rendered as application/pdf",
    own=True,
)
def document(visit: Visit) -> str:
    response = ask(visit, f"{visit.samples.document.path}/rendered", "application/pdf")
    if response.status_code in (*ABSENT, 400, 406):
        raise NotOffered(said(response))
    status(response, 200)
    demand(response.content.startswith(b"%PDF"), "no PDF")
    return said(response)


@check("rendered.unknown", MUST, "Table 10.4.3-1", "A rendered instance that does not exist is answered with 404")
def unknown(visit: Visit) -> str:
    return status(ask(visit, f"{visit.target().series_path}/instances/2.25.1/rendered"), 404)


@check("rendered.unknown-parameter", MUST, "8.3", "A query parameter the standard does not know is ignored", own=True)
def unknown_parameter(visit: Visit) -> str:
    _offered(visit)
    return status(_ct(visit, conformancesuite="1"), 200)


def _thumbnails(visit: Visit) -> dict[str, httpx.Response]:
    sample = visit.samples.ct[0]
    paths = {
        "study": f"/studies/{sample.study}",
        "series": f"/studies/{sample.study}/series/{sample.series}",
        "instance": sample.path,
        "frame": f"{sample.path}/frames/1",
    }
    return {name: ask(visit, f"{path}/thumbnail") for name, path in paths.items()}


@check(
    "thumbnail.all",
    MUST,
    "10.4.1.1.4",
    "A server that has thumbnails has them of studies, series, instances and frames",
    own=True,
)
def thumbnails(visit: Visit) -> str:
    found = _thumbnails(visit)
    if all(response.status_code in (*ABSENT, 400) for response in found.values()):
        raise NotOffered(", ".join(f"{name} {response.status_code}" for name, response in found.items()))
    for name, response in found.items():
        demand(response.status_code in (200, 302), f"{name}: {said(response)}")
    return "it has"


@check("thumbnail.image", MUST, "10.4.1.1.4", "A thumbnail is one image in a rendered media type", own=True)
def thumbnail_image(visit: Visit) -> str:
    response = _thumbnails(visit)["series"]
    if response.status_code in (*ABSENT, 400):
        raise NotOffered(said(response))
    status(response, 200)
    kind = multipart.media_type(response.headers.get("content-type", ""))[0]
    demand(kind != "multipart/related", said(response))
    picture(response)
    return said(response)


@check("thumbnail.viewport", MUST, "8.3.5.2", "A thumbnail fits into its viewport", own=True)
def thumbnail_viewport(visit: Visit) -> str:
    if _thumbnails(visit)["instance"].status_code != 200:
        raise NotOffered(said(_thumbnails(visit)["instance"]))
    came = picture(ask(visit, f"{visit.samples.ct[0].path}/thumbnail", viewport="16,16"))
    demand(came.width <= 16 and came.height <= 16, f"{came.width} x {came.height}")
    return f"{came.width} x {came.height}"
