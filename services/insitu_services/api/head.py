"""HEAD of every DICOMweb resource (RFC 9110 9.3.2): the route of GET answers, and its body is not made.

Not here: what the answers are.
"""

from __future__ import annotations

from fastapi.responses import StreamingResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ONLY_HEAD = "insitu.head"  # of the scope: the body is not wanted


class Head:
    """ASGI middleware that asks the routes of GET about HEAD.

    Parameters
    ----------
    app : ASGIApp
    begin : str
        Of the paths it is for.
    """

    def __init__(self, app: ASGIApp, begin: str) -> None:
        self._app = app
        self._begin = begin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, HEAD as a GET without a body."""
        if scope["type"] != "http" or not scope["path"].startswith(self._begin):
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 405:
                headers = MutableHeaders(scope=message)
                headers["Allow"] = headers.get("Allow", "").replace("GET", "GET, HEAD")
            await send(message)  # the server leaves the body of an answer to HEAD out

        if scope["method"] != "HEAD":
            await self._app(scope, receive, answer)
            return
        inner = {**scope, "method": "GET", ONLY_HEAD: True}  # the server goes on to see HEAD
        try:
            await self._app(inner, receive, answer)
        finally:
            scope.update({key: value for key, value in inner.items() if key != "method"})  # the route, for the log


class Streamed(StreamingResponse):
    """A streamed answer, of which HEAD gets the headers without its pieces being made."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if not scope.get(ONLY_HEAD):
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
