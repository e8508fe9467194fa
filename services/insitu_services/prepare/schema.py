"""The schema of the domain database: brought to this version by one at a time, and whether it is there.

Not here: the migrations (insitu.migrations), roles (databases).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from insitu.database import grant, migrate, newest_revision
from insitu.settings import Settings

from .databases import PROCESSES, owner_dsn

LOCK = 0x1A5D19  # number of the advisory lock: one at a time prepares


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Wait until nobody else prepares this platform, and keep others waiting for the length of the block."""
    with psycopg.connect(owner_dsn(settings), autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        yield


def prepare(settings: Settings) -> None:
    """Migrate the domain database and give the processes' roles their rights."""
    dsn = owner_dsn(settings)
    migrate(dsn)
    with psycopg.connect(dsn) as connection:
        grant(connection, tuple(f"insitu_{name}" for name in PROCESSES))


def missing(settings: Settings, dsn: str) -> str | None:
    """What is not there yet for a process of this version with a role's `dsn`, in words; None where everything is."""
    try:
        with psycopg.connect(dsn, connect_timeout=5) as connection:
            return _missing(settings, connection)
    except psycopg.OperationalError as error:
        return f"the database takes no connection: {str(error).strip().splitlines()[-1]}"
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return "the schema is not made yet"


def _missing(settings: Settings, connection: psycopg.Connection[Any]) -> str | None:
    made = connection.execute("SELECT to_regclass('public.alembic_version')").fetchone()  # no error in the server's log
    if made is None or made[0] is None:
        return "the schema is not made yet"
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    wanted = newest_revision()
    if found is None or found[0] != wanted:
        return f"the schema is at {found[0] if found else 'nothing'}, this version needs {wanted}"
    # The rights are given after the migration.
    barred = connection.execute(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
        " AND NOT has_table_privilege(c.oid, 'INSERT') LIMIT 1"
    ).fetchone()
    if barred is not None:
        return f"the rights on the table {barred[0]} are not given yet"
    # Made last of what the processes need.
    project = connection.execute("SELECT 1 FROM project WHERE name = %s", (settings.default_project,)).fetchone()
    return None if project else f"the project {settings.default_project} is not made yet"
