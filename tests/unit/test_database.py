"""The schema can be made from nothing, and its append-only tables are."""

import psycopg
import pytest

from insitu.database import Database, migrate


def test_migrating_twice_changes_nothing(database_dsn: str) -> None:
    migrate(database_dsn)


def test_an_audit_row_cannot_be_changed_or_removed(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO audit_event (actor, action) VALUES ('a', 'login')")
    for statement in ("UPDATE audit_event SET actor = 'b'", "DELETE FROM audit_event"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), database.transaction() as connection:
            connection.execute(statement)
