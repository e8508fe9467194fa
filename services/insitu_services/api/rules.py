"""Routing rules: the ones in force, their versions, trying them out, and why a series was routed as it was.

Not here: what rules may say (insitu.routing.model).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from insitu.archive import index
from insitu.audit import trail
from insitu.database import Connection, Row
from insitu.errors import Invalid, NotFound
from insitu.projects.permissions import Action, Principal, Resource, authorize, visible_projects
from insitu.routing import apply, store, text
from insitu.routing import replay as dry
from insitu.routing.facts import Facts
from insitu.routing.model import RuleSet

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1", tags=["rules"])
RuleReader = Annotated[Principal, Depends(requires(Action.RULE_READ))]
RuleChanger = Annotated[Principal, Depends(requires(Action.RULE_CHANGE))]
ImageReader = Annotated[Principal, Depends(requires(Action.IMAGE_READ))]


class Trial(BaseModel):
    """What to try rules on: facts, or a series of the archive. Without `rules`, those in force are tried."""

    model_config = ConfigDict(extra="forbid")

    facts: Facts | None = None
    series: str | None = Field(None, description="Series Instance UID.")
    rules: str | None = Field(None, description="A rule set as YAML or JSON.")


class DryRun(BaseModel):
    """Which rules to run over the archive's history. Without `rules`, those in force."""

    model_config = ConfigDict(extra="forbid")

    rules: str | None = Field(None, description="A rule set as YAML or JSON.")
    limit: int = Field(10_000, ge=1, le=1_000_000, description="At most so many series, the newest first.")


async def body_text(request: Request) -> str:
    """The request's body as text, of at most the size a rule set can have."""
    received = bytearray()
    async for part in request.stream():
        received += part
        if len(received) > 4 * text.LARGEST:
            raise Invalid("The rule set is too large", value=f"more than {4 * text.LARGEST} bytes")
    try:
        return received.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid("The rule set is not UTF-8 text", why=error.reason) from error


def _described(row: Row | None, version: int | None, rules: RuleSet) -> dict[str, Any]:
    return {
        "version": version,
        "created_at": row["created_at"].isoformat() if row else None,
        "created_by": row["created_by"] if row else None,
        "rule_set": rules.model_dump(mode="json"),
        "yaml": text.dump(rules),
    }


def _series(connection: Connection, principal: Principal, uid: str) -> Row:
    found = index.find_series(connection, uid, visible_projects(principal, Action.IMAGE_READ))
    if found is None:
        raise NotFound("There is no such series", value=uid)
    return dict(found)


@router.get("/rules")
def show(principal: RuleReader, context: Ctx) -> dict[str, Any]:
    """The rules in force."""
    authorize(principal, Action.RULE_READ)
    with context.database.transaction() as connection:
        version, rules = store.current(connection)
        row = store.get(connection, version)[0] if version is not None else None
        return _described(row, version, rules)


@router.get("/rules/versions")
def versions(principal: RuleReader, context: Ctx) -> dict[str, Any]:
    """All versions that were ever in force."""
    authorize(principal, Action.RULE_READ)
    with context.database.transaction() as connection:
        return {"versions": store.history(connection)}


@router.get("/rules/versions/{version}")
def show_version(version: int, principal: RuleReader, context: Ctx) -> dict[str, Any]:
    """One version."""
    authorize(principal, Action.RULE_READ)
    with context.database.transaction() as connection:
        row, rules = store.get(connection, version)
        return _described(row, version, rules)


@router.put("/rules", openapi_extra={"requestBody": {"content": {"application/yaml": {}, "application/json": {}}}})
def save(principal: RuleChanger, context: Ctx, body: Annotated[str, Depends(body_text)]) -> dict[str, Any]:
    """Put a rule set (YAML or JSON) in force as a new version."""
    authorize(principal, Action.RULE_CHANGE)
    rules = text.load(body)
    with context.database.transaction() as connection:
        version = store.save(connection, rules, principal.name)
        trail.record(
            connection, principal.name, "rule-change", "rules", str(version), detail={"rules": len(rules.rules)}
        )  # fmt: skip
    return {"version": version, "rules": len(rules.rules)}


@router.post("/rules/test")
def try_rules(trial: Trial, principal: RuleReader, context: Ctx) -> dict[str, Any]:
    """Decide on facts or on a series, and explain every step. Nothing is changed."""
    authorize(principal, Action.RULE_READ)
    if (trial.facts is None) == (trial.series is None):
        raise Invalid("Name either facts or a series to try the rules on")
    with context.database.transaction() as connection:
        version, rules = store.current(connection)
        if trial.rules is not None:
            version, rules = None, text.load(trial.rules)
        facts = trial.facts
        if facts is None:
            series = _series(connection, principal, trial.series or "")
            facts = apply.gather(connection, context.settings, series["id"], max(1, series["revision"]))
        decision = apply.evaluate_series(connection, context.settings, rules, facts, version=version)
    return {"decision": decision.model_dump(mode="json")}


@router.post("/rules/replay")
def replay(request: DryRun, principal: RuleReader, context: Ctx) -> dict[str, Any]:
    """What rules would do with the series in the archive. Nothing is changed."""
    authorize(principal, Action.RULE_READ)
    with context.database.transaction() as connection:
        rules = store.current(connection)[1] if request.rules is None else text.load(request.rules)
        return dry.replay(connection, context.settings, rules, limit=request.limit).model_dump(mode="json")


@router.get("/series/{series_instance_uid}/routing")
def explain(
    series_instance_uid: str, principal: ImageReader, context: Ctx, revision: Annotated[int | None, Query(ge=1)] = None
) -> dict[str, Any]:
    """Why a series was routed as it was: the decisions that were kept, the newest revision first."""
    with context.database.transaction() as connection:
        series = _series(connection, principal, series_instance_uid)
        rows = connection.execute("SELECT project FROM series_project WHERE series = %s", (series["id"],)).fetchall()
        projects = frozenset(row["project"] for row in rows)
        authorize(
            principal, Action.IMAGE_READ, Resource(kind="series", id=series_instance_uid, projects=projects)
        )  # fmt: skip
        kept = apply.explain(connection, series["id"])
        kept = [item for item in kept if revision is None or item["revision"] == revision]
    visible = visible_projects(principal, Action.IMAGE_READ)
    return {
        "series_instance_uid": series_instance_uid,
        "decisions": [item if visible is None else _visible_part(item, visible) for item in kept],
    }


def _visible_part(item: dict[str, Any], visible: frozenset[str]) -> dict[str, Any]:
    """A kept decision as far as it concerns the caller's projects: other rules and projects are the site's matter."""
    decision = item["decision"]
    runs = [run for run in decision["runs"] if run["project"] in visible]
    rules = {run["rule"] for run in runs}
    trace = [
        {**step, "projects": [project for project in step["projects"] if project in visible], "notes": []}
        for step in decision["trace"]
        if step["outcome"] == "matched" and (step["rule"] in rules or visible & set(step["projects"]))
    ]
    named = {step["rule"] for step in trace}
    kept = {
        name: [
            answer for answer in decision[name] if answer["rule"] in named and answer.get("project") in (None, *visible)
        ]
        for name in ("sends", "requests", "transfers")
        if name in decision
    }
    shown = {
        **decision,
        **kept,
        "projects": [project for project in decision["projects"] if project in visible],
        "datasets": [dataset for dataset in decision["datasets"] if dataset["project"] in visible],
        "runs": runs,
        "trace": trace,
    }
    return {**item, "decision": shown}
