"""Carrying claimed work to its end, whatever it is: failures are noted, what has ended is audited, a stop gives it back.

Not here: what is carried (transfers, retrievals), the threads and leases (exchange).
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod

import psycopg

from insitu.archive.store import Archive
from insitu.database import Connection, Database, Row
from insitu.errors import InsituError
from insitu.nodes import registry
from insitu.nodes.leases import Claim
from insitu.nodes.queue import Failure, Patience, Queue
from insitu.nodes.registry import Node
from insitu.settings import Settings

logger = logging.getLogger("insitu.dispatcher")


class Halted(Exception):
    """Work cannot go on; why."""

    def __init__(self, sentence: str, *, final: bool = False) -> None:
        super().__init__(sentence)
        self.failure = Failure(sentence, final)


class Carrier(ABC):
    """Carries claimed work of one kind. One for all threads.

    Parameters
    ----------
    settings : Settings
    database : Database
    archive : Archive
    stopping : threading.Event
        Set when the process ends: no further object is begun.
    """

    queue: Queue

    def __init__(self, settings: Settings, database: Database, archive: Archive, stopping: threading.Event) -> None:
        self._settings = settings
        self._database = database
        self._archive = archive
        self._stopping = stopping
        self._patience = Patience(settings.transfer_attempts, settings.transfer_retry)

    def carry(self, work: Claim) -> None:
        """Do what is due of a claim, then give it back.

        Raises
        ------
        Unavailable
            The database does not answer; the lease ends by itself.
        """
        failure = self._attempt(work)
        if failure:
            logger.warning("a %s with %s waits or fails: %s", work.table, work.node, failure.sentence)
        with self._database.transaction() as connection:
            if failure and self._stopping.is_set():
                self.queue.let_go(connection, work)
                return
            for ended in self._settle(connection, work, failure):
                self._audit(connection, self.queue.get(connection, ended, None))

    def _attempt(self, work: Claim) -> Failure | None:
        try:
            with self._database.transaction() as connection:
                node = registry.find(connection, work.node)
            self._work(node, work)
        except Halted as halted:
            return halted.failure
        except InsituError as error:
            return Failure(str(error))
        except psycopg.OperationalError:
            raise  # nothing can be noted now; the lease ends by itself
        except Exception:  # what nobody thought of must not be tried without end
            logger.exception("a %s with %s failed", work.table, work.node)
            return Failure("A mistake of the platform; see the dispatcher's log.")
        return None

    @abstractmethod
    def _work(self, node: Node, work: Claim) -> None:
        """Do what is due.

        Raises
        ------
        Halted
            It cannot go on.
        """

    @abstractmethod
    def _settle(self, connection: Connection, work: Claim, failure: Failure | None) -> list[str]:
        """Note what became of the claim, and give it back; what has ended."""

    @abstractmethod
    def _audit(self, connection: Connection, row: Row) -> None:
        """Put the end of one piece of work into the audit trail."""
