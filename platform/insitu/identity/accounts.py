"""Local accounts of people: made, listed, disabled, their password checked and changed.

Not here: sessions and tokens that follow from a password (sessions, tokens), and roles in projects (insitu.projects.projects).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, NotFound

from . import passwords, sessions

NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
FREE_FAILURES = 5  # failed logins in a row before the account is locked
FIRST_LOCK = 5  # seconds, doubled by every further failure
LONGEST_LOCK = 300

_COLUMNS = "id::text AS id, name, site_admin, disabled, created_at, locked_until"


@dataclass(frozen=True)
class Attempt:
    """What came of an attempt to log in.

    Attributes
    ----------
    account : Row or None
        The account, where name and password are right and it may log in.
    known_name : str or None
        The name, where there is such an account. Other names must not be written down: people type passwords there.
    why : str
        For the audit trail, never for the one who tried.
    """

    account: Row | None
    known_name: str | None
    why: str


def create(connection: Connection, name: str, password: str, *, site_admin: bool = False) -> Row:
    """Make an account.

    Raises
    ------
    Invalid
        The name or the password does not follow the rules.
    Conflict
        There is an account of this name (also in other capitals).
    """
    if not NAME.fullmatch(name):
        raise Invalid(
            "This cannot be the name of an account",
            value=name[:64],
            why="it must have 1 to 64 letters, digits or . _ @ -",
        )
    passwords.check_rules(password, name)
    password_hash = passwords.hashed(password)
    if connection.execute("SELECT 1 FROM account WHERE lower(name) = lower(%s)", (name,)).fetchone():
        raise Conflict("There is an account of this name", value=name, remedy="Choose another name")
    try:
        with connection.transaction():
            row = connection.execute(
                f"INSERT INTO account (name, password_hash, site_admin) VALUES (%s, %s, %s) RETURNING {_COLUMNS}",
                (name, password_hash, site_admin),
            ).fetchone()
    except psycopg.errors.UniqueViolation as error:
        raise Conflict("There is an account of this name", value=name, remedy="Choose another name") from error
    assert row is not None  # noqa: S101  # an insert returns its row
    return row


def find(connection: Connection, name: str) -> Row | None:
    """The account of this name, without its password's hash."""
    return connection.execute(f"SELECT {_COLUMNS} FROM account WHERE name = %s", (name,)).fetchone()


def get(connection: Connection, name: str) -> Row:
    """The account of this name.

    Raises
    ------
    NotFound
        There is none.
    """
    row = find(connection, name)
    if row is None:
        raise NotFound("There is no such account", value=name, remedy="List them: insitu user list")
    return row


def everyone(connection: Connection) -> list[Row]:
    """All accounts by name, each with its memberships {project: role}."""
    return connection.execute(
        f"SELECT {_COLUMNS}, (SELECT coalesce(jsonb_object_agg(m.project, m.role), '{{}}') FROM membership m"
        " WHERE m.account = account.id) AS memberships FROM account ORDER BY name"
    ).fetchall()


def lock_seconds(failures: int) -> int:
    """How long an account is locked after so many failed logins in a row."""
    if failures < FREE_FAILURES:
        return 0
    return int(min(LONGEST_LOCK, FIRST_LOCK * 2 ** min(failures - FREE_FAILURES, 16)))


def attempt(connection: Connection, name: str, password: str) -> Attempt:
    """Check a password; failures are counted and lock the account for a growing time.

    It takes equally long for unknown, locked and disabled accounts. Call it within `passwords.turn()`; the account's row
    stays locked until the transaction ends, so that attempts come one after the other.
    """
    row = connection.execute(
        f"SELECT {_COLUMNS}, password_hash, failed_logins FROM account WHERE name = %s FOR UPDATE", (name[:64],)
    ).fetchone()
    if row is None:
        passwords.spend_time(password)
        return Attempt(None, None, "unknown name")
    known = str(row["name"])
    password_hash, failures = row.pop("password_hash"), row.pop("failed_logins")
    if row["locked_until"] is not None and row["locked_until"] > datetime.now(UTC):
        passwords.spend_time(password)
        return Attempt(None, known, "locked after failed logins")
    if not passwords.matches(password, password_hash):
        seconds = lock_seconds(failures + 1)
        until = datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
        connection.execute(
            "UPDATE account SET failed_logins = failed_logins + 1, locked_until = %s WHERE name = %s", (until, known)
        )
        return Attempt(None, known, "wrong password")
    if row["disabled"]:
        return Attempt(None, known, "disabled")
    fresh = passwords.hashed(password) if passwords.outdated(password_hash) else password_hash
    connection.execute(
        "UPDATE account SET failed_logins = 0, locked_until = NULL, password_hash = %s WHERE name = %s", (fresh, known)
    )
    return Attempt(row, known, "")


def set_password(connection: Connection, name: str, password: str) -> None:
    """Give an account another password: unlocks it and ends its sessions; tokens stay.

    Raises
    ------
    NotFound, Invalid
        There is no such account; the password breaks a rule.
    """
    account = get(connection, name)
    passwords.check_rules(password, name)
    connection.execute(
        "UPDATE account SET password_hash = %s, failed_logins = 0, locked_until = NULL WHERE name = %s",
        (passwords.hashed(password), name),
    )
    sessions.close_all(connection, account["id"])


def change(connection: Connection, name: str, *, disabled: bool | None = None, site_admin: bool | None = None) -> Row:
    """Disable or enable an account, make it site admin or not. A disabled one is refused from the next request on.

    Raises
    ------
    NotFound
        There is no such account.
    Conflict
        No enabled site admin would be left.
    """
    # one change of admins at a time, so that two admins cannot disable each other
    connection.execute("SELECT 1 FROM account WHERE site_admin ORDER BY name FOR UPDATE")
    account = get(connection, name)
    connection.execute(
        "UPDATE account SET disabled = coalesce(%s, disabled), site_admin = coalesce(%s, site_admin) WHERE name = %s",
        (disabled, site_admin, name),
    )
    if not connection.execute("SELECT 1 FROM account WHERE site_admin AND NOT disabled").fetchone():
        raise Conflict(
            "Nobody would be left to run this site", value=name, why="it is the last enabled site admin",
            remedy="Make another account site admin first",
        )  # fmt: skip
    if disabled:
        sessions.close_all(connection, account["id"])
    return get(connection, name)
