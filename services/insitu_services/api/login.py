"""The browser's session: log in, look who one is, log out. A program needs no session, it sends a token.

Not here: the login page (services/web) and other accounts than one's own (accounts).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from insitu.audit import trail
from insitu.errors import Forbidden, Unauthenticated
from insitu.identity import accounts, passwords, sessions
from insitu.identity.authentication import from_own_pages
from insitu.projects.permissions import Action, Principal

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1/session", tags=["session"])
Myself = Annotated[Principal, Depends(requires(Action.SELF))]


class Credentials(BaseModel):
    """Name and password of an account."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=64)
    password: str = Field(max_length=passwords.MAXIMUM_LENGTH)


def describe(principal: Principal) -> dict[str, Any]:
    """What a principal may know about itself."""
    return {
        "name": principal.name,
        "site_admin": principal.site_admin,
        "memberships": {project: role.value for project, role in sorted(principal.memberships.items())},
    }


def encrypted(request: Request) -> bool:
    """Whether the browser speaks HTTPS, with us or with a proxy before us. A header that lies only makes the cookie stricter."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", "").strip().lower())


@router.post("")
def log_in(request: Request, response: Response, context: Ctx, credentials: Credentials) -> dict[str, Any]:
    """Begin a session: the answer sets a cookie that scripts cannot read."""
    asks_as_browser = "origin" in request.headers or "sec-fetch-site" in request.headers
    if asks_as_browser and not from_own_pages(request.headers):
        raise Forbidden("This request did not come from the platform's own pages", remedy="Use the login page")
    cookie = None
    with passwords.turn(), context.database.transaction() as connection:
        attempt = accounts.attempt(connection, credentials.name, credentials.password)
        actor = attempt.known_name or "unknown"
        if attempt.account is None:
            trail.record(
                connection, actor, "login", "account", attempt.known_name or "", outcome="refused",
                detail={"why": attempt.why},
            )  # fmt: skip
        else:
            cookie = sessions.open_session(connection, attempt.account["id"], context.settings.session_hours)
            trail.record(connection, actor, "login", "account", actor)
    if attempt.account is None or cookie is None:
        raise Unauthenticated(
            "The name or the password is wrong, or the account is locked for a while",
            remedy="After several wrong passwords wait up to five minutes; the site admin can set a new password",
        )
    response.set_cookie(
        sessions.COOKIE,
        cookie,
        max_age=int(context.settings.session_hours * 3600),
        path="/",
        httponly=True,
        samesite="strict",
        secure=encrypted(request),
    )
    return {"name": attempt.account["name"], "site_admin": attempt.account["site_admin"]}


@router.get("")
def who_am_i(principal: Myself) -> dict[str, Any]:
    """Name, rights and projects of the caller."""
    return describe(principal)


@router.delete("", status_code=204)
def log_out(request: Request, response: Response, principal: Myself, context: Ctx) -> None:
    """End the session of the cookie at once."""
    cookie = request.cookies.get(sessions.COOKIE)
    with context.database.transaction() as connection:
        if cookie and sessions.close_session(connection, cookie):
            trail.record(connection, principal.name, "logout", "account", principal.name)
    response.delete_cookie(sessions.COOKIE, path="/", httponly=True, samesite="strict", secure=encrypted(request))
