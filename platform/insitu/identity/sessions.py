"""Sessions of browsers: a random cookie whose SHA-256 is stored, with an end.

Not here: the password check before (accounts) and how a request is told to be the browser's own wish (authentication).
"""

from __future__ import annotations

import secrets

from insitu.database import Connection

from .tokens import digest

COOKIE = "insitu_session"


def open_session(connection: Connection, account_id: str, hours: float) -> str:
    """Begin a session of `hours` and return the cookie's value. Ended sessions of everybody are cleared away."""
    connection.execute("DELETE FROM session WHERE expires_at < now()")
    secret = secrets.token_urlsafe(32)
    connection.execute(
        "INSERT INTO session (token_hash, account, expires_at) VALUES (%s, %s, now() + make_interval(secs => %s))",
        (digest(secret), account_id, hours * 3600),
    )
    return secret


def close_session(connection: Connection, secret: str) -> bool:
    """End a session at once; whether there was one."""
    return connection.execute("DELETE FROM session WHERE token_hash = %s", (digest(secret),)).rowcount > 0


def close_all(connection: Connection, account_id: str) -> int:
    """End every session of an account; how many there were."""
    return connection.execute("DELETE FROM session WHERE account = %s", (account_id,)).rowcount
