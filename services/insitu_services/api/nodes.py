"""The register of nodes, for the site admin: other PACS, workstations and DICOMweb servers.

Not here: what is sent to them (transfers) and fetched from them (retrievals).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from insitu.audit import trail
from insitu.errors import InsituError
from insitu.nodes import leases, registry
from insitu.nodes.registry import Node
from insitu.projects.permissions import Action, Principal, Resource, authorize
from insitu.routing import store
from insitu_services.peers import verify

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1/nodes", tags=["nodes"])
Manager = Annotated[Principal, Depends(requires(Action.NODE_MANAGE))]


class Description(BaseModel):
    """A node without its name; see insitu.nodes.registry.Node."""

    model_config = ConfigDict(extra="allow")


def _authorize(principal: Principal, name: str = "") -> None:
    authorize(principal, Action.NODE_MANAGE, Resource(kind="node", id=name))


def _shown(node: Node) -> dict[str, Any]:
    return node.model_dump(mode="json")


@router.get("")
def listed(principal: Manager, context: Ctx) -> dict[str, Any]:
    """All nodes by name."""
    _authorize(principal)
    with context.database.transaction() as connection:
        return {"nodes": [_shown(node) for node in registry.listed(connection)]}


@router.get("/{node}")
def show(node: str, principal: Manager, context: Ctx) -> dict[str, Any]:
    """One node."""
    _authorize(principal, node)
    with context.database.transaction() as connection:
        return _shown(registry.find(connection, node))


@router.put("/{node}")
def save(node: str, description: Description, principal: Manager, context: Ctx) -> dict[str, Any]:
    """Add a node, or describe one anew: what is left out gets its default."""
    _authorize(principal, node)
    described = registry.node_of({**description.model_dump(), "name": node})
    with context.database.transaction() as connection:
        if not described.callable_by_dimse and described.url is None:
            store.check_free(connection, node)
        made = registry.save(connection, described)
        trail.record(
            connection, principal.name, "node-add" if made else "node-change", "node", node,
            detail=described.model_dump(mode="json", exclude={"name"}, exclude_defaults=True),
        )  # fmt: skip
    return {**_shown(described), "made": made}


@router.delete("/{node}")
def remove(node: str, principal: Manager, context: Ctx) -> dict[str, Any]:
    """Take a node out of the register; what is queued for it is cancelled. 409 where a rule sends to it."""
    _authorize(principal, node)
    with context.database.transaction() as connection:
        store.check_free(connection, node)
        registry.remove(connection, node)
        cancelled = leases.abandon(connection, node, f"the node was removed by {principal.name}")
        trail.record(connection, principal.name, "node-remove", "node", node, detail={"cancelled": cancelled})
    return {"removed": node, "cancelled": cancelled}


@router.post("/{node}/echo")
def echo(node: str, principal: Manager, context: Ctx) -> dict[str, Any]:
    """Try the connection: C-ECHO, and a search on its DICOMweb service where it has one. 503 says why it fails."""
    _authorize(principal, node)
    with context.database.transaction() as connection:
        described = registry.find(connection, node)
        trail.record(connection, principal.name, "node-echo", "node", node)
    found: dict[str, Any] = {"name": node}
    failures: list[InsituError] = []
    for way, attempt in verify.ways(described):
        try:
            found[way] = {"seconds": round(attempt(described, context.settings), 3)}
        except InsituError as error:
            found[way] = {"error": str(error)}
            failures.append(error)
    if failures and len(failures) == len(found) - 1:
        raise failures[0]
    return found
