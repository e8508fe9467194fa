"""Projects and their members.

Not here: what a role allows (permissions) and which series a project has (insitu.archive).
"""

from __future__ import annotations

import re

import psycopg

from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, NotFound

from .permissions import Role

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
    """The project: name, title, created_at.

    Raises
    ------
    NotFound
        There is none.
    """
    row = connection.execute("SELECT name, title, created_at FROM project WHERE name = %s", (name,)).fetchone()
    if row is None:
        raise NotFound("There is no such project", value=name, remedy="List them: insitu project list")
    return row


def visible(connection: Connection, projects: frozenset[str] | None) -> list[Row]:
    """The projects among `projects` (None: all) by name, with the number of members and of series."""
    return connection.execute(
        "SELECT p.name, p.title, p.created_at,"
        " (SELECT count(*) FROM membership m WHERE m.project = p.name) AS members,"
        " (SELECT count(*) FROM series_project s WHERE s.project = p.name) AS series"
        " FROM project p WHERE %s OR p.name = ANY(%s) ORDER BY p.name",
        (projects is None, sorted(projects or ())),
    ).fetchall()


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
