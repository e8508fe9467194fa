"""Signs of life of the platform's processes, in the database, so that another can tell whether they work.

Not here: what follows from them (health).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from insitu.database import Connection
from insitu.processes import alive, start_ticks

EVERY = 8.0  # seconds between two signs
SILENCE = 30.0  # seconds without a sign after which a process counts as away
FORGOTTEN = 600.0  # seconds after which a process of another machine is no longer asked after: a pod that was lost has no successor


@dataclass(frozen=True)
class Life:
    """What a process told last: its name, seconds since then, and how it is (numbers only, never patient data)."""

    process: str
    age: float
    facts: dict[str, Any]

    @property
    def silent(self) -> bool:
        """Whether that is too long ago."""
        return self.age > SILENCE


def sign(connection: Connection, process: str, **facts: float | None) -> None:
    """Say that this process lives, and forget those of this machine that no longer do."""
    host = socket.gethostname()
    connection.execute(
        "INSERT INTO sign_of_life (process, host, pid, ticks, at, facts) VALUES (%s, %s, %s, %s, clock_timestamp(), %s)"
        " ON CONFLICT (process, host, pid) DO UPDATE SET ticks = excluded.ticks, at = excluded.at, facts = excluded.facts",
        (process, host, os.getpid(), start_ticks(os.getpid()), Jsonb(facts)),
    )
    old = connection.execute(
        "SELECT host, pid, ticks, at < clock_timestamp() - make_interval(secs => %s) AS forgotten FROM sign_of_life"
        " WHERE at < clock_timestamp() - make_interval(secs => %s) ORDER BY host, pid",
        (FORGOTTEN, EVERY),
    ).fetchall()
    for row in old:
        if row["forgotten"] or (row["host"] == host and not alive(row["pid"], row["ticks"])):
            connection.execute("DELETE FROM sign_of_life WHERE host = %s AND pid = %s", (row["host"], row["pid"]))


def end(connection: Connection, process: str) -> None:
    """Say that this process ends in order, so that nobody takes it for silent."""
    connection.execute(
        "DELETE FROM sign_of_life WHERE process = %s AND host = %s AND pid = %s",
        (process, socket.gethostname(), os.getpid()),
    )


def signs(connection: Connection) -> list[Life]:
    """Every process that was heard of."""
    rows = connection.execute(
        "SELECT process, extract(epoch FROM clock_timestamp() - at)::float8 AS age, facts FROM sign_of_life ORDER BY process"
    ).fetchall()
    return [Life(row["process"], max(0.0, row["age"]), row["facts"]) for row in rows]
