"""`python -m insitu_services.prepare`: everything a platform needs before its processes start, in a cluster.

It waits for PostgreSQL and the object store, then makes what is not there yet; a repeat changes nothing, and of two at once one waits for
the other. With `--wait` it changes nothing at all, but returns once everything is there that a process of this version needs.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from insitu.archive import bucket
from insitu.database import Database
from insitu.errors import InsituError, Invalid, Unavailable
from insitu.settings import Settings, load
from insitu_services.logs import log_to_stderr

from . import databases, packages, people, schema, secrets

logger = logging.getLogger("insitu.prepare")

PATIENCE = 600.0  # seconds
LOOK_EVERY = 1.0  # seconds


def prepare(settings: Settings, *, expect_roles: bool = False, patience: float = PATIENCE) -> dict[str, str]:
    """Make what is missing; the packages that could not be installed, and why.

    Parameters
    ----------
    settings : Settings
    expect_roles : bool
        Make no role and no database, also where we could.
    patience : float
        Seconds that PostgreSQL, and then the object store, may take to answer.

    Raises
    ------
    InsituError
        Something the platform needs is missing and cannot be made.
    """
    databases.wait(settings, patience)
    if expect_roles or not databases.ours(settings):
        databases.expect(settings)
    else:
        databases.arrange(settings)
    with schema.alone(settings):
        schema.prepare(settings)
        database = Database(databases.owner_dsn(settings), minimum=1, maximum=2)
        try:
            _make_bucket(settings, database, patience)
            people.prepare(settings, database, lambda: people.given_password(settings))
            with database.transaction() as connection:
                people.take_token(connection, settings)
            return packages.install(settings, database)
        finally:
            database.close()


def _make_bucket(settings: Settings, database: Database, patience: float) -> None:
    """Make the bucket as soon as the object store answers, which in a new installation starts at the same time."""
    deadline = time.monotonic() + patience
    while not bucket.prepare(settings, database):
        if time.monotonic() > deadline:
            raise Unavailable(
                "The object store does not answer", value=settings.object_store,
                remedy="Look at its log; this goes on from here when it is started again",
            )  # fmt: skip
        time.sleep(LOOK_EVERY)


def wait(settings: Settings, seconds: float) -> None:
    """Return when everything is there that a process of this version needs.

    Raises
    ------
    Unavailable
        It is not within `seconds`; the message says what is missing.
    """
    dsn = _dsn(settings)
    deadline = time.monotonic() + seconds
    told = None
    while (missing := schema.missing(settings, dsn)) is not None:
        if missing != told:
            logger.info("waiting: %s", missing)
            told = missing
        if time.monotonic() > deadline:
            raise Unavailable(
                "The platform is not prepared for this version", why=missing,
                remedy="Look at the log of what prepares it: python -m insitu_services.prepare",
            )  # fmt: skip
        time.sleep(LOOK_EVERY)


def _dsn(settings: Settings) -> str:
    """Connection string of the first role whose password this process was given."""
    for role in databases.PROCESSES:
        if secrets.given(settings.secrets, f"database-{role}") is not None:
            return settings.database_dsn(role)
    raise Invalid(
        "There is no password to look into the database with", value=str(settings.secrets),
        remedy=f"Put one of {', '.join(f'database-{role}' for role in databases.PROCESSES)} there",
    )  # fmt: skip


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m insitu_services.prepare", description=__doc__)
    parser.add_argument(
        "--wait", nargs="?", type=float, const=PATIENCE, metavar="SECONDS",
        help=f"only wait until it is done, by default for {PATIENCE:.0f} s",
    )  # fmt: skip
    parser.add_argument(
        "--expect-roles", action="store_true", help="make no role and no database: the server's owner has made them"
    )
    given = parser.parse_args()
    log_to_stderr("prepare")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        settings = load()
        if given.wait is not None:
            wait(settings, given.wait)
            return
        failed = prepare(settings, expect_roles=given.expect_roles)
        logger.info("prepared", extra={"fields": {"packages_failed": sorted(failed)}})
    except InsituError as error:
        logger.error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
