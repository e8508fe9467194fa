"""The PostgreSQL server of the platform: its settings and its command line, on one machine.

Not here: where its programs are (insitu.postgres), its roles and databases (prepare.databases), its start in a cluster (__main__).
"""

from __future__ import annotations

from insitu import postgres
from insitu.settings import Settings
from insitu_services.prepare.databases import superuser

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
# Several processes of each kind, with pools of their own, and Airflow's. There, a server that crashed is started anew by its container.
IN_CLUSTER = {**SERVER, "max_connections": "300"}


def prepare(settings: Settings) -> None:
    """Make the database cluster where there is none."""
    postgres.prepare(settings.home / "database", settings.database_socket, settings.home, superuser(settings))


def command(settings: Settings) -> list[str]:
    """Command line of the server."""
    return postgres.command(settings.home / "database", settings.database_socket, settings.home, **SERVER)
