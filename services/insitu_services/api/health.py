"""Whether this process lives and can work, component by component, and its metrics.

Not here: the processes of the whole platform (`insitu status`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import httpx
import psycopg
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from insitu.archive import reserve
from insitu.projects.permissions import Action, Principal, authorize
from insitu.settings import Settings

from .access import requires
from .context import Ctx

router = APIRouter(tags=["health"])
StatusReader = Annotated[Principal, Depends(requires(Action.PLATFORM_STATUS))]

ANSWER_SECONDS = 3.0
MOST_WAITING = 10_000  # events; more than a dispatcher that works leaves behind


@dataclass(frozen=True)
class Component:
    """How one part is: `state` is ok, degraded (others go on without it) or away (nothing can be stored)."""

    state: str
    says: str


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(context: Ctx, response: Response) -> dict[str, Any]:
    """Every component in a sentence; 503 where objects cannot be stored. Never waits longer than some seconds."""
    components = {
        **database(context.database.dsn),
        "disk": disk(context.settings),
        "airflow": airflow(context.settings),
    }
    states = {component.state for component in components.values()}
    status = "away" if "away" in states else "degraded" if "degraded" in states else "ok"
    if status == "away":
        response.status_code = 503
        response.headers["Retry-After"] = "30"
    return {"status": status, "components": {name: asdict(component) for name, component in components.items()}}


def database(dsn: str) -> dict[str, Component]:
    """The database, by a connection of its own so that nothing waits for the pool; and how much waits for the dispatcher."""
    try:
        with psycopg.connect(
            dsn, connect_timeout=round(ANSWER_SECONDS), options="-c statement_timeout=3000"
        ) as connection:
            row = connection.execute(
                "SELECT count(*) FROM (SELECT 1 FROM series_event LIMIT %s) AS event", (MOST_WAITING,)
            ).fetchone()
    except psycopg.OperationalError:
        away = "PostgreSQL does not answer: senders are told to try again later; it heals when PostgreSQL is back"
        return {
            "database": Component("away", away),
            "dispatcher": Component("degraded", "unknown without the database"),
        }
    waiting = int(row[0]) if row else 0
    dispatcher = (
        Component("degraded", f"{waiting} events or more wait: the dispatcher is away or slow; objects are stored")
        if waiting >= MOST_WAITING
        else Component("ok", f"{waiting} events wait")
    )
    return {"database": Component("ok", "answers"), "dispatcher": dispatcher}


def disk(settings: Settings) -> Component:
    """The disk of the blobs, against the reserve."""
    left = reserve.free(settings)
    says = f"{left / 1e9:.1f} GB free"
    if left < settings.disk_reserve:
        return Component(
            "away", f"{says}, less than the reserve (disk_reserve): no objects are taken until there is more"
        )
    if left < 2 * settings.disk_reserve:
        return Component("degraded", f"{says}: soon no objects are taken; free space on the disk of the home")
    return Component("ok", says)


def airflow(settings: Settings) -> Component:
    """Airflow's API; without it objects are stored and runs wait."""
    try:
        httpx.get(f"http://{settings.airflow_http}/api/v2/version", timeout=ANSWER_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return Component("degraded", "does not answer: objects are stored, runs wait until it is back")
    return Component("ok", "answers")


@router.get("/metrics")
def metrics(request: Request, principal: StatusReader) -> Response:
    """Counters in Prometheus' text format."""
    authorize(principal, Action.PLATFORM_STATUS)
    registry: CollectorRegistry = request.app.state.metrics
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
