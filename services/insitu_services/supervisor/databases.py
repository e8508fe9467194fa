"""The PostgreSQL server of the platform: its settings, its roles and who may open which database.

Not here: where its programs are (insitu.postgres) and the schema (insitu.database).
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from insitu import postgres
from insitu.settings import Settings

from .secrets import secret

OWNER = "insitu_owner"  # owns the domain database and migrates it
PROCESSES = ("api", "receiver", "dispatcher", "cli")  # one role each, insitu_NAME
AIRFLOW = "airflow"

# Small memory, few processes. What makes a commit durable is written out, so that nobody has to look up a default.
SERVER = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Where a process of it crashes, the whole server ends and the supervisor starts it anew. Its own restart hangs for ever where the
    # recovery fails too, as it does while the disk is full: PostgreSQL 18 then neither ends nor tries again.
    "restart_after_crash": "off",
    "shared_buffers": "64MB",
    "effective_cache_size": "1GB",
    "work_mem": "4MB",
    "maintenance_work_mem": "64MB",
    "max_connections": "100",
    "max_wal_size": "1GB",
    "random_page_cost": "1.1",
    "jit": "off",
    "huge_pages": "off",
    "io_method": "sync",
    "autovacuum_max_workers": "1",
    "autovacuum_naptime": "20s",  # after a bulk of objects, plans are made for the old size as long as this and the next analysis
    "max_parallel_workers": "2",
    "timezone": "UTC",
    # Statements and details hold patient data, so they stay out of the log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}


def prepare(settings: Settings) -> None:
    """Make the database cluster where there is none."""
    postgres.prepare(settings.home / "database", settings.database_socket, settings.home, superuser(settings))


def command(settings: Settings) -> list[str]:
    """Command line of the server."""
    return postgres.command(settings.home / "database", settings.database_socket, settings.home, **SERVER)


def superuser(settings: Settings) -> str:
    """Password of PostgreSQL's superuser."""
    return secret(settings.secrets, "database-superuser")


def owner_dsn(settings: Settings) -> str:
    """Connection string of the role that migrates the domain database."""
    password = secret(settings.secrets, "database-owner")
    return f"host={settings.database_socket} user={OWNER} password={password} dbname=insitu"


def connect(settings: Settings) -> psycopg.Connection[Any]:
    """A connection as superuser, outside of a transaction."""
    return psycopg.connect(
        host=str(settings.database_socket),
        user="postgres",
        password=superuser(settings),
        dbname="postgres",
        connect_timeout=5,
        autocommit=True,
    )


def answers(settings: Settings) -> bool:
    """Whether the server takes connections."""
    try:
        connect(settings).close()
    except psycopg.OperationalError:
        return False
    return True


def has_session(settings: Settings, role: str) -> bool:
    """Whether a process is connected as `role`."""
    try:
        with connect(settings) as connection:
            found = connection.execute("SELECT 1 FROM pg_stat_activity WHERE usename = %s LIMIT 1", (role,)).fetchone()
    except psycopg.OperationalError:
        return False
    return found is not None


def arrange(settings: Settings) -> set[str]:
    """Make roles and databases; the databases that were made now.

    Idempotent; passwords are set to those in the secrets folder each time.
    """
    made = set()
    with connect(settings) as connection:
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
        for database, role in (("insitu", OWNER), (AIRFLOW, AIRFLOW)):
            if database not in databases:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(role))
                )
                made.add(database)
        # By default everybody may connect everywhere: Airflow's role must not open ours, nor ours Airflow's.
        for database in ("insitu", AIRFLOW, "postgres", "template1"):
            connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
        for name in PROCESSES:
            connection.execute(
                sql.SQL("GRANT CONNECT ON DATABASE insitu TO {}").format(sql.Identifier(f"insitu_{name}"))
            )
    return made
