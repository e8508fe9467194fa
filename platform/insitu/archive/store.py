"""The one write path of the archive: every object, from whatever door, becomes durable and indexed here, or neither.

The blob is durable first; then one transaction writes the instance row and "series dirty"; then the caller may say success.
Not here: the doors (receiver, STOW-RS, run gateway) and what follows from a dirty series (insitu.archive.completeness).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from insitu.database import Connection, Database
from insitu.errors import Conflict, Invalid, Unavailable
from insitu.events.wake import Waker
from insitu.settings import Settings

from . import reserve, rows
from .blobs import BlobStore
from .incoming import Contradiction, Incoming, database_away
from .outcome import Outcome, Stored
from .patient import PatientCache
from .receipts import LEASE, Channel, Receipt, ordered_uuid

__all__ = ["Archive", "Outcome", "Receipt", "Stored"]

logger = logging.getLogger(__name__)

COPY_STEP = 1 << 20


class Archive:
    """The research PACS as those see it who put objects in. One per process, made after a fork.

    Parameters
    ----------
    database : Database
    blobs : BlobStore
    settings : Settings
    """

    def __init__(self, database: Database, blobs: BlobStore, settings: Settings) -> None:
        self.database = database
        self.blobs = blobs
        self.settings = settings
        self.series_seen = rows.SeriesCache()
        self.patients_seen = PatientCache()
        self._waker = Waker(database.dsn)

    def close(self) -> None:
        """End the wake-up thread. The database and the blobs belong to the caller."""
        self._waker.close()

    def wake(self) -> None:
        """Tell the dispatcher that there is work; returns at once."""
        self._waker.wake()

    def open_receipt(
        self,
        *,
        channel: Channel,
        calling_ae: str | None = None,
        called_ae: str | None = None,
        peer: str | None = None,
        principal: str | None = None,
        project: str | None = None,
        execution: str | None = None,
    ) -> Receipt:
        """Note who brings objects, durably, and open a lease of 30 s that keeps their series from becoming complete.

        Call `renew` at least every 10 s while the association or request goes on, and `close_receipt` at its end.

        Raises
        ------
        Invalid
            There is no such project.
        Unavailable
            Disk or database do not answer.
        """
        receipt = Receipt(
            id=str(ordered_uuid()),
            arrived_at=datetime.now(UTC),
            channel=channel,
            calling_ae=calling_ae,
            called_ae=called_ae,
            peer=peer,
            principal=principal,
            project=project,
            link_project=project or self.settings.default_project,
            execution=execution,
        )
        try:
            with self.database.transaction() as connection:
                if project is None:
                    connection.execute(
                        "INSERT INTO project (name) VALUES (%s) ON CONFLICT DO NOTHING", (receipt.link_project,)
                    )
                elif not connection.execute("SELECT 1 FROM project WHERE name = %s", (project,)).fetchone():
                    raise Invalid("There is no such project", value=project, remedy="See `insitu project list`")
                receipt.write(self.blobs)
                rows.insert_receipt(connection, receipt)
                rows.open_association(connection, receipt.id)
        except psycopg.OperationalError as error:
            raise database_away(error) from error
        return receipt

    def renew(self, receipt: Receipt) -> None:
        """Extend the lease: the association is still open."""
        try:
            with self.database.transaction() as connection:
                rows.renew_association(connection, receipt.id)
        except psycopg.OperationalError as error:
            raise database_away(error) from error

    def close_receipt(self, receipt: Receipt) -> None:
        """Say that no more objects come under this receipt. Where the database is away the lease ends by itself."""
        try:
            with self.database.transaction() as connection:
                rows.close_association(connection, receipt.id)
        except (psycopg.OperationalError, Unavailable):
            logger.warning("receipt %s could not be closed; its lease ends in %d s", receipt.id, LEASE)
            return
        self.wake()

    def begin(
        self,
        receipt: Receipt,
        *,
        transfer_syntax_uid: str | None = None,
        sop_class_uid: str | None = None,
        sop_instance_uid: str | None = None,
        study_instance_uid: str | None = None,
    ) -> Incoming:
        """Start to take one object.

        Parameters
        ----------
        receipt : Receipt
        transfer_syntax_uid : str, optional
            Given: a bare data set follows (C-STORE), preamble and file meta information are written here.
            None: a DICOM file follows (STOW-RS, import).
        sop_class_uid, sop_instance_uid, study_instance_uid : str, optional
            What the sender says the object is; another object is quarantined.

        Raises
        ------
        Unavailable
            The disk does not take it, or is nearly full.
        """
        reserve.require(self.settings)
        return Incoming(self, receipt, transfer_syntax_uid, sop_class_uid, sop_instance_uid, study_instance_uid)

    def store_results(
        self,
        receipt: Receipt,
        files: Sequence[Path],
        execution: str,
        project: str,
        connection_hook: Callable[[Connection, list[Stored]], None] | None = None,
    ) -> list[Stored]:
        """Store the results of an execution, all in one transaction or none. A repeat of the same files changes nothing.

        Parameters
        ----------
        receipt : Receipt
            Of channel `result`.
        files : sequence of Path
            DICOM files.
        execution, project : str
            Must be those of the receipt.
        connection_hook : callable, optional
            Called with the connection and the outcomes inside the transaction; an exception undoes everything.

        Returns
        -------
        list of Stored
            In the order of `files`; each STORED or DUPLICATE.

        Raises
        ------
        Conflict
            A file cannot be archived, or other content stands under one of the UIDs. That file is quarantined.
        Unavailable
            Disk or database do not answer; trying again is safe.
        """
        if (receipt.channel, receipt.execution, receipt.project) != ("result", execution, project):
            raise Invalid("This receipt is not one for results of that execution", value=execution)
        incoming: list[Incoming] = []
        try:
            for file in files:
                item = self.begin(receipt)
                incoming.append(item)
                with Path(file).open("rb") as stream:
                    while chunk := stream.read(COPY_STEP):
                        item.write(chunk)
            return self._store_together(incoming, connection_hook)
        finally:
            for item in incoming:
                item.abort()

    def _store_together(
        self, incoming: list[Incoming], hook: Callable[[Connection, list[Stored]], None] | None
    ) -> list[Stored]:
        try:
            for item in incoming:
                if not item.prepare():
                    raise Conflict("A result cannot be archived", why=item.quarantine().reason)
        except BaseException:
            self._settle(incoming, committing=False)
            raise
        # One order for everybody, so that two repeats of one execution cannot wait for each other in a ring.
        order = sorted(range(len(incoming)), key=lambda n: incoming[n].identity.sop_instance_uid)
        outcomes: dict[int, Stored] = {}
        offender: int | None = None
        committing = False
        try:
            with self.database.transaction() as connection:
                for number in order:
                    offender = number
                    outcomes[number] = incoming[number].insert(connection)
                    if outcomes[number].outcome not in (Outcome.STORED, Outcome.DUPLICATE):
                        raise Contradiction("other content stands under its SOP Instance UID")
                stored = [outcomes[number] for number in range(len(incoming))]
                offender = None
                if hook is not None:
                    hook(connection, stored)
                committing = True
        except Contradiction as error:
            for number, item in enumerate(incoming):
                if number != offender:
                    item.withdraw()
            assert offender is not None  # noqa: S101
            reason = incoming[offender].quarantine(str(error)).reason
            raise Conflict("A result was not taken into the archive", why=reason) from error
        except psycopg.OperationalError as error:
            self._settle(incoming, committing)
            raise database_away(error) from error
        except BaseException:
            self._settle(incoming, committing)
            raise
        for item in incoming:
            item.settle()
        self.wake()
        return stored

    @staticmethod
    def _settle(incoming: list[Incoming], committing: bool) -> None:
        # Whether a commit that was under way went through is not known: then the blobs stay, and scrub sees to them.
        if not committing:
            for item in incoming:
                item.withdraw()
