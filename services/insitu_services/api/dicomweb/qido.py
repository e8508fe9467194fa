"""QIDO-RS: searches for studies, series and instances (PS3.18 10.6).

The header X-Total-Count says how many results there are on all pages, where that is known exactly. It is counted as far as COUNTED
results behind the page; beyond, only for `Prefer: count=exact`. `Link: rel="next"` leads to the next page.
Not here: reading parameters (query), the SQL (insitu.archive.search_sql), the look of a result (answers).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import to_json

from insitu.archive import search_sql
from insitu.archive.search import Level, Search
from insitu.database import Row
from insitu.errors import Invalid
from insitu.projects.permissions import Action, Principal, visible_projects

from ..access import requires
from ..context import Context, Ctx
from .answers import answer
from .documents import metadata_of, xml_response
from .negotiation import XML_TYPE, BadRequest, document_offer
from .query import parse, place_text, unsupported
from .resource import accept_of, base_url

router = APIRouter(tags=["dicomweb"])
COUNTED = 200  # results behind the page that are counted without being asked to
Reader = Annotated[Principal, Depends(requires(Action.IMAGE_READ))]


def _search(
    request: Request,
    context: Context,
    principal: Principal,
    level: Level,
    study: str | None = None,
    series: str | None = None,
) -> Response:
    offer = document_offer(accept_of(request))
    search = parse(level, request.query_params.multi_items())
    projects = visible_projects(principal, Action.IMAGE_READ)
    exact = "count=exact" in request.headers.get("prefer", "").replace(" ", "").split(",")
    try:
        with context.database.statement() as connection:
            # one more than asked for says whether there are more
            rows = search_sql.run(
                connection, replace(search, limit=search.limit + 1), projects, study=study, series=series
            )
            more, rows = len(rows) > search.limit, rows[: search.limit]
            if not more and not search.after and (rows or not search.offset):
                total, bound = search.offset + len(rows), None
            else:
                bound = None if exact else search.offset + search.limit + COUNTED
                total = search_sql.count(connection, search, projects, study=study, series=series, bound=bound)
    except Invalid as error:
        raise BadRequest(error.what, value=error.value, why=error.why, remedy=error.remedy) from error
    if level == Level.INSTANCE:
        for row in rows:
            if row["body"] is None:  # the dispatcher has not come to it yet
                row["body"] = metadata_of(context.archive.blobs, row)
    base = base_url(request)
    relational = study is None or (level == Level.INSTANCE and series is None)
    answers = [answer(search, row, base, relational=relational) for row in rows]
    if offer.media_type != XML_TYPE:
        response = Response(to_json(answers), media_type=offer.media_type)
    elif answers:
        response = xml_response(answers, {})
    else:
        response = Response(status_code=204)  # a multipart body has at least one part
    known = bound is None or total <= bound
    if known:
        response.headers["X-Total-Count"] = str(total)
    if exact:
        response.headers["Preference-Applied"] = "count=exact"
    if more and rows:
        response.headers["Link"] = f'<{_next(request, base, search, rows[-1])}>; rel="next"'
    for warning in _warnings(search, more, total if known and not search.after else None, len(rows)):
        response.headers.append("Warning", f'299 {base}/dicom-web "{warning}"')
    if any(map(unsupported, request.query_params)):
        response.headers.append("Warning", f'299 {base}/dicom-web "A parameter that is not supported was ignored"')
    return response


def _next(request: Request, base: str, search: Search, last: Row) -> str:
    """Address of the page behind `last`."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in ("offset", "after")]
    place = place_text(search_sql.place(search, last))
    return f"{base}{request.url.path}?{urlencode([*kept, ('after', place)])}"


def _warnings(search: Search, more: bool, total: int | None, found: int) -> list[str]:
    """Warnings of PS3.18 8.3.4: what was not done as asked."""
    texts = []
    if search.fuzzy:
        texts.append("The fuzzymatching parameter is not supported. Only literal matching has been performed.")
    if total is not None and total > search.offset + found:
        texts.append(f"There are {total - search.offset - found} additional results that can be requested")
    elif more:
        texts.append("There are additional results that can be requested")
    return texts


@router.get("/studies")
def search_studies(request: Request, context: Ctx, principal: Reader) -> Response:
    """Search for studies."""
    return _search(request, context, principal, Level.STUDY)


@router.get("/series")
def search_series(request: Request, context: Ctx, principal: Reader) -> Response:
    """Search for series of all studies."""
    return _search(request, context, principal, Level.SERIES)


@router.get("/instances")
def search_instances(request: Request, context: Ctx, principal: Reader) -> Response:
    """Search for instances of all studies."""
    return _search(request, context, principal, Level.INSTANCE)


@router.get("/studies/{study}/series")
def search_series_of_study(request: Request, context: Ctx, principal: Reader, study: str) -> Response:
    """Search for series of a study."""
    return _search(request, context, principal, Level.SERIES, study)


@router.get("/studies/{study}/instances")
def search_instances_of_study(request: Request, context: Ctx, principal: Reader, study: str) -> Response:
    """Search for instances of a study."""
    return _search(request, context, principal, Level.INSTANCE, study)


@router.get("/studies/{study}/series/{series}/instances")
def search_instances_of_series(request: Request, context: Ctx, principal: Reader, study: str, series: str) -> Response:
    """Search for instances of a series."""
    return _search(request, context, principal, Level.INSTANCE, study, series)
