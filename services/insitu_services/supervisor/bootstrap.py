"""What a platform needs beside its processes: schema, rights, project, admin, token, shipped packages.

`python -m insitu_services.supervisor.bootstrap` does it, as a process of its own so that the supervisor stays small; it
notes how far it is, because the processes need not wait for the packages. Idempotent.
Not here: roles and databases (databases).
"""

from __future__ import annotations

import logging
import secrets as random
from pathlib import Path

import psycopg

from insitu.audit import trail
from insitu.database import Database, grant, migrate
from insitu.errors import InsituError
from insitu.settings import Settings, load
from insitu_services.logs import log_to_stderr

from . import databases, first_password, secrets
from .first_password import ADMIN
from .progress import Progress

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
            # Before the commit: a crash between the two shows a password that is replaced, never none.
            first_password.keep(settings, password)
            accounts.create(connection, ADMIN, password, site_admin=True)
            trail.record(connection, "system", "account-change", "account", ADMIN, detail={"made": True})
            (settings.secrets / "admin-token").unlink(missing_ok=True)
        if not (settings.secrets / "admin-token").exists():
            secrets.write(settings.secrets / "admin-token", tokens.ensure(connection, ADMIN, "command line"))


def install_packages(settings: Settings, database: Database, progress: Progress) -> None:
    """Install every shipped package; one that cannot be installed is noted and keeps nothing else from working."""
    from insitu.algorithms import registry

    for manifest in sorted(extensions_folder().glob("*/algorithm.yaml")):
        name = manifest.parent.name
        try:
            with database.transaction() as connection:
                known = {item.digest for item in registry.listed(connection)}
                installed = registry.install(connection, settings, manifest.parent, "system", trusted=True)
                if installed.digest not in known:
                    trail.record(
                        connection, "system", "algorithm-install", "algorithm", installed.name,
                        detail={"version": installed.version, "digest": installed.digest},
                    )  # fmt: skip
        except InsituError as error:
            logger.warning("package %s is not installed: %s", name, error)
            progress.failed[name] = str(error)
        progress.save(settings)


def main() -> None:
    """Prepare the platform of the home that the environment names."""
    log_to_stderr("bootstrap")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = load()
    progress = Progress()
    prepare_schema(settings)
    database = Database(databases.owner_dsn(settings), minimum=1, maximum=2)
    try:
        prepare_people(settings, database)
        progress.prepared = True
        progress.save(settings)
        install_packages(settings, database, progress)
    finally:
        database.close()


if __name__ == "__main__":
    main()
