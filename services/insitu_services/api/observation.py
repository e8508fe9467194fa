"""What is noted of every request: one line in the log and two metrics, by the route's template.

Not here: the audit trail. Neither the path nor the query goes into the log: they can hold a patient's name or number.
"""

from __future__ import annotations

import logging
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("insitu.api.requests")

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every second by machines
BUCKETS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60)


class Observation:
    """ASGI middleware that times requests.

    Parameters
    ----------
    app : ASGIApp
    registry : CollectorRegistry
        Where the metrics go.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._count = Counter(
            "insitu_http_requests", "Requests answered.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "insitu_http_request_seconds", "Seconds until the answer's last byte.", ("route",),
            registry=registry, buckets=BUCKETS,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._note(scope, status, time.perf_counter() - begin)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = template(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._count.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if route in QUIET and status < 400:
            return
        logger.info(
            "%s %s %s", method, route, status or "no answer",
            extra={
                "fields": {
                    "method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1),
                    "principal": scope.get("state", {}).get("principal"),
                }
            },
        )  # fmt: skip


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def template(scope: Scope) -> str:
    """The template of the route that answered (`/api/v1/runs/{execution}`), or `(none)`. Never the path itself."""
    context = scope.get("fastapi", {}).get("effective_route_context")
    found = getattr(context, "path", None) or getattr(scope.get("route"), "path", None)
    return str(found) if found else "(none)"
