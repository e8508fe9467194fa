"""The roles and databases on the PostgreSQL server, and who may open which database.

Not here: the server (database_server) and the schema (schema).
"""

from __future__ import annotations

import time
from typing import Any

import psycopg
from psycopg import sql

from insitu.errors import Invalid, Unavailable
from insitu.settings import Settings

from .secrets import given, secret

SUPERUSER = "postgres"
OWNER = "insitu_owner"  # owns the domain database and migrates it
PROCESSES = ("api", "receiver", "dispatcher", "cli")  # one role each, insitu_NAME
AIRFLOW = "airflow"
LOCK = 0x1A5D18  # number of the advisory lock: one at a time makes roles and databases


def superuser(settings: Settings) -> str:
    """Password of PostgreSQL's superuser."""
    return secret(settings.secrets, "database-superuser")


def owner_dsn(settings: Settings) -> str:
    """Connection string of the role that migrates the domain database."""
    return settings.dsn(OWNER, secret(settings.secrets, "database-owner"), settings.database_name)


def connect(settings: Settings) -> psycopg.Connection[Any]:
    """A connection as superuser, outside of a transaction."""
    return psycopg.connect(settings.dsn(SUPERUSER, superuser(settings), "postgres"), connect_timeout=5, autocommit=True)


def answers(settings: Settings) -> bool:
    """Whether the server takes connections."""
    try:
        connect(settings).close()
    except psycopg.OperationalError:
        return False
    return True


def wait(settings: Settings, seconds: float) -> None:
    """Return when the server takes connections of the superuser, or of the owner where we have no superuser.

    Raises
    ------
    Unavailable
        It does not within `seconds`; the message has its last word.
    """
    dsn = owner_dsn(settings)
    if ours(settings):
        dsn = settings.dsn(SUPERUSER, superuser(settings), "postgres")
    deadline = time.monotonic() + seconds
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=5).close()
            return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "PostgreSQL takes no connection",
                    value=settings.database_host or str(settings.database_socket),
                    why=str(error).strip(),
                    remedy="Look at its log, and at the password and the address that the settings name",
                ) from error
        time.sleep(0.25)


def has_session(settings: Settings, role: str) -> bool:
    """Whether a process is connected as `role`."""
    try:
        with connect(settings) as connection:
            found = connection.execute("SELECT 1 FROM pg_stat_activity WHERE usename = %s LIMIT 1", (role,)).fetchone()
    except psycopg.OperationalError:
        return False
    return found is not None


def ours(settings: Settings) -> bool:
    """Whether the server is ours to arrange: always on one machine; elsewhere where the superuser's password is given."""
    return settings.database_host is None or given(settings.secrets, "database-superuser") is not None


def arrange(settings: Settings) -> set[str]:
    """Make roles and databases; the databases that were made now.

    Idempotent; passwords are set to those in the secrets folder each time.
    """
    made = set()
    with connect(settings) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        roles = [
            (OWNER, "database-owner"),
            (AIRFLOW, "database-airflow"),
            *((f"insitu_{name}", f"database-{name}") for name in PROCESSES),
        ]
        known = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        for role, name in roles:
            verb = "ALTER" if role in known else "CREATE"
            connection.execute(
                sql.SQL(verb + " ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(secret(settings.secrets, name))
                )
            )
        databases = {row[0] for row in connection.execute("SELECT datname FROM pg_database").fetchall()}
        for database, role in ((settings.database_name, OWNER), (AIRFLOW, AIRFLOW)):
            if database not in databases:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(role))
                )
                made.add(database)
        # By default everybody may connect everywhere: Airflow's role must not open ours, nor ours Airflow's.
        for database in (settings.database_name, AIRFLOW, "postgres", "template1"):
            connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
        for name in PROCESSES:
            connection.execute(
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                    sql.Identifier(settings.database_name), sql.Identifier(f"insitu_{name}")
                )
            )
    return made


def expect(settings: Settings) -> None:
    """See that a server which is not ours to arrange has the roles and databases, with the passwords we were given.

    Raises
    ------
    Invalid
        Something is missing; the message has what the server's owner runs.
    """
    wrong = []
    for role, database in ((OWNER, settings.database_name), (AIRFLOW, AIRFLOW), *_of_processes(settings)):
        password = given(settings.secrets, f"database-{role.removeprefix('insitu_')}")
        if password is None:
            wrong.append(f"secrets/database-{role.removeprefix('insitu_')} is not there")
            continue
        try:
            psycopg.connect(settings.dsn(role, password, database), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            wrong.append(f"{role} cannot open {database}: {_last_line(error)}")
    if wrong:
        raise Invalid(
            "The PostgreSQL server is not prepared for the platform",
            value=f"{settings.database_host}:{settings.database_port}",
            why="; ".join(wrong),
            remedy="Let its owner make what is missing, or give the superuser's password in secrets/database-superuser: "
            + statements(settings),
        )


def statements(settings: Settings) -> str:
    """What the owner of a server runs once, in SQL; the passwords are those of the secrets."""
    roles = ", ".join(f"insitu_{name}" for name in PROCESSES)
    return " ".join(
        [
            *(f"CREATE ROLE {role} LOGIN PASSWORD '...';" for role in (OWNER, AIRFLOW)),
            *(f"CREATE ROLE insitu_{name} LOGIN PASSWORD '...';" for name in PROCESSES),
            f"CREATE DATABASE {settings.database_name} OWNER {OWNER};",
            f"CREATE DATABASE {AIRFLOW} OWNER {AIRFLOW};",
            f"REVOKE CONNECT ON DATABASE {settings.database_name}, {AIRFLOW} FROM PUBLIC;",
            f"GRANT CONNECT ON DATABASE {settings.database_name} TO {roles};",
        ]
    )


def _of_processes(settings: Settings) -> list[tuple[str, str]]:
    return [(f"insitu_{name}", settings.database_name) for name in PROCESSES]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
