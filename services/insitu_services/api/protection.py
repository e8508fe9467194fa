"""What protects every answer and every body: security headers, and no large bodies from strangers.

Not here: who may do what (access).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import psycopg
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from insitu.errors import InsituError, Unauthenticated
from insitu.identity.authentication import SAFE_METHODS, authenticate

from .context import Context
from .observation import template
from .problems import database_away, problem

logger = logging.getLogger(__name__)

# Answers that set one of these themselves (pages, images that may be cached) keep their own.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
STRANGERS_LIMIT = 65_536  # bytes
ORDINARY_LIMIT = 4 << 20  # bytes; JSON is held in memory


class TooLarge(InsituError):
    """The body is larger than its path takes."""

    status = 413
    slug = "too-large"

    def __init__(self, limit: int) -> None:
        super().__init__("The request's body is too large", why=f"at most {limit} bytes are taken here")

    def for_framework(self) -> HTTPException:
        """The one kind of error that the framework lets through while it reads a body."""
        return HTTPException(self.status, str(self))


def install(app: FastAPI, context: Context, limits: Mapping[str, int]) -> None:
    """Protect `app`: the middlewares below, and an answer without content for errors nobody expected."""
    app.add_middleware(Bodies, context=context, limits=limits)
    app.add_middleware(SecurityHeaders)

    @app.exception_handler(Exception)  # answers outside every middleware, so it sets the headers itself
    def on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error in %s %s", request.method, template(request.scope), exc_info=error)
        answer = problem(InsituError("The server made a mistake", remedy="The log of the api process has the details"))
        answer.headers.update(HEADERS)
        return answer


class SecurityHeaders:
    """ASGI middleware that adds the headers an answer does not have itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and add the headers to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, add)


class Bodies:
    """ASGI middleware that limits what a request may send, and asks who sends a large body before anything reads it.

    The framework reads forms to the end before it asks a route's dependencies.

    Parameters
    ----------
    app : ASGIApp
    context : Context
    limits : mapping
        Bytes by the begin of the path; other paths have `ORDINARY_LIMIT`.
    """

    def __init__(self, app: ASGIApp, context: Context, limits: Mapping[str, int]) -> None:
        self._app = app
        self._context = context
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless its body is too large for its path or for a stranger."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        text = request.headers.get("content-length", "")
        length = int(text) if text.isdigit() else None  # None: known only when it has come
        if length is None and "transfer-encoding" not in request.headers:
            length = 0
        if length is None or length > STRANGERS_LIMIT:
            refusal = await run_in_threadpool(self._refusal, request)
            if refusal is not None:
                await problem(refusal)(scope, receive, send)
                return
        limit = next((size for begin, size in self._limits.items() if scope["path"].startswith(begin)), ORDINARY_LIMIT)
        if length is not None and length > limit:
            await problem(TooLarge(limit))(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise TooLarge(limit).for_framework()
            return message

        await self._app(scope, counted, send)

    def _refusal(self, request: Request) -> InsituError | None:
        try:
            principal = authenticate(
                self._context.database, self._context.settings, request.headers, request.cookies, request.method
            )
        except InsituError as error:
            return error
        except psycopg.OperationalError:
            return database_away()
        if principal is None:
            return Unauthenticated("Log in first", remedy="Send a session cookie or `Authorization: Bearer TOKEN`")
        return None
