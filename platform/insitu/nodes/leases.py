"""Who works on what: transfers and retrievals are leased rows, so that a killed worker's work falls to the next.

Not here: what is in a transfer (transfers) or a retrieval (retrievals).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from insitu.database import Connection, Row

LEASE = 30  # seconds a worker counts as alive after it was last heard of
RENEW_EVERY = 10.0  # seconds
TOGETHER = 32  # pieces of work for one node that go over one association
LONGEST_WAIT = 3600.0  # seconds between two attempts

Table = Literal["transfer", "retrieval"]


@dataclass(frozen=True)
class Claim:
    """Work for one node in one worker's hand."""

    table: Table
    node: str
    way: str
    lease: str
    rows: list[Row] = field(default_factory=list)


def back_off(attempts: int, first: float) -> float:
    """Seconds to wait after so many attempts in a row that brought nothing. Pure."""
    return min(LONGEST_WAIT, first * 2.0 ** min(attempts - 1, 20)) if attempts > 0 else 0.0


def claim(connection: Connection, table: Table, *, peak: bool = False, limit: int = TOGETHER) -> Claim | None:
    """Take what is due for one node that has an association to spare; None where there is nothing.

    Parameters
    ----------
    table : {"transfer", "retrieval"}
    peak : bool
        Leave retrievals that are to wait for the off-peak window.
    limit : int
        At most so many rows.
    """
    due = "t.state = 'queued' AND t.next_attempt <= now() AND (t.leased_until IS NULL OR t.leased_until < now())"
    if table == "retrieval" and peak:
        due += " AND NOT t.off_peak"
    candidates = connection.execute(
        f"SELECT t.node, t.way FROM {table} t JOIN node n ON n.name = t.node WHERE {due}"
        " GROUP BY t.node, t.way ORDER BY min(t.next_attempt)"
    ).fetchall()
    for each in candidates:
        # The node's row is the turnstile: two workers that claim for it at once would both find the association free.
        node = connection.execute(
            "SELECT maximum_associations FROM node WHERE name = %s FOR UPDATE SKIP LOCKED", (each["node"],)
        ).fetchone()
        if node is None or _in_use(connection, each["node"]) >= node["maximum_associations"]:
            continue
        lease = str(uuid.uuid4())
        rows = connection.execute(
            f"UPDATE {table} SET lease = %(lease)s, leased_until = now() + make_interval(secs => %(seconds)s)"
            f" WHERE id IN (SELECT t.id FROM {table} t WHERE {due} AND t.node = %(node)s AND t.way = %(way)s"
            "  ORDER BY t.next_attempt, t.requested_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) RETURNING *, id::text AS id",
            {"lease": lease, "seconds": LEASE, "limit": limit, **each},
        ).fetchall()
        if rows:
            rows.sort(key=lambda row: row["requested_at"])
            return Claim(table, each["node"], each["way"], lease, rows)
    return None


def _in_use(connection: Connection, node: str) -> int:
    row = connection.execute(
        "SELECT count(DISTINCT lease) AS n FROM (SELECT lease FROM transfer WHERE node = %(node)s AND leased_until > now()"
        " AND state = 'queued' UNION ALL SELECT lease FROM retrieval WHERE node = %(node)s AND leased_until > now()"
        " AND state = 'queued') AS held",
        {"node": node},
    ).fetchone()
    return int(row["n"]) if row else 0


def renew(connection: Connection, leases: Iterable[str]) -> None:
    """Say that these workers live."""
    held = list(leases)
    for table in ("transfer", "retrieval"):
        connection.execute(
            f"UPDATE {table} SET leased_until = now() + make_interval(secs => %s)"
            " WHERE lease = ANY(%s) AND state = 'queued' AND leased_until IS NOT NULL",
            (LEASE, held),
        )


def held(connection: Connection, work: Claim, identifier: str) -> bool:
    """Whether a row is still in the worker's hand: neither cancelled nor taken over. Locks it."""
    return (
        connection.execute(
            f"SELECT 1 FROM {work.table} WHERE id = %s AND lease = %s AND state = 'queued' FOR UPDATE",
            (identifier, work.lease),
        ).fetchone()
        is not None
    )


def abandon(connection: Connection, node: str, reason: str) -> int:
    """Cancel all that is queued for a node, because it goes; how many transfers and retrievals those were."""
    ended = 0
    for table in ("transfer", "retrieval"):
        ended += connection.execute(
            f"UPDATE {table} SET state = 'cancelled', reason = %s, finished_at = now() WHERE node = %s AND state = 'queued'",
            (reason, node),
        ).rowcount
    connection.execute(
        "UPDATE transfer_object o SET state = 'cancelled' FROM transfer t WHERE t.id = o.transfer AND t.node = %s"
        " AND t.state = 'cancelled' AND o.state = 'waiting'",
        (node,),
    )
    return ended


def seconds_to_next(connection: Connection, table: Table) -> float | None:
    """Seconds until something is due that nobody has in hand; None where nothing waits."""
    row = connection.execute(
        "SELECT extract(epoch FROM min(greatest(next_attempt, coalesce(leased_until, next_attempt))) - now()) AS seconds"
        f" FROM {table} t JOIN node n ON n.name = t.node WHERE t.state = 'queued'"
    ).fetchone()
    return None if row is None or row["seconds"] is None else float(row["seconds"])
