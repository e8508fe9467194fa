"""Errors as RFC 9457 problem documents.

Not here: the last resort for errors nobody expected (protection).
"""

from __future__ import annotations

import logging
from http import HTTPStatus

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from insitu.errors import InsituError, Invalid, Unavailable

from .observation import template

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "30"  # seconds; what is away for a moment is back by then


def problem(error: InsituError) -> JSONResponse:
    """The response for an error raised on purpose."""
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": RETRY_AFTER}}.get(error.status)
    return JSONResponse(error.problem(), status_code=error.status, media_type=MEDIA_TYPE, headers=headers)


def database_away() -> Unavailable:
    """What is said where PostgreSQL goes away in the middle of a request."""
    return Unavailable("The database does not answer", remedy="Try again in a moment")


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""

    @app.exception_handler(InsituError)
    def on_insitu_error(request: Request, error: InsituError) -> JSONResponse:
        if error.status >= 500:
            logger.warning("%s %s: %s", request.method, template(request.scope), error)
        return problem(error)

    @app.exception_handler(psycopg.OperationalError)
    def on_database_away(request: Request, error: psycopg.OperationalError) -> JSONResponse:
        logger.warning("%s %s: the database does not answer", request.method, template(request.scope))
        return problem(database_away())

    @app.exception_handler(RequestValidationError)
    def on_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem(Invalid(f"The request's {where} is not usable", why=str(first["msg"])))

    @app.exception_handler(HTTPException)
    def on_http_exception(request: Request, error: HTTPException) -> JSONResponse:
        title = HTTPStatus(error.status_code).phrase
        document = {"type": "about:blank", "title": title, "status": error.status_code, "detail": str(error.detail)}
        return JSONResponse(document, error.status_code, media_type=MEDIA_TYPE, headers=error.headers)
