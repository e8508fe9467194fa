"""`python -m insitu_services.supervisor.bootstrap`: prepares the platform of one machine, beside the supervisor.

A process of its own so that the supervisor stays small; it notes how far it is, because the processes need not wait for the
packages. Idempotent. Not here: what is prepared (insitu_services.prepare).
"""

from __future__ import annotations

import logging
import secrets as random

from insitu.archive import bucket
from insitu.database import Database
from insitu.identity import tokens
from insitu.settings import Settings, load
from insitu_services.logs import log_to_stderr
from insitu_services.prepare import databases, packages, people, schema, secrets
from insitu_services.prepare.people import ADMIN

from . import first_password
from .progress import Progress


def prepare_people(settings: Settings, database: Database) -> None:
    """Make the default project, the admin with a password that is shown once, and the token of the command line."""

    def password() -> str:
        made = random.token_urlsafe(12)
        # Before the commit: a crash between the two shows a password that is replaced, never none.
        first_password.keep(settings, made)
        return made

    if people.prepare(settings, database, password):
        (settings.secrets / "admin-token").unlink(missing_ok=True)
    if not (settings.secrets / "admin-token").exists():
        with database.transaction() as connection:
            secrets.write(settings.secrets / "admin-token", tokens.ensure(connection, ADMIN, people.TOKEN))


def main() -> None:
    """Prepare the platform of the home that the environment names."""
    log_to_stderr("bootstrap")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = load()
    progress = Progress()
    schema.prepare(settings)
    database = Database(databases.owner_dsn(settings), minimum=1, maximum=2)
    try:
        prepare_people(settings, database)
        bucket.prepare(settings, database)
        progress.prepared = True
        progress.save(settings)
        progress.failed = packages.install(settings, database)
        progress.save(settings)
    finally:
        database.close()


if __name__ == "__main__":
    main()
