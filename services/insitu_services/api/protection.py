"""What protects every answer and every body: security headers, and no large bodies from strangers.

Not here: who may do what (access). Limits of single bodies stand with the routers in `app`.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from insitu.errors import InsituError, Unauthenticated
from insitu.identity.authentication import SAFE_METHODS, authenticate

from .context import Context
from .observation import template
from .problems import problem

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


def install(app: FastAPI, context: Context) -> None:
    """Protect `app`: the middlewares below, and an answer without content for errors nobody expected."""
    app.add_middleware(NoLargeBodiesFromStrangers, context=context)
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


class NoLargeBodiesFromStrangers:
    """ASGI middleware that asks who sends a large body before anything reads it.

    The framework reads forms to the end before it asks a route's dependencies.
    """

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless a stranger sends a large body."""
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            request = Request(scope)
            length = request.headers.get("content-length", "")
            large = int(length) > STRANGERS_LIMIT if length.isdigit() else "transfer-encoding" in request.headers
            if large:
                refusal = await run_in_threadpool(self._refusal, request)
                if refusal is not None:
                    await problem(refusal)(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    def _refusal(self, request: Request) -> InsituError | None:
        try:
            principal = authenticate(
                self._context.database, self._context.settings, request.headers, request.cookies, request.method
            )
        except InsituError as error:
            return error
        if principal is None:
            return Unauthenticated("Log in first", remedy="Send a session cookie or `Authorization: Bearer TOKEN`")
        return None
