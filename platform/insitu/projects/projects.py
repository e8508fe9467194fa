"""Projects and their members.

Not here: what a role allows (permissions) and which series a project has (insitu.archive).
"""

from __future__ import annotations

import re

import psycopg

from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, NotFound

from .permissions import Role

LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000
MOST_AT_ONCE = 10_000
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def create(connection: Connection, name: str, title: str = "") -> None:
    """Make a project.

    Raises
    ------
    Invalid, Conflict
        The name is no project's name, or is taken.
    """
    if not NAME.fullmatch(name):
        raise Invalid(
            "This cannot be the name of a project", value=name[:63],
            why="it must have 1 to 63 of a-z, 0-9, _ and -, and begin with a letter or digit",
        )  # fmt: skip
    made = connection.execute(
        "INSERT INTO project (name, title) VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, title)
    ).rowcount
    if not made:
        raise Conflict("There is a project of this name", value=name, remedy="Choose another name")


def ensure(connection: Connection, name: str, title: str = "") -> None:
    """Make a project where there is none of this name."""
    connection.execute("INSERT INTO project (name, title) VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, title))


def get(connection: Connection, name: str) -> Row:
    """The project: name, title, weight, runs_at_once, created_at.

    Raises
    ------
    NotFound
        There is none.
    """
    row = connection.execute(
        "SELECT name, title, weight, runs_at_once, created_at FROM project WHERE name = %s", (name,)
    ).fetchone()
    if row is None:
        raise NotFound("There is no such project", value=name, remedy="List them: insitu project list")
    return row


def visible(connection: Connection, projects: frozenset[str] | None) -> list[Row]:
    """The projects among `projects` (None: all) by name, with the number of members and of series."""
    return connection.execute(
        "SELECT p.name, p.title, p.weight, p.runs_at_once, p.created_at,"
        " (SELECT count(*) FROM membership m WHERE m.project = p.name) AS members,"
        " (SELECT count(*) FROM series_project s WHERE s.project = p.name) AS series"
        " FROM project p WHERE %s OR p.name = ANY(%s) ORDER BY p.name",
        (projects is None, sorted(projects or ())),
    ).fetchall()


def set_share(connection: Connection, name: str, weight: float, runs_at_once: int | None) -> None:
    """Set what a project may use of the site: the weight of its runs beside those of others, and how many at once (None: no limit).

    Raises
    ------
    NotFound
        There is no such project.
    Invalid
        The weight is not from 0.001 to 1000, or the number is below 1.
    """
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise Invalid(
            "This cannot be the weight of a project",
            value=str(weight),
            why=f"it is from {LEAST_WEIGHT} to {MOST_WEIGHT}",
        )
    if runs_at_once is not None and not 1 <= runs_at_once <= MOST_AT_ONCE:
        raise Invalid(
            "This cannot be the number of runs at once", value=str(runs_at_once),
            why=f"it is from 1 to {MOST_AT_ONCE}, or none",
        )  # fmt: skip
    get(connection, name)
    connection.execute(
        "UPDATE project SET weight = %s, runs_at_once = %s WHERE name = %s", (weight, runs_at_once, name)
    )


def members(connection: Connection, project: str) -> list[Row]:
    """The members of a project by name: account, role, disabled."""
    return connection.execute(
        "SELECT a.name AS account, m.role, a.disabled FROM membership m JOIN account a ON a.id = m.account"
        " WHERE m.project = %s ORDER BY a.name",
        (project,),
    ).fetchall()


def set_member(connection: Connection, project: str, account: str, role: Role) -> Role | None:
    """Give an account a role in a project, instead of the one it may have had; the earlier role.

    Raises
    ------
    NotFound
        There is no such account or project.
    """
    before = _role(connection, project, account)
    try:
        with connection.transaction():
            changed = connection.execute(
                "INSERT INTO membership (account, project, role) SELECT id, %s, %s FROM account WHERE name = %s"
                " ON CONFLICT (account, project) DO UPDATE SET role = excluded.role",
                (project, role.value, account),
            ).rowcount
    except psycopg.errors.ForeignKeyViolation as error:
        raise NotFound("There is no such project", value=project) from error
    if not changed:
        raise NotFound("There is no such account", value=account)
    return before


def remove_member(connection: Connection, project: str, account: str) -> Role:
    """Take an account out of a project; the role it had.

    Raises
    ------
    NotFound
        It is no member.
    """
    before = _role(connection, project, account)
    removed = connection.execute(
        "DELETE FROM membership m USING account a WHERE a.id = m.account AND a.name = %s AND m.project = %s",
        (account, project),
    ).rowcount
    if before is None or not removed:
        raise NotFound("This account is no member of the project", value=account)
    return before


def _role(connection: Connection, project: str, account: str) -> Role | None:
    row = connection.execute(
        "SELECT m.role FROM membership m JOIN account a ON a.id = m.account WHERE m.project = %s AND a.name = %s",
        (project, account),
    ).fetchone()
    return None if row is None else Role(row["role"])
