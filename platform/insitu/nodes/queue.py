"""What transfers and retrievals have in common as a queue: finding, listing, cancelling, trying again, giving back.

Not here: who works on what (leases), what a row is about (transfers, retrievals).
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from datetime import datetime

from insitu.database import Connection, Row
from insitu.errors import Conflict, NotFound

from . import leases
from .leases import Claim, Table


@dataclass(frozen=True)
class Failure:
    """Why work could not be carried to its end, as a sentence, and whether another attempt would end in the same way."""

    sentence: str
    final: bool = False


@dataclass(frozen=True)
class Patience:
    """How often work is tried, and how long it waits before its second attempt (s)."""

    attempts: int
    first_wait: float


@dataclass(frozen=True)
class Queue:
    """The rows of one of the two tables.

    Parameters
    ----------
    table : {"transfer", "retrieval"}
    select : str
        SQL of a row for its readers, from the table as `t`, without a condition.
    visible : str
        SQL that holds where a row `t` is one for those who may act in all of `%(projects)s`.
    """

    table: Table
    select: str
    visible: str

    def get(self, connection: Connection, identifier: str, projects: frozenset[str] | None) -> Row:
        """One row; `projects` of None sees all.

        Raises
        ------
        NotFound
            There is none that these projects may see.
        """
        row = None
        with contextlib.suppress(ValueError):  # what is no identifier is not found
            row = connection.execute(
                f"{self.select} WHERE t.id = %(id)s AND (%(all)s OR ({self.visible}))",
                {"id": str(uuid.UUID(identifier)), **_sight(projects)},
            ).fetchone()
        if row is None:
            command = "transfer" if self.table == "transfer" else "retrieve"
            raise NotFound(f"There is no such {self.table}", value=identifier, remedy=f"See `insitu {command} list`")
        return row

    def listed(
        self,
        connection: Connection,
        projects: frozenset[str] | None,
        *,
        state: str | None = None,
        node: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Row]:
        """Rows that these projects may see, the newest first."""
        return connection.execute(
            f"{self.select} WHERE (%(all)s OR ({self.visible}))"
            " AND (%(state)s::text IS NULL OR t.state = %(state)s) AND (%(node)s::text IS NULL OR t.node = %(node)s)"
            " ORDER BY t.requested_at DESC, t.id LIMIT %(limit)s OFFSET %(offset)s",
            {"state": state, "node": node, "limit": limit, "offset": offset, **_sight(projects)},
        ).fetchall()

    def cancel(self, connection: Connection, identifier: str, by: str) -> None:
        """Do no more of it.

        Raises
        ------
        Conflict
            It has ended already.
        """
        changed = connection.execute(
            f"UPDATE {self.table} SET state = 'cancelled', finished_at = now(), reason = %s WHERE id = %s AND state = 'queued'",
            (f"cancelled by {by}", identifier),
        ).rowcount
        if not changed:
            raise Conflict(f"The {self.table} has ended already", value=identifier)

    def again(self, connection: Connection, identifier: str) -> None:
        """Make it due now, whether it waits or has ended; a worker that has it in hand keeps it."""
        connection.execute(
            f"UPDATE {self.table} SET attempts = 0, next_attempt = now(), reason = NULL, finished_at = NULL,"
            " state = 'queued', lease = CASE WHEN state = 'queued' THEN lease END,"
            " leased_until = CASE WHEN state = 'queued' THEN leased_until END WHERE id = %s",
            (identifier,),
        )

    def end(self, connection: Connection, identifier: str, state: str, reason: str | None) -> None:
        """Note that a claimed row is done, or has failed."""
        connection.execute(
            f"UPDATE {self.table} SET state = %s, reason = %s, finished_at = now(), lease = NULL, leased_until = NULL"
            " WHERE id = %s",
            (state, reason, identifier),
        )

    def later(
        self,
        connection: Connection,
        identifier: str,
        failure: Failure | None,
        attempts: int,
        patience: Patience,
        *,
        not_before: datetime | None = None,
    ) -> None:
        """Give a claimed row back for another attempt, after so many that brought nothing."""
        connection.execute(
            f"UPDATE {self.table} SET lease = NULL, leased_until = NULL, attempts = %(attempts)s, reason = %(reason)s,"
            " next_attempt = greatest(now() + make_interval(secs => %(wait)s), %(not_before)s) WHERE id = %(id)s",
            {
                "attempts": attempts, "reason": failure.sentence if failure else None, "id": identifier,
                "wait": leases.back_off(attempts, patience.first_wait), "not_before": not_before,
            },
        )  # fmt: skip

    def let_go(self, connection: Connection, work: Claim) -> None:
        """Give claimed rows back as they are, because the process stops."""
        connection.execute(
            f"UPDATE {self.table} SET lease = NULL, leased_until = NULL WHERE lease = %s AND state = 'queued'",
            (work.lease,),
        )


def given_up(failure: Failure, attempts: int, patience: Patience) -> str | None:
    """Why work is not tried again, as a sentence; None where it is. Pure."""
    if failure.final:
        return failure.sentence
    return f"{failure.sentence} Given up after {attempts} attempts." if attempts >= patience.attempts else None


def _sight(projects: frozenset[str] | None) -> dict[str, object]:
    return {"all": projects is None, "projects": sorted(projects or ())}
