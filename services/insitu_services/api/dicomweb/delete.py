"""Deleting studies, series and instances, with a reason (PS3.18 has no such service; the addresses are those of its resources).

The reason comes as the query parameter `reason` or the header `X-Insitu-Reason`. Not here: what a deletion is (insitu.archive.deletion).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from insitu.archive import deletion
from insitu.errors import Invalid
from insitu.projects.permissions import Action, Principal, Resource, authorize, visible_projects

from ..access import requires
from ..context import Context, Ctx
from .negotiation import BadRequest
from .resource import instances

router = APIRouter(tags=["dicomweb"])
Deleter = Annotated[Principal, Depends(requires(Action.IMAGE_DELETE))]
ReasonQuery = Annotated[
    str | None, Query(alias="reason", description="Why, in 3 to 500 characters without patient data.")
]
ReasonHeader = Annotated[str | None, Header(alias="X-Insitu-Reason", description="The same as a header.")]


def _delete(
    request: Request,
    context: Context,
    principal: Principal,
    reason: str | None,
    study: str,
    series: str | None = None,
    instance: str | None = None,
) -> Response:
    unknown = set(request.query_params) - {"reason", "accept"}
    if unknown:
        raise BadRequest("This is not a parameter of deleting", value=sorted(unknown)[0][:100])
    with context.database.transaction() as connection:
        rows = instances(connection, principal, study, series, instance)  # what he may not see does not exist for him
    held = frozenset(project for row in rows for project in row["projects"])
    kind, uid = ("instance", instance) if instance else ("series", series) if series else ("study", study)
    authorize(principal, Action.IMAGE_DELETE, Resource(kind=kind, id=uid or study, projects=held))
    try:
        deleted = deletion.delete(
            context.archive, principal.name, study=study, series=series, instance=instance, reason=reason or "",
            projects=visible_projects(principal, Action.IMAGE_DELETE),
        )  # fmt: skip
    except Invalid as error:
        remedy = error.remedy or "Send it as ?reason=... or as the header X-Insitu-Reason"
        raise BadRequest(error.what, value=error.value, why=error.why, remedy=remedy) from error
    return Response(
        status_code=204,
        headers={
            "X-Insitu-Deleted": f"studies={deleted.studies}, series={deleted.series}, instances={deleted.instances}",
            "X-Insitu-Unlinked": f"series={deleted.unlinked}",
        },
    )


@router.delete("/studies/{study}")
def delete_study(
    request: Request,
    context: Ctx,
    principal: Deleter,
    study: str,
    reason: ReasonQuery = None,
    reason_header: ReasonHeader = None,
) -> Response:
    """Delete a study, as far as the caller's projects hold it."""
    return _delete(request, context, principal, reason or reason_header, study)


@router.delete("/studies/{study}/series/{series}")
def delete_series(
    request: Request,
    context: Ctx,
    principal: Deleter,
    study: str,
    series: str,
    reason: ReasonQuery = None,
    reason_header: ReasonHeader = None,
) -> Response:
    """Delete a series, or take it out of the caller's projects where others hold it too."""
    return _delete(request, context, principal, reason or reason_header, study, series)


@router.delete("/studies/{study}/series/{series}/instances/{instance}")
def delete_instance(
    request: Request,
    context: Ctx,
    principal: Deleter,
    study: str,
    series: str,
    instance: str,
    reason: ReasonQuery = None,
    reason_header: ReasonHeader = None,
) -> Response:
    """Delete one instance."""
    return _delete(request, context, principal, reason or reason_header, study, series, instance)
