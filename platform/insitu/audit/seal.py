"""The hash chain over the audit trail: sealing new events, and finding what was changed, removed or put in later.

Every event becomes one link: SHA-256(hash of the link before || canonical form of the event); before the first stand 32 zero
bytes. Events are sealed in the order in which their transactions committed, which need not be the order of their numbers.
Not here: writing and reading events (trail).
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from insitu.database import Connection, Row
from insitu.errors import Invalid
from insitu.settings import Settings

from .trail import COLUMNS

LOCK = 0x1A5D17  # number of the advisory lock: one sealer at a time
FIRST = bytes(32)
BATCH = 1000
READ_AT_ONCE = 2000


class Verification(BaseModel):
    """What a check of the trail found.

    Attributes
    ----------
    ok : bool
        Nothing was changed, removed or put in.
    sequence : int
        Links that were checked and are good, from the first on.
    waiting : int
        Events that are not sealed yet.
    reason : str or None
        The first thing that is wrong.
    """

    model_config = ConfigDict(frozen=True)

    ok: bool
    sequence: int
    waiting: int = 0
    reason: str | None = None


class Anchor(BaseModel):
    """The newest link that was seen committed, kept outside the database: so a chain that was cut or made anew is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    sequence: int
    hash: str


class Keeper(Protocol):
    """Keeps the anchor where no file lasts."""

    def read(self) -> str | None:
        """What was kept last; None where nothing was."""

    def write(self, text: str) -> None:
        """Keep a newer one; where it cannot be kept now, later."""


def anchor_file(settings: Settings) -> Path:
    """Where the anchor of this installation is kept."""
    return settings.home / "audit-head"


def canonical(event: Row) -> bytes:
    """The bytes of an event that are hashed: JSON with sorted keys, without spaces, in UTF-8; `at` in UTC to the microsecond."""
    at = event["at"].astimezone(UTC).isoformat(timespec="microseconds")
    content = {
        name: event[name] for name in ("id", "actor", "action", "kind", "resource", "project", "outcome", "detail")
    }
    return json.dumps({**content, "at": at}, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def link(before: bytes, event: Row) -> bytes:
    """Hash of the link of `event` after the link with hash `before`."""
    return hashlib.sha256(before + canonical(event)).digest()


def seal(connection: Connection, anchor: Path | Keeper | None = None, limit: int = BATCH) -> int:
    """Seal up to `limit` committed events; how many there were. Nothing where another sealer is at work.

    Parameters
    ----------
    connection : Connection
        Inside a transaction of its own.
    anchor : Path or Keeper, optional
        File, or keeper, that gets the newest link of the transactions before this one.
    """
    if not _only_sealer(connection):
        return 0
    head = connection.execute("SELECT sequence, hash FROM audit_seal ORDER BY sequence DESC LIMIT 1").fetchone()
    sequence, before = (head["sequence"], bytes(head["hash"])) if head else (0, FIRST)
    if anchor is not None and head is not None:
        _write_anchor(anchor, Anchor(sequence=sequence, hash=before.hex()))
    # An event of a transaction that commits later, though its number is lower, waits in audit_pending for its turn.
    waiting = connection.execute(
        f"SELECT {COLUMNS} FROM audit_pending p JOIN audit_event e ON e.id = p.event ORDER BY e.id LIMIT %s", (limit,)
    ).fetchall()
    if not waiting:
        return 0
    rows = []
    for event in waiting:
        sequence += 1
        before = link(before, event)
        rows.append((sequence, event["id"], before))
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO audit_seal (sequence, event, hash) VALUES (%s, %s, %s)", rows)
    connection.execute("DELETE FROM audit_pending WHERE event = ANY(%s)", ([event["id"] for event in waiting],))
    return len(rows)


def verify(connection: Connection, anchor: Path | Keeper | None = None) -> Verification:
    """Check the whole chain against the events and, where there is one, against the anchor outside the database.

    Parameters
    ----------
    connection : Connection
        Inside a transaction.
    anchor : Path or Keeper, optional
        The same as for `seal`.
    """
    try:
        expected = _read_anchor(anchor)
    except Invalid as error:
        return Verification(ok=False, sequence=0, reason=str(error))
    sequence, before = 0, FIRST

    def wrong(reason: str) -> Verification:
        return Verification(ok=False, sequence=sequence, reason=reason)

    with connection.cursor(name="audit_chain") as cursor:
        cursor.itersize = READ_AT_ONCE
        cursor.execute(
            f"SELECT s.sequence, s.hash, s.event, {COLUMNS}"
            " FROM audit_seal s LEFT JOIN audit_event e ON e.id = s.event ORDER BY s.sequence"
        )
        for row in cursor:
            if row["sequence"] != sequence + 1:
                return wrong(f"Link {sequence + 1} of the chain was removed")
            if row["id"] is None:
                return wrong(f"Event {row['event']} was removed")
            before = link(before, row)
            if before != bytes(row["hash"]):
                return wrong(f"Event {row['event']} or its link {row['sequence']} was changed")
            sequence += 1
            if expected is not None and sequence == expected.sequence and before.hex() != expected.hash:
                return wrong(f"The chain up to link {sequence} was made anew; it is not the one the anchor saw")
    if expected is not None and sequence < expected.sequence:
        return wrong(
            f"The chain ends at link {sequence}, but {expected.sequence} links were seen:"
            " its end was removed, or an older backup was restored"
        )
    counts = connection.execute(
        "SELECT count(*) FILTER (WHERE p.event IS NOT NULL) AS waiting, min(e.id) FILTER (WHERE p.event IS NULL) AS stray"
        " FROM audit_event e LEFT JOIN audit_pending p ON p.event = e.id"
        " WHERE NOT EXISTS (SELECT 1 FROM audit_seal s WHERE s.event = e.id)"
    ).fetchone()
    waiting, stray = (counts["waiting"], counts["stray"]) if counts else (0, None)
    if stray is not None:
        return wrong(f"Event {stray} was put in past the chain, or its link was removed")
    return Verification(ok=True, sequence=sequence, waiting=waiting)


def _only_sealer(connection: Connection) -> bool:
    row = connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS got", (LOCK,)).fetchone()
    return bool(row and row["got"])


def _read_anchor(kept: Path | Keeper | None) -> Anchor | None:
    if kept is None:
        return None
    try:
        text = kept.read_text() if isinstance(kept, Path) else kept.read()
        return Anchor.model_validate_json(text) if text is not None else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        place = str(kept) if isinstance(kept, Path) else None
        raise Invalid(
            "The anchor of the audit trail cannot be read", value=place, why=str(error).splitlines()[0]
        ) from error


def _write_anchor(kept: Path | Keeper, anchor: Anchor) -> None:
    """Replace the anchor, whole or not at all, where it changed."""
    text = anchor.model_dump_json()
    if isinstance(kept, Path):
        _write_file(kept, text)
    else:
        kept.write(text)


def _write_file(file: Path, text: str) -> None:
    try:
        if file.read_text() == text:
            return
    except OSError:
        pass  # it is written now
    partial = file.with_name(f"{file.name}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
