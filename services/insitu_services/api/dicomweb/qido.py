"""QIDO-RS: searches for studies, series and instances (PS3.18 10.6).

Every answer has the header X-Total-Count: how many results there are on all pages.
Not here: reading parameters (query), the SQL (insitu.archive.search_sql), the look of a result (answers).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from insitu.archive import metadata
from insitu.archive.search import Level, Search
from insitu.archive.search_sql import statement
from insitu.projects.permissions import Action, Principal, visible_projects

from ..access import requires
from ..context import Context, Ctx
from .answers import answer
from .negotiation import json_type
from .query import parse
from .resource import accept_of, base_url

router = APIRouter(tags=["dicomweb"])
Reader = Annotated[Principal, Depends(requires(Action.IMAGE_READ))]


def _search(
    request: Request,
    context: Context,
    principal: Principal,
    level: Level,
    study: str | None = None,
    series: str | None = None,
) -> JSONResponse:
    media_type = json_type(accept_of(request))
    search = parse(level, request.query_params.multi_items())
    sql = statement(search, visible_projects(principal, Action.IMAGE_READ), study=study, series=series)
    with context.database.transaction() as connection:
        rows = connection.execute(sql.page, sql.parameters).fetchall() if search.limit else []
        if 0 < len(rows) < search.limit:
            total = search.offset + len(rows)
        else:
            counted = connection.execute(sql.count, sql.parameters).fetchone()
            total = counted["total"] if counted else 0
    if level == Level.INSTANCE:
        for row in rows:
            if row["body"] is None:  # the dispatcher has not come to it yet
                row["body"] = metadata.instance_metadata(context.archive.blobs, row)
    base = base_url(request)
    relational = study is None or (level == Level.INSTANCE and series is None)
    answers = [answer(search, row, base, relational=relational) for row in rows]
    response = JSONResponse(answers, media_type=media_type)
    response.headers["X-Total-Count"] = str(total)
    for warning in _warnings(search, total, len(rows), base):
        response.headers.append("Warning", warning)
    return response


def _warnings(search: Search, total: int, found: int, base: str) -> list[str]:
    """Warning headers of PS3.18 8.3.4: what was not done as asked."""
    texts = []
    if search.fuzzy:
        texts.append("The fuzzymatching parameter is not supported. Only literal matching has been performed.")
    remaining = total - search.offset - found
    if remaining > 0:
        texts.append(f"There are {remaining} additional results that can be requested")
    return [f'299 {base}/dicom-web "{text}"' for text in texts]


@router.get("/studies")
def search_studies(request: Request, context: Ctx, principal: Reader) -> JSONResponse:
    """Search for studies."""
    return _search(request, context, principal, Level.STUDY)


@router.get("/series")
def search_series(request: Request, context: Ctx, principal: Reader) -> JSONResponse:
    """Search for series of all studies."""
    return _search(request, context, principal, Level.SERIES)


@router.get("/instances")
def search_instances(request: Request, context: Ctx, principal: Reader) -> JSONResponse:
    """Search for instances of all studies."""
    return _search(request, context, principal, Level.INSTANCE)


@router.get("/studies/{study}/series")
def search_series_of_study(request: Request, context: Ctx, principal: Reader, study: str) -> JSONResponse:
    """Search for series of a study."""
    return _search(request, context, principal, Level.SERIES, study)


@router.get("/studies/{study}/instances")
def search_instances_of_study(request: Request, context: Ctx, principal: Reader, study: str) -> JSONResponse:
    """Search for instances of a study."""
    return _search(request, context, principal, Level.INSTANCE, study)


@router.get("/studies/{study}/series/{series}/instances")
def search_instances_of_series(
    request: Request, context: Ctx, principal: Reader, study: str, series: str
) -> JSONResponse:
    """Search for instances of a series."""
    return _search(request, context, principal, Level.INSTANCE, study, series)
