"""Who is there from the beginning: the default project, and an admin.

Not here: later accounts (insitu.identity).
"""

from __future__ import annotations

from collections.abc import Callable

from insitu.audit import trail
from insitu.database import Connection, Database
from insitu.errors import Invalid
from insitu.identity import accounts, tokens
from insitu.projects import projects
from insitu.settings import Settings

from . import secrets

ADMIN = "admin"
TOKEN = "command line"  # noqa: S105  # name of a token


def prepare(settings: Settings, database: Database, password: Callable[[], str]) -> bool:
    """Make the default project, and the admin where there is none; whether the admin was made now.

    Parameters
    ----------
    settings : Settings
    database : Database
    password : callable
        The admin's first password; asked only where it is needed, before anything is committed.
    """
    with database.transaction() as connection:
        made = accounts.find(connection, ADMIN) is None
        if made:
            accounts.create(connection, ADMIN, password(), site_admin=True)
            trail.record(connection, "system", "account-change", "account", ADMIN, detail={"made": True})
        projects.ensure(connection, settings.default_project, title="Series that no rule assigns to a project")
    return made


def given_password(settings: Settings) -> str:
    """The password that the site gave for the admin.

    Raises
    ------
    Invalid
        It gave none.
    """
    found = secrets.given(settings.secrets, "admin-password")
    if not found:
        raise Invalid(
            "There is no admin, and no password for one",
            value=str(settings.secrets / "admin-password"),
            why="it is not printed here, where a log would keep it",
            remedy="Put the admin's first password there",
        )
    return found


def take_token(connection: Connection, settings: Settings) -> None:
    """Let the token that the site gave in secrets/admin-token act as the admin, where it gave one."""
    token = secrets.given(settings.secrets, "admin-token")
    if token:
        tokens.take(connection, ADMIN, TOKEN, token)
