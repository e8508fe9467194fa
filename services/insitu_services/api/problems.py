"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from insitu.errors import InsituError, Invalid

logger = logging.getLogger(__name__)


def problem(error: InsituError) -> JSONResponse:
    """The response for an error raised on purpose."""
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse(error.problem(), status_code=error.status, media_type="application/problem+json", headers=headers)


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""

    @app.exception_handler(InsituError)
    def on_insitu_error(request: Request, error: InsituError) -> JSONResponse:
        return problem(error)

    @app.exception_handler(RequestValidationError)
    def on_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem(Invalid(f"The request's {where} is not usable", why=str(first["msg"])))

    @app.exception_handler(Exception)
    def on_other_error(request: Request, error: Exception) -> JSONResponse:
        logger.exception("unexpected error in %s %s", request.method, request.scope.get("route"))
        return problem(InsituError("The server made a mistake", remedy="The log of the api process has the details"))
