"""The pages: login, start page and OHIF, as files with their own content security policies.

Not here: what the pages ask for (the API, DICOMweb). Whoever is not logged in and asks for a page is sent to the login page.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Callable, Coroutine
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.routing import APIRoute

from insitu.errors import NotFound, Unauthenticated
from insitu.projects.permissions import Action, Principal, authorize

from .access import requires

ROOT = Path(__file__).resolve().parents[3]
PAGES = ROOT / "services" / "web"
VIEWER = ROOT / "build" / "viewer"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# OHIF sets styles in attributes, decodes in WebAssembly and workers, and compiles shader helpers with `new Function`.
# It may speak with this platform only.
VIEWER_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' 'wasm-unsafe-eval'; worker-src 'self' blob:;"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
    " connect-src 'self' data: blob:; media-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
mimetypes.add_type("application/wasm", ".wasm")
mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("font/woff2", ".woff2")


class PageRoute(APIRoute):
    """A route of pages: where a browser navigates without being logged in, it is sent to the login page and back."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with the redirect around it."""
        handler = super().get_route_handler()

        async def with_login(request: Request) -> Response:
            try:
                return await handler(request)
            except Unauthenticated:
                if "text/html" not in request.headers.get("accept", ""):
                    raise
                query = f"?{request.url.query}" if request.url.query else ""
                return RedirectResponse(f"/login?next={quote(request.url.path + query, safe='/')}", status_code=303)

        return with_login


router = APIRouter(tags=["pages"], route_class=PageRoute, include_in_schema=False)
Somebody = Annotated[Principal, Depends(requires(Action.SELF))]


@router.get("/login")
def login_page(request: Request) -> Response:
    """The login page, for everybody."""
    return _file(request, PAGES, "login.html", PAGE_POLICY)


@router.get("/static/{path:path}")
def static(request: Request, path: str) -> Response:
    """Style, scripts and picture of the login and start page, for everybody."""
    return _file(request, PAGES / "static", path, PAGE_POLICY)


@router.get("/")
def start_page(request: Request, principal: Somebody) -> Response:
    """Recent studies and runs."""
    authorize(principal, Action.SELF)
    return _file(request, PAGES, "start.html", PAGE_POLICY)


@router.get("/viewer")
def viewer_without_slash(principal: Somebody) -> Response:
    """To the viewer."""
    authorize(principal, Action.SELF)
    return RedirectResponse("/viewer/", status_code=308)


@router.get("/viewer/{path:path}")
def viewer(request: Request, principal: Somebody, path: str) -> Response:
    """A file of OHIF; for its own addresses, such as `viewer?StudyInstanceUIDs=`, its page."""
    authorize(principal, Action.SELF)
    if not any((VIEWER / name).is_file() for name in ("index.html", "index.html.gz")):
        return PlainTextResponse("The image viewer is not installed: run `make viewer`.\n", status_code=503)
    is_page = path in ("", "index.html") or "." not in path.rsplit("/", 1)[-1]
    return _file(request, VIEWER, "index.html" if is_page else path, VIEWER_POLICY)


def _file(request: Request, folder: Path, name: str, policy: str) -> Response:
    """A file below `folder`, compressed where the browser takes it and it lies there so, or 304 where it has not changed.

    A file may lie there compressed only, as in the image.
    """
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        compressed = path.with_name(path.name + ".gz")
        found = path.is_relative_to(root) and path.suffix != ".gz" and (path.is_file() or compressed.is_file())
    except (ValueError, OSError):  # a NUL or a name that is too long
        found = False
    if not found:
        raise NotFound("There is no such page")
    use_compressed = "gzip" in request.headers.get("accept-encoding", "") and compressed.is_file()
    source = compressed if use_compressed or not path.is_file() else path
    status = source.stat()
    etag = f'"{_content(source, status.st_mtime_ns, status.st_size)}{"-gz" if use_compressed else ""}"'
    headers = {
        "Content-Security-Policy": policy,
        "ETag": etag,
        "Cache-Control": "private, no-cache",  # kept, and asked for again each time: a 304 is cheap and never stale
        "Vary": "Accept-Encoding, Cookie",
    }
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    if use_compressed:
        headers["Content-Encoding"] = "gzip"
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if source == compressed and not use_compressed:
        return Response(gzip.decompress(source.read_bytes()), headers=headers, media_type=media_type)
    return FileResponse(source, headers=headers, media_type=media_type)


@lru_cache(maxsize=4096)
def _content(path: Path, changed_ns: int, size: int) -> str:
    """Digest of a file; not its time, which is the same in every version of an image."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
