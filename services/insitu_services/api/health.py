"""Whether this process lives, how every component is, and the metrics.

Not here: how a component is found to be (insitu.health), and the processes of the whole platform (`insitu status`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from insitu.health import Component, Health, worst
from insitu.projects.permissions import Action, Principal, authorize

from .access import requires
from .problems import RETRY_AFTER

alive = APIRouter(tags=["health"])
router = APIRouter(tags=["health"])
StatusReader = Annotated[Principal, Depends(requires(Action.PLATFORM_STATUS))]

# Of their own: while the database is silent, requests that wait for it may hold every other thread.
_ASKING = ThreadPoolExecutor(1, thread_name_prefix="health")
VALUES = {"ok": 1.0, "degraded": 0.5, "away": 0.0}


@alive.get("/healthz")
async def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


router.include_router(alive)


@router.get("/readyz")
async def readyz(request: Request, response: Response) -> dict[str, Any]:
    """Every component in a sentence; 503 where objects cannot be stored. Never waits longer than some seconds."""
    health: Health = request.app.state.health
    components = await asyncio.get_running_loop().run_in_executor(_ASKING, health.look)
    status = worst(components)
    if status == "away":
        response.status_code = 503
        response.headers["Retry-After"] = RETRY_AFTER
    return {"status": status, "components": {name: asdict(component) for name, component in components.items()}}


@router.get("/metrics")
def metrics(request: Request, principal: StatusReader) -> Response:
    """Counters and the states of the components in Prometheus' text format."""
    authorize(principal, Action.PLATFORM_STATUS)
    registry: CollectorRegistry = request.app.state.metrics
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class ComponentMetrics(Collector):
    """The components as gauges: `insitu_component_up` for each, and `insitu_COMPONENT_FACT` for what is known in numbers."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: to register must not ask anybody."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """What there is now."""
        components = self._health.look()
        up = GaugeMetricFamily(
            "insitu_component_up", "1: ok, 0.5: degraded, the others go on, 0: away, nothing can be stored.",
            labels=("component",),
        )  # fmt: skip
        for name, component in components.items():
            up.add_metric((name,), VALUES[component.state])
        yield up
        for name, component in components.items():
            yield from _facts(name, component)


def _facts(name: str, component: Component) -> Iterable[Metric]:
    for fact, value in component.facts.items():
        words = fact.replace("_", " ")
        yield GaugeMetricFamily(
            f"insitu_{name.replace(' ', '_')}_{fact}", f"{name.capitalize()}: {words}.", value=value
        )
