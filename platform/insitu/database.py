"""The PostgreSQL database: a pool of connections, transactions, and bringing the schema up to date."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from insitu.errors import Unavailable
from insitu.patience import Patience

Row = dict[str, Any]
Connection = psycopg.Connection[Row]

PATIENCE = 30.0  # seconds
CONNECT_SECONDS = 5


def _check(connection: Connection) -> None:
    """See that an idle connection is alive, without a round trip where the server said nothing: its end would be readable."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        ConnectionPool.check_connection(connection)


class Database:
    """A pool of connections whose rows are dictionaries.

    Parameters
    ----------
    dsn : str
        libpq connection string.
    minimum, maximum : int
        Connections kept open and at most opened.
    patience : float
        Seconds after which a transaction is cut off where the server has fallen silent.
    statement_seconds : float, optional
        Longest time of one statement, by the server's own clock.
    """

    def __init__(
        self,
        dsn: str,
        *,
        minimum: int = 1,
        maximum: int = 8,
        patience: float = PATIENCE,
        statement_seconds: float | None = None,
    ) -> None:
        self.dsn = dsn
        self._patience = Patience(dsn, patience)
        options: dict[str, Any] = {"row_factory": dict_row, "connect_timeout": CONNECT_SECONDS}
        if statement_seconds is not None:
            options["options"] = f"-c statement_timeout={round(statement_seconds * 1000)}"
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            dsn,
            min_size=minimum,
            max_size=maximum,
            timeout=10,
            # By itself the pool would try less and less often; so a new try is made for whoever asks.
            reconnect_timeout=10,
            kwargs=options,
            check=_check,
            open=True,
        )

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """A connection on which every statement is a transaction by itself, in one round trip.

        Raises
        ------
        Unavailable
            No connection could be had within ten seconds.
        """
        with self.transaction() as connection:
            connection.autocommit = True
            try:
                yield connection
            finally:
                if not connection.closed:
                    connection.autocommit = False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection inside a transaction: committed at the end of the block, rolled back by an exception.

        Raises
        ------
        Unavailable
            No connection could be had within ten seconds.
        """
        try:
            context = self._pool.connection()
            connection = context.__enter__()
        except (PoolTimeout, psycopg.OperationalError) as error:
            raise Unavailable(
                "The database does not answer", why=str(error), remedy="Look at `insitu status`; try again"
            ) from error
        with self._patience.over(connection):
            try:
                yield connection
            except BaseException as error:
                if not context.__exit__(type(error), error, error.__traceback__):
                    raise
            else:
                context.__exit__(None, None, None)

    def close(self) -> None:
        """Close every connection."""
        self._patience.close()
        self._pool.close()


def migrate(dsn: str) -> None:
    """Bring the schema of the database at `dsn` to the newest revision (Alembic, forward only)."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["dsn"] = dsn
    command.upgrade(config, "head")


def grant(connection: psycopg.Connection[Any], roles: tuple[str, ...]) -> None:
    """Give the processes' roles what they need on every table; audit and journal stay append-only by trigger."""
    for role in roles:
        connection.execute(f'GRANT USAGE ON SCHEMA public TO "{role}"')
        connection.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{role}"')
        connection.execute(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "{role}"')
