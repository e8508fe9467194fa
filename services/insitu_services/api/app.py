"""The FastAPI application: every router in one place."""

from __future__ import annotations

from fastapi import FastAPI

from . import problems
from .context import Context
from .dicomweb.router import router as dicomweb


def create_app(context: Context) -> FastAPI:
    """The application over `context`. Routers are listed here and nowhere else."""
    app = FastAPI(title="Insitu", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json")
    app.state.context = context
    problems.install(app)
    app.include_router(dicomweb)
    return app
