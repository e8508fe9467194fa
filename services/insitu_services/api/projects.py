"""Projects, their members and the series they share.

Not here: images (dicomweb), runs (runs).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from insitu.archive import index, links
from insitu.audit import trail
from insitu.database import Connection
from insitu.errors import NotFound
from insitu.projects import projects
from insitu.projects.permissions import Action, Principal, Resource, Role, allowed, authorize, visible_projects

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1/projects", tags=["projects"])
Creator = Annotated[Principal, Depends(requires(Action.PROJECT_CREATE))]
Sharer = Annotated[Principal, Depends(requires(Action.PROJECT_SHARE))]
Reader = Annotated[Principal, Depends(requires(Action.PROJECT_READ))]
Lead = Annotated[Principal, Depends(requires(Action.PROJECT_MEMBERS))]
Storer = Annotated[Principal, Depends(requires(Action.IMAGE_STORE))]


class NewProject(BaseModel):
    """A project to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str = Field("", max_length=200)


class ShareChange(BaseModel):
    """A change of what a project may use of the site; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    weight: float | None = Field(None, description="Of its runs beside those of other projects; 1 by default.")
    runs_at_once: int | None = Field(None, description="Inference runs of it at once; null: no limit of its own.")


class Membership(BaseModel):
    """A role in a project."""

    model_config = ConfigDict(extra="forbid")

    role: Role


def ask(principal: Principal, action: Action, project: str) -> None:
    """Return if the principal may do it in the project.

    Raises
    ------
    NotFound
        The principal may not know of the project.
    Forbidden
        It may know of it, but not do this.
    """
    resource = Resource(kind="project", id=project, projects=frozenset({project}))
    if not allowed(principal, Action.PROJECT_READ, resource):
        raise NotFound("There is no such project", value=project, remedy="List them: insitu project list")
    authorize(principal, action, resource)


@router.get("")
def list_projects(principal: Reader, context: Ctx) -> dict[str, Any]:
    """The projects the caller belongs to; all for a site admin."""
    with context.database.transaction() as connection:
        return {"projects": projects.visible(connection, visible_projects(principal, Action.PROJECT_READ))}


@router.post("", status_code=201)
def create_project(principal: Creator, context: Ctx, project: NewProject) -> dict[str, Any]:
    """Make a project. It has no members yet."""
    authorize(principal, Action.PROJECT_CREATE)
    with context.database.transaction() as connection:
        projects.create(connection, project.name, project.title)
        trail.record(connection, principal.name, "project-create", "project", project.name, project.name)
        return projects.get(connection, project.name)


@router.get("/{project}")
def show_project(project: str, principal: Reader, context: Ctx) -> dict[str, Any]:
    """One project with its members."""
    ask(principal, Action.PROJECT_READ, project)
    with context.database.transaction() as connection:
        return {**projects.get(connection, project), "members": projects.members(connection, project)}


@router.patch("/{project}")
def change_share(project: str, principal: Sharer, context: Ctx, change: ShareChange) -> dict[str, Any]:
    """Change what a project may use of the site: its weight, and how many of its runs are carried out at once."""
    authorize(principal, Action.PROJECT_SHARE)
    with context.database.transaction() as connection:
        before = projects.get(connection, project)
        weight = before["weight"] if change.weight is None else change.weight
        at_once = change.runs_at_once if "runs_at_once" in change.model_fields_set else before["runs_at_once"]
        projects.set_share(connection, project, weight, at_once)
        trail.record(
            connection, principal.name, "project-share", "project", project, project,
            detail={
                "weight": weight, "runs_at_once": at_once,
                "before": {"weight": before["weight"], "runs_at_once": before["runs_at_once"]},
            },
        )  # fmt: skip
        changed = projects.get(connection, project)
    context.archive.wake()
    return changed


@router.put("/{project}/members/{account}")
def set_member(project: str, account: str, principal: Lead, context: Ctx, membership: Membership) -> dict[str, Any]:
    """Give an account a role in the project, instead of the one it may have had."""
    ask(principal, Action.PROJECT_MEMBERS, project)
    with context.database.transaction() as connection:
        before = projects.set_member(connection, project, account, membership.role)
        trail.record(
            connection, principal.name, "member-change", "account", account, project,
            detail={"role": membership.role.value, "before": before},
        )  # fmt: skip
    return {"project": project, "account": account, "role": membership.role}


@router.delete("/{project}/members/{account}", status_code=204)
def remove_member(project: str, account: str, principal: Lead, context: Ctx) -> None:
    """Take an account out of the project."""
    ask(principal, Action.PROJECT_MEMBERS, project)
    with context.database.transaction() as connection:
        before = projects.remove_member(connection, project, account)
        trail.record(
            connection, principal.name, "member-remove", "account", account, project, detail={"before": before}
        )


@router.put("/{project}/series/{series_instance_uid}")
def link_series(project: str, series_instance_uid: str, principal: Storer, context: Ctx) -> dict[str, Any]:
    """Share a series that the caller may read with a project in which it may store; nothing is copied."""
    ask(principal, Action.IMAGE_STORE, project)
    with context.database.transaction() as connection:
        projects.get(connection, project)
        series = _series(connection, principal, series_instance_uid, None)
        added = links.link(connection, context.settings, series, project, principal.name)
        if added:
            trail.record(connection, principal.name, "link", "series", series_instance_uid, project)
    return {"project": project, "series_instance_uid": series_instance_uid, "added": added}


@router.delete("/{project}/series/{series_instance_uid}", status_code=204)
def unlink_series(project: str, series_instance_uid: str, principal: Storer, context: Ctx) -> None:
    """Take a series out of a project. It stays in the archive and in its other projects."""
    ask(principal, Action.IMAGE_STORE, project)
    with context.database.transaction() as connection:
        series = _series(connection, principal, series_instance_uid, project)
        links.unlink(connection, context.settings, series, project, principal.name)
        trail.record(connection, principal.name, "unlink", "series", series_instance_uid, project)


def _series(connection: Connection, principal: Principal, uid: str, project: str | None) -> int:
    """The series' row number, if the caller may read it (in `project`, where one is given); else NotFound."""
    readable = visible_projects(principal, Action.IMAGE_READ) if project is None else frozenset({project})
    row = index.find_series(connection, uid, readable)
    if row is None:
        raise NotFound("There is no such series", value=uid)
    return int(row["id"])
