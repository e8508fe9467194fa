"""The hash chain over the audit trail: what was done to it afterwards is found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from insitu.archive.blobs import FileBlobStore
from insitu.audit import seal, trail
from insitu.database import Connection, Database
from insitu.errors import Unavailable
from insitu_services import anchor as anchors
from insitu_services.anchor import ObjectAnchor


class Undone(Exception):
    """Rolls a transaction back."""


def write(database: Database, count: int) -> None:
    """Record some events."""
    with database.transaction() as connection:
        for number in range(count):
            trail.record(connection, "anna", "view", "study", f"1.2.{number}", detail={"größe": 1.5, "n": number})


def seal_all(database: Database, anchor: Path | seal.Keeper | None = None) -> int:
    """Seal until nothing waits, and once more, so that the anchor is up to date."""
    total = 0
    while True:
        with database.transaction() as connection:
            sealed = seal.seal(connection, anchor, limit=7)
        total += sealed
        if not sealed:
            return total


def verify(database: Database, anchor: Path | seal.Keeper | None = None) -> seal.Verification:
    """Check the chain."""
    with database.transaction() as connection:
        return seal.verify(connection, anchor)


@contextmanager
def as_intruder(database: Database) -> Iterator[Connection]:
    """A transaction of somebody who owns the database: no trigger stops them."""
    with database.transaction() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        yield connection


def test_a_whole_trail_is_called_broken(database: Database, tmp_path: Path) -> None:
    anchor = tmp_path / "audit-head"
    assert verify(database, anchor) == seal.Verification(ok=True, sequence=0)
    write(database, 20)
    assert verify(database, anchor) == seal.Verification(ok=True, sequence=0, waiting=20)
    assert seal_all(database, anchor) == 20
    write(database, 3)
    assert verify(database, anchor) == seal.Verification(ok=True, sequence=20, waiting=3)
    assert seal_all(database, anchor) == 3
    with database.transaction() as connection:
        connection.execute("SET LOCAL TimeZone = 'Asia/Tokyo'")
        assert seal.verify(connection, anchor) == seal.Verification(ok=True, sequence=23)


@pytest.mark.parametrize(
    "deed",
    [
        "UPDATE audit_event SET actor = 'bert' WHERE id = 5",
        "UPDATE audit_event SET at = at + interval '1 microsecond' WHERE id = 5",
        "UPDATE audit_event SET detail = '{}' WHERE id = 5",
        "UPDATE audit_event SET project = 'alpha' WHERE id = 5",
        "UPDATE audit_event SET outcome = 'refused' WHERE id = 5",
        "UPDATE audit_seal SET hash = sha256('x') WHERE sequence = 5",
        "DELETE FROM audit_event WHERE id = 5",
        "DELETE FROM audit_seal WHERE sequence = 5",
        "DELETE FROM audit_seal WHERE sequence = 1",
        "DELETE FROM audit_seal WHERE sequence = 9",
        "WITH s AS (DELETE FROM audit_seal WHERE event = 5) DELETE FROM audit_event WHERE id = 5",
        "WITH s AS (DELETE FROM audit_seal WHERE event = 9) DELETE FROM audit_event WHERE id = 9",  # the end
        "WITH s AS (DELETE FROM audit_seal) DELETE FROM audit_event",
        "INSERT INTO audit_event (actor, action) VALUES ('mallory', 'view')",  # past the sealer
        "UPDATE audit_seal SET event = CASE event WHEN 5 THEN 6 ELSE 5 END WHERE event IN (5, 6)",
    ],
)
def test_a_change_of_the_trail_is_not_found(database: Database, tmp_path: Path, deed: str) -> None:
    anchor = tmp_path / "audit-head"
    write(database, 9)
    seal_all(database, anchor)
    with as_intruder(database) as connection:
        if "CASE" in deed:
            connection.execute("ALTER TABLE audit_seal DROP CONSTRAINT audit_seal_event_key")
        assert connection.execute(deed).rowcount > 0
    found = verify(database, anchor)
    assert not found.ok
    assert found.reason


def test_a_chain_that_was_made_anew_is_not_found(database: Database, tmp_path: Path) -> None:
    anchor = tmp_path / "audit-head"
    write(database, 9)
    seal_all(database, anchor)
    with as_intruder(database) as connection:
        connection.execute("UPDATE audit_event SET actor = 'bert' WHERE id = 5")
        connection.execute("DELETE FROM audit_seal")
        connection.execute("INSERT INTO audit_pending SELECT id FROM audit_event")
    seal_all(database)
    assert verify(database).ok  # by itself it looks good
    found = verify(database, anchor)
    assert not found.ok
    assert "anew" in str(found.reason)


def test_an_anchor_that_was_spoilt_is_overlooked(database: Database, tmp_path: Path) -> None:
    anchor = tmp_path / "audit-head"
    anchor.write_text("not an anchor")
    assert not verify(database, anchor).ok


@pytest.mark.parametrize("table", ["audit_event", "audit_seal"])
@pytest.mark.parametrize("deed", ["UPDATE {} SET {} = {}", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_the_trail_can_be_changed_by_an_ordinary_statement(database: Database, table: str, deed: str) -> None:
    write(database, 2)
    seal_all(database)
    column = "actor" if table == "audit_event" else "event"
    with pytest.raises(psycopg.errors.InsufficientPrivilege), database.transaction() as connection:
        connection.execute(deed.format(table, column, column))
    assert verify(database).sequence == 2


def test_an_event_whose_transaction_ends_late_is_never_sealed(database: Database) -> None:
    with database.transaction() as slow:
        trail.record(slow, "slow", "view")  # takes the lower number
        write(database, 2)
        assert seal_all(database) == 2
        assert verify(database).ok
    assert verify(database).waiting == 1
    assert seal_all(database) == 1
    assert verify(database) == seal.Verification(ok=True, sequence=3)


def test_an_event_stays_though_its_deed_was_undone(database: Database) -> None:
    with contextlib.suppress(Undone), database.transaction() as connection:
        trail.record(connection, "anna", "run")
        raise Undone
    assert seal_all(database) == 0
    write(database, 1)
    assert seal_all(database) == 1
    assert verify(database) == seal.Verification(ok=True, sequence=1)


def test_two_sealers_spoil_the_chain(database: Database) -> None:
    write(database, 5)
    with database.transaction() as first:
        assert seal.seal(first) == 5
        with database.transaction() as second:
            assert seal.seal(second) == 0
    write(database, 1)
    assert seal_all(database) == 1
    assert verify(database) == seal.Verification(ok=True, sequence=6)


def test_the_anchor_runs_ahead_of_what_is_committed(database: Database, tmp_path: Path) -> None:
    anchor = tmp_path / "audit-head"
    write(database, 2)
    seal_all(database, anchor)
    write(database, 2)
    with contextlib.suppress(Undone), database.transaction() as connection:
        assert seal.seal(connection, anchor) == 2
        raise Undone
    assert verify(database, anchor) == seal.Verification(ok=True, sequence=2, waiting=2)


def test_an_anchor_in_the_object_store_finds_a_chain_that_was_made_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatcher that wrote it is another pod than the api that reads it, and neither's home lasts."""
    monkeypatch.setattr(anchors, "EVERY", 0.0)
    blobs = FileBlobStore(tmp_path)
    one, another, reader = ObjectAnchor(blobs), ObjectAnchor(blobs), ObjectAnchor(blobs)
    assert verify(database, reader).ok
    write(database, 9)
    seal_all(database, one)
    assert seal.Anchor.model_validate_json(reader.read() or "").sequence == 9
    write(database, 3)
    seal_all(database, another)
    assert seal.Anchor.model_validate_json(reader.read() or "").sequence == 12
    assert verify(database, reader).ok
    with as_intruder(database) as connection:
        connection.execute("UPDATE audit_event SET actor = 'bert' WHERE id = 5")
        connection.execute("DELETE FROM audit_seal")
        connection.execute("INSERT INTO audit_pending SELECT id FROM audit_event")
    seal_all(database)
    assert verify(database).ok
    assert not verify(database, reader).ok


def test_an_object_store_that_is_away_holds_no_seal_up(database: Database) -> None:
    class Away:
        def put(self, key: str, data: bytes) -> None:
            raise Unavailable("The object store does not answer")

    write(database, 9)
    assert seal_all(database, ObjectAnchor(Away())) == 9  # type: ignore[arg-type]
