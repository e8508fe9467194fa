"""Who sends a request: the principal behind a session cookie, an API token, a step's token or the engine's token.

Not here: the password check of a login (accounts) and what the principal may do (insitu.projects.permissions).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from insitu.database import Connection, Database, Row
from insitu.errors import Forbidden
from insitu.projects.permissions import Action, Principal, Role
from insitu.settings import Settings

from .sessions import COOKIE
from .tokens import PREFIX, digest

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
STEP_PREFIX = "insitu_step_"  # of the tokens insitu.runs derives
STEP_GRANTS = {"fetch": frozenset({Action.GATEWAY_FETCH}), "publish": frozenset({Action.GATEWAY_PUBLISH})}

_ACCOUNT = (
    "SELECT a.id::text AS id, a.name, a.site_admin,"
    " (SELECT coalesce(jsonb_object_agg(m.project, m.role), '{}') FROM membership m WHERE m.account = a.id) AS memberships"
)


def authenticate(
    database: Database, settings: Settings, headers: Mapping[str, str], cookies: Mapping[str, str], method: str
) -> Principal | None:
    """The principal behind a request; None where it shows nothing valid.

    An `Authorization` header counts alone: where it is not valid, a cookie beside it does not help.

    Parameters
    ----------
    headers : mapping
        Case-insensitive, or with lower-case names.
    method : str
        HTTP method; an unsafe one with a cookie must come from our own pages.

    Raises
    ------
    Forbidden
        The cookie is valid, but the request was not made by our own pages.
    """
    authorization = headers.get("authorization")
    if authorization is not None:
        token = _bearer(authorization)
        return None if token is None else _by_token(database, settings, token)
    cookie = cookies.get(COOKIE)
    if not cookie:
        return None
    with database.statement() as connection:
        row = connection.execute(
            f"{_ACCOUNT} FROM session s JOIN account a ON a.id = s.account"
            " WHERE s.token_hash = %s AND s.expires_at > now() AND NOT a.disabled",
            (digest(cookie),),
        ).fetchone()
    if row is None:
        return None
    if method.upper() not in SAFE_METHODS and not from_own_pages(headers):
        raise Forbidden(
            "This request did not come from the platform's own pages",
            why="A browser's session changes things only from there",
            remedy="Programs send `Authorization: Bearer TOKEN` instead of the cookie",
        )
    return _person(row)


def from_own_pages(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that one of our own pages made the request.

    Browsers send `Origin` with every unsafe request and `Sec-Fetch-Site` on HTTPS and loopback, and no page can alter
    them. Where both are missing the answer is no. Only host and port are compared: a TLS proxy changes the scheme.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    if origin is None:
        return site is not None
    try:
        netloc = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(netloc) and netloc.lower() == headers.get("host", "").lower()


def _bearer(authorization: str) -> str | None:
    """The token in an `Authorization` header: Bearer, or Basic with the token as password (for DICOMweb clients)."""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value or None
    if scheme.lower() == "basic":
        try:
            _, separator, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        # No passwords here: each request would cost an argon2 computation, and clients would keep people's passwords.
        return password if separator and password.startswith(PREFIX) else None
    return None


def _by_token(database: Database, settings: Settings, token: str) -> Principal | None:
    if token.startswith(PREFIX):
        with database.statement() as connection:
            return _by_api_token(connection, token)
    if token.startswith(STEP_PREFIX):
        with database.statement() as connection:
            return _by_step_token(connection, token)
    if _is_engine(settings, token):
        return Principal(name="engine", kind="engine", grants=frozenset({Action.ENGINE_CALL}))
    return None


def _by_step_token(connection: Connection, token: str) -> Principal | None:
    row = connection.execute(
        "SELECT execution, step FROM execution_token WHERE token_hash = %s AND expires_at > now()", (digest(token),)
    ).fetchone()
    if row is None:
        return None
    name = f"{row['step']} of {row['execution']}"
    return Principal(name=name, kind="step", execution=row["execution"], grants=STEP_GRANTS[row["step"]])


def _by_api_token(connection: Connection, token: str) -> Principal | None:
    row = connection.execute(
        f"{_ACCOUNT}, t.id AS token, coalesce(t.last_used < now() - interval '1 minute', true) AS note_use"
        " FROM api_token t JOIN account a ON a.id = t.account"
        " WHERE t.token_hash = %s AND coalesce(t.expires_at > now(), true) AND NOT a.disabled",
        (digest(token),),
    ).fetchone()
    if row is None:
        return None
    if row["note_use"]:
        # at most once a minute, and never waiting for another request that notes the same
        connection.execute(
            "UPDATE api_token SET last_used = now() WHERE id = (SELECT id FROM api_token WHERE id = %s FOR UPDATE SKIP LOCKED)",
            (row["token"],),
        )
    return _person(row)


def _is_engine(settings: Settings, token: str) -> bool:
    try:
        expected = (settings.secrets / "engine-token").read_text().strip()
    except OSError:
        return False
    return bool(expected) and hmac.compare_digest(expected.encode(), token.encode())


def _person(row: Row) -> Principal:
    return Principal(
        name=row["name"],
        kind="account",
        account_id=row["id"],
        site_admin=row["site_admin"],
        memberships={project: Role(role) for project, role in row["memberships"].items()},
    )
