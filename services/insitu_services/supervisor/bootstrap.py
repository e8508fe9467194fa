"""What a platform needs before its processes start: schema, rights, project, admin, tokens, shipped packages.

`python -m insitu_services.supervisor.bootstrap` does it, as a process of its own so that the supervisor stays small.
Idempotent. Not here: roles and databases (databases).
"""

from __future__ import annotations

import logging
import secrets as random
from pathlib import Path

import psycopg
from insitu.audit import trail
from insitu.database import Database, grant, migrate
from insitu.settings import Settings, load

from insitu_services.logs import log_to_stderr

from . import databases, first_password, secrets
from .first_password import ADMIN

logger = logging.getLogger("insitu.bootstrap")


def extensions_folder() -> Path:
    """The algorithm packages that are shipped with the platform."""
    return Path(__file__).resolve().parents[3] / "extensions"


def prepare_schema(settings: Settings) -> None:
    """Migrate the domain database and give the processes' roles their rights."""
    dsn = databases.owner_dsn(settings)
    migrate(dsn)
    with psycopg.connect(dsn) as connection:
        grant(connection, tuple(f"insitu_{name}" for name in databases.PROCESSES))


def prepare_people(settings: Settings, database: Database) -> None:
    """Make the default project, the admin with a password that is shown once, and the token of the command line."""
    from insitu.identity import accounts, tokens
    from insitu.projects import projects

    with database.transaction() as connection:
        projects.ensure(connection, settings.default_project, title="Series that no rule assigns to a project")
        if accounts.find(connection, ADMIN) is None:
            password = random.token_urlsafe(12)
            # Before the commit: a crash between the two shows a password again, never none.
            first_password.keep(settings, password)
            accounts.create(connection, ADMIN, password, site_admin=True)
            trail.record(connection, "system", "account-change", "account", ADMIN, detail={"made": True})
        token_file = settings.secrets / "admin-token"
        if not token_file.exists():
            secrets.write(token_file, tokens.ensure(connection, ADMIN, "command line"))


def main() -> None:
    """Prepare the platform of the home that the environment names."""
    log_to_stderr("bootstrap")
    settings = load()
    prepare_schema(settings)
    database = Database(databases.owner_dsn(settings), minimum=1, maximum=2)
    try:
        prepare_people(settings, database)
    finally:
        database.close()


if __name__ == "__main__":
    main()
