"""The PostgreSQL database: transactions on a pool of connections, and bringing the schema up to date.

Not here: the connections themselves (pool), and when one is given up (patience).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import set_json_loads
from pydantic_core import from_json

from insitu.errors import Unavailable
from insitu.patience import Patience
from insitu.pool import NoConnection, Pool

set_json_loads(from_json)  # half the time of json.loads: a search reads hundreds of documents

Row = dict[str, Any]
Connection = psycopg.Connection[Row]

PATIENCE = 30.0  # seconds
WAIT_SECONDS = 10.0  # for a connection


class Database:
    """A pool of connections whose rows are dictionaries.

    Parameters
    ----------
    dsn : str
        libpq connection string.
    minimum, maximum : int
        Connections kept open once they are, and at most opened.
    patience : float
        Seconds after which a connection that waits for a silent server is cut off.
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
        self._patience = Patience(dsn, patience, statement_seconds)
        options: dict[str, Any] = {}
        if statement_seconds is not None:
            options["options"] = f"-c statement_timeout={round(statement_seconds * 1000)}"
        self._pool = Pool(dsn, minimum, maximum, self._patience, options)

    @property
    def silent_at(self) -> float | None:
        """When a single process of a PostgreSQL that lives was found silent last, in seconds since the epoch."""
        return self._patience.alone

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """A connection on which every statement is a transaction by itself, in one round trip.

        Raises
        ------
        Unavailable
            No connection could be had within ten seconds.
        """
        try:
            connection = self._pool.take(WAIT_SECONDS)
        except NoConnection as error:
            raise Unavailable(
                "The database does not answer", why=str(error), remedy="Look at `insitu status`; try again"
            ) from error
        try:
            yield connection
        finally:
            self._pool.give_back(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection inside a transaction: committed at the end of the block, rolled back by an exception.

        Raises
        ------
        Unavailable
            No connection could be had within ten seconds.
        """
        with self.statement() as connection, connection.transaction():
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._patience.close()
        self._pool.close()


def _alembic() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(dsn: str) -> None:
    """Bring the schema of the database at `dsn` to the newest revision (Alembic, forward only)."""
    from alembic import command

    config = _alembic()
    config.attributes["dsn"] = dsn
    command.upgrade(config, "head")


def newest_revision() -> str:
    """The revision that this version of the platform works with."""
    from alembic.script import ScriptDirectory

    return str(ScriptDirectory.from_config(_alembic()).get_current_head())


def grant(connection: psycopg.Connection[Any], roles: tuple[str, ...]) -> None:
    """Give the processes' roles what they need on every table; audit and journal stay append-only by trigger."""
    for role in roles:
        connection.execute(f'GRANT USAGE ON SCHEMA public TO "{role}"')
        connection.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{role}"')
        connection.execute(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "{role}"')
