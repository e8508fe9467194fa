"""Who asks, and may they: the dependencies every route uses.

`requires(action)` marks a route with its action and refuses strangers; the route (or the query below it) then asks
`authorize()` for the resource itself, or filters by `visible_projects()`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request

from insitu.errors import Forbidden, Unauthenticated
from insitu.identity.authentication import authenticate
from insitu.projects.permissions import SITE, Action, Principal, allowed, authorize, visible_projects

from .context import Ctx


def current_principal(request: Request, context: Ctx) -> Principal:
    """The principal behind the request's cookie, bearer token or basic credentials.

    Raises
    ------
    Unauthenticated
        There is none, or it is not valid any more.
    """
    principal = authenticate(context.database, context.settings, request.headers, request.cookies, request.method)
    if principal is None:
        raise Unauthenticated("Log in first", remedy="Send a session cookie or `Authorization: Bearer TOKEN`")
    request.state.principal = principal.name  # for the log
    return principal


CurrentPrincipal = Annotated[Principal, Depends(current_principal)]


def requires(action: Action) -> Callable[..., Awaitable[Principal]]:
    """Dependency of a route: the principal, if there is any project or site right by which `action` could be allowed.

    The route must still ask `authorize(principal, action, resource)` for the resource at hand.
    """

    async def dependency(principal: CurrentPrincipal) -> Principal:  # async: it waits for nothing, and needs no thread
        if not allowed(principal, action, SITE) and not visible_projects(principal, action):
            authorize(principal, action, SITE)
            raise Forbidden(f"{principal.name} may not do {action.value}")
        return principal

    dependency.insitu_action = action  # type: ignore[attr-defined]  # read by the test that walks every route
    return dependency
