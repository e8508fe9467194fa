"""The FastAPI applications, of the api and of the run gateway: every router in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from prometheus_client import CollectorRegistry

from insitu.algorithms.package import LARGEST_PACKAGE
from insitu.health import Health
from insitu.projects.permissions import Action, Principal

from . import (
    accounts,
    algorithms,
    archive,
    audit,
    conflicts,
    engine,
    gateway,
    health,
    login,
    nodes,
    problems,
    projects,
    protection,
    quarantine,
    retrievals,
    rules,
    runs,
    series,
    transfers,
    viewer,
)
from .access import requires
from .context import Context
from .dicomweb.router import router as dicomweb
from .head import Head
from .observation import Observation

LARGEST_STORE = 1 << 40  # bytes of one STOW-RS request; it is streamed to the disk


def create_app(context: Context) -> FastAPI:
    """The application over `context`. Routers are listed here and nowhere else."""
    app = _framework(
        context,
        "Insitu",
        {
            "/dicom-web/": LARGEST_STORE,
            "/gateway/": context.settings.result_bytes,
            "/api/v1/algorithms": LARGEST_PACKAGE,
        },
    )
    app.include_router(dicomweb)  # first: routes are tried in their order, and these are asked for most
    for module in (
        health, login, accounts, projects, audit, series, runs, rules, engine, viewer, algorithms, gateway, quarantine,
        nodes, transfers, retrievals, archive, conflicts,
    ):  # fmt: skip
        app.include_router(module.router)

    @app.get("/api/v1/openapi.json", include_in_schema=False)
    def openapi(request: Request, principal: Annotated[Principal, Depends(requires(Action.SELF))]) -> dict[str, Any]:
        """The description of every route (OpenAPI 3.1), for everybody with an account."""
        document: dict[str, Any] = request.app.openapi()
        return document

    return app


def create_gateway(context: Context) -> FastAPI:
    """The run gateway alone: what the steps of a run reach, and nothing else of the platform."""
    app = _framework(context, "Insitu run gateway", {"/gateway/": context.settings.result_bytes})
    app.include_router(health.alive)  # not /readyz: algorithms reach this port
    app.include_router(gateway.router)
    return app


def _framework(context: Context, title: str, limits: Mapping[str, int]) -> FastAPI:
    """An application without routes: its context, its health and metrics, and what protects it."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = context
    app.state.metrics = CollectorRegistry()
    app.state.health = Health(context.settings, context.database.dsn, lambda: context.database.silent_at)
    app.state.metrics.register(health.ComponentMetrics(app.state.health))
    problems.install(app)
    app.add_middleware(Head, begin="/dicom-web")  # the first is the innermost
    protection.install(app, context, limits)
    app.add_middleware(Observation, registry=app.state.metrics)
    return app
