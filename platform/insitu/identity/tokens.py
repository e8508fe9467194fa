"""API tokens: opaque secrets by which a program acts as an account. Only their SHA-256 is stored.

Not here: cookies of browsers (sessions), tokens of the steps of a run (insitu.runs) and what a token may do (insitu.projects).
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

import psycopg

from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, NotFound

PREFIX = "insitu_api_"  # lets secret scanners and people recognise one
NAME_LENGTH = 64
SHORTEST = 32  # characters after the prefix of a token that was made elsewhere


def digest(secret: str) -> bytes:
    """What is stored of a token or cookie. Without salt or stretching: 256 random bits cannot be guessed."""
    return hashlib.sha256(secret.encode()).digest()


def create(connection: Connection, account: str, name: str, *, days: float | None = None) -> str:
    """Make a token and return it; it cannot be shown again.

    Parameters
    ----------
    account : str
        Name of the account.
    name : str
        What the token is for; unique among the account's tokens.
    days : float, optional
        Days after which it is not valid any more; without it, it is valid until revoked.

    Raises
    ------
    Conflict
        The account has a token of this name.
    NotFound
        There is no such account.
    """
    if not name.strip() or len(name) > NAME_LENGTH:
        raise Invalid(
            "A token needs a name",
            value=name[:NAME_LENGTH],
            remedy=f"Say in 1 to {NAME_LENGTH} characters what it is for",
        )
    if days is not None and not 0 < days <= 36_500:
        raise Invalid("The days of a token must be more than 0 and at most 36500", value=str(days))
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    token = PREFIX + secrets.token_urlsafe(32)
    try:
        with connection.transaction():
            made = connection.execute(
                "INSERT INTO api_token (name, token_hash, account, expires_at)"
                " SELECT %s, %s, id, %s FROM account WHERE name = %s RETURNING id",
                (name.strip(), digest(token), expires, account),
            ).fetchone()
    except psycopg.errors.UniqueViolation as error:
        raise Conflict(
            "This account has a token of that name", value=name, remedy="Revoke it first, or choose another name"
        ) from error
    if made is None:
        raise NotFound("There is no such account", value=account)
    return token


def ensure(connection: Connection, account: str, name: str) -> str:
    """A new token of this name; one that was there under it is revoked."""
    connection.execute(
        "DELETE FROM api_token t USING account a WHERE a.id = t.account AND a.name = %s AND t.name = %s",
        (account, name),
    )
    return create(connection, account, name)


def take(connection: Connection, account: str, name: str, token: str) -> None:
    """Let a token that was made elsewhere act as an account, under this name; one that was there under it is revoked.

    Raises
    ------
    Invalid
        It does not look like a token of ours: it must be long, and recognisable as one.
    """
    if not token.startswith(PREFIX) or len(token) < len(PREFIX) + SHORTEST:
        raise Invalid(
            "This cannot be a token",
            why=f"a token is {PREFIX} and at least {SHORTEST} random characters",
            remedy=f"Make one, for example: echo {PREFIX}$(openssl rand -hex 32)",
        )
    connection.execute(
        "DELETE FROM api_token t USING account a WHERE a.id = t.account AND a.name = %s AND t.name = %s"
        " AND t.token_hash <> %s",
        (account, name, digest(token)),
    )
    connection.execute(
        "INSERT INTO api_token (name, token_hash, account) SELECT %s, %s, id FROM account WHERE name = %s"
        " ON CONFLICT DO NOTHING",
        (name, digest(token), account),
    )


def of_account(connection: Connection, account: str) -> list[Row]:
    """The tokens of an account: id, name, created_at, expires_at, last_used. Never the secret."""
    return connection.execute(
        "SELECT t.id::text AS id, t.name, t.created_at, t.expires_at, t.last_used FROM api_token t"
        " JOIN account a ON a.id = t.account WHERE a.name = %s ORDER BY t.created_at, t.name",
        (account,),
    ).fetchall()


def owner(connection: Connection, token_id: str) -> str | None:
    """Name of the account a token belongs to; None where there is no such token."""
    row = connection.execute(
        "SELECT a.name FROM api_token t JOIN account a ON a.id = t.account WHERE t.id::text = %s", (token_id,)
    ).fetchone()
    return None if row is None else str(row["name"])


def revoke(connection: Connection, token_id: str) -> None:
    """End a token at once.

    Raises
    ------
    NotFound
        There is no such token.
    """
    if not connection.execute("DELETE FROM api_token WHERE id::text = %s", (token_id,)).rowcount:
        raise NotFound("There is no such token", value=token_id, remedy="List the tokens: insitu token list")
