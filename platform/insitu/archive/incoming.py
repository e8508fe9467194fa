"""One object on its way into the archive: streamed to its blob, examined as it comes, then durable and indexed, or neither.

The blob is durable first; then one transaction writes the instance row and "series dirty"; then the caller may say success.
Not here: who may open it and the receipts (insitu.archive.store).
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING

import psycopg

from insitu.database import Connection, Row
from insitu.errors import Unavailable

from . import derivation, journal, links, patient, rows
from .classes import storable
from .examine import Examination, Identity, Unfit, file_meta
from .levels import SERIES_INSTANCE_UID, SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID
from .outcome import Outcome, Stored
from .receipts import Receipt, ordered_uuid, time_of

if TYPE_CHECKING:
    from .store import Archive

logger = logging.getLogger(__name__)

GATHERED = 65_536  # bytes; smaller pieces are put together, so that small PDUs cost no write and no digest each
TRIES = 3  # of a transaction that PostgreSQL breaks off in favour of another


class Contradiction(Exception):
    """The object contradicts the index; rolls back the transaction it is found in."""


class Vanished(Exception):
    """What the object ran into was deleted just now: it is to be tried again."""


class Incoming:
    """One object on its way in. Use it from one thread; `commit` or `abort` ends it."""

    def __init__(
        self,
        archive: Archive,
        receipt: Receipt,
        transfer_syntax_uid: str | None,
        sop_class_uid: str | None,
        sop_instance_uid: str | None,
        study_instance_uid: str | None = None,
    ) -> None:
        self._archive = archive
        self._receipt = receipt
        self._id = ordered_uuid()
        self.key = f"objects/{receipt.id}/{self._id}.dcm"
        self._examination = Examination(transfer_syntax_uid, sop_class_uid, sop_instance_uid, study_instance_uid)
        self._writer = archive.blobs.create(self.key)
        self._gathered = bytearray()
        self._size = 0
        self._meta_size = 0
        self._identity: Identity | None = None
        self._unfit = ""
        self._durable_at: str | None = None
        self._stored: Stored | None = None
        self._patient: bytes | None = None
        self._perhaps_indexed = False  # a statement was sent that may have been carried out
        self._ended = False
        if transfer_syntax_uid is not None:
            meta = file_meta(
                transfer_syntax_uid.strip(" \0"), sop_class_uid or "", sop_instance_uid or "", receipt.calling_ae
            )
            try:
                self._writer.write(meta)
            except BaseException:
                self._writer.abort()
                raise
            self._size = self._meta_size = len(meta)

    def __enter__(self) -> Incoming:
        """Abort at the end of the block what was not committed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()

    @property
    def identity(self) -> Identity:
        """Who the object is; after a successful `prepare`."""
        assert self._identity is not None  # noqa: S101
        return self._identity

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes. They go to disk by and by; the object is never held in memory.

        Raises
        ------
        Unavailable
            The disk is full or fails.
        """
        if not self._gathered and len(data) >= GATHERED:
            self._take(data)
            return
        self._gathered += data
        if len(self._gathered) >= GATHERED:
            self._flush()

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, bytearray()
        if gathered:
            self._take(memoryview(gathered))

    def _take(self, data: bytes | memoryview) -> None:
        self._writer.write(data)
        self._size += len(data)
        self._examination.feed(data)

    def seen_uids(self) -> tuple[str | None, str | None]:
        """SOP Instance UID and Series Instance UID as far as the bytes so far tell them; None where they do not.

        Raises
        ------
        Unavailable
            The disk is full or fails.
        """
        self._flush()
        return self._examination.seen(SOP_INSTANCE_UID), self._examination.seen(SERIES_INSTANCE_UID)

    def commit(self) -> Stored:
        """Make the object durable and indexed. After STORED, DUPLICATE and CONFLICT_KEPT the sender may be told success.

        Raises
        ------
        Unavailable
            Disk or database do not answer; nothing was stored, the sender should try again.
        """
        try:
            if not self.prepare():
                return self.quarantine()
            stored = self._index_in_one()
            if stored is not None:
                self._archive.wake()
                return stored
            for attempt in range(TRIES):
                try:
                    return self._index()
                except (psycopg.errors.DeadlockDetected, Vanished) as error:
                    if attempt == TRIES - 1:
                        self._give_up()
                        raise Unavailable("The archive is busy with this object", remedy="Send it again") from error
            raise AssertionError  # the loop returns or raises
        except Contradiction as error:
            return self.quarantine(str(error))
        except psycopg.OperationalError as error:
            raise database_away(error) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Forget the object without a trace, where it has not been committed."""
        if not self._ended:
            self._ended = True
            self._writer.abort()

    def prepare(self) -> bool:
        """Examine the whole object and make its blob durable. False where it is unfit: then only `quarantine` is left."""
        self._flush()
        try:
            self._identity = self._examination.finish(self._writer.contents)
            if not storable(
                self._identity.sop_class_uid, accept_unknown=self._archive.settings.accept_unknown_sop_classes
            ):
                raise Unfit("the SOP class is no storage class known here, and accept_unknown_sop_classes is off")
        except Unfit as error:
            self._unfit = str(error)
            return False
        self._writer.commit()
        self._durable_at = self.key
        self._ended = True
        return True

    def _row(self) -> rows.InstanceRow:
        return rows.InstanceRow(
            identity=self.identity,
            digest=self._examination.digest,
            blob_key=self.key,
            size=self._size,
            dataset_offset=self._meta_size + self._examination.dataset_offset,
            received_at=time_of(self._id),
        )

    def _index_in_one(self) -> Stored | None:
        """The usual case in one statement, which is a transaction by itself: a new object of a series and patient seen here.

        None where the case is another, or where PostgreSQL did not say whether it did it: then `insert` sees what there is,
        and as long as nobody could look the blob must stay.
        """
        archive = self._archive
        cached = archive.series_seen.get(self.identity.series_instance_uid)
        if cached is None or cached[1] != self.identity.study_instance_uid:
            return None
        if (cached[0], patient.said(self.identity)) not in archive.patients_seen:
            return None
        try:
            with archive.database.statement() as connection:
                self._perhaps_indexed = True
                inserted = rows.insert_instance(connection, self._row(), cached[0], self._receipt.id)
        except psycopg.IntegrityError:
            self._perhaps_indexed = False  # refused for certain: the series is gone, say
            return None
        except psycopg.Error:
            return None
        except Unavailable:
            self.withdraw()  # no connection was to be had, so nothing was sent
            raise
        self._perhaps_indexed = False
        if not inserted:
            return None
        self._seen = cached
        self._stored = self._outcome(Outcome.STORED)
        return self._stored

    def insert(self, connection: Connection) -> Stored:
        """Put the object into the index within the caller's transaction, or tell why not."""
        identity = self.identity
        archive = self._archive
        row = self._row()
        cached = archive.series_seen.get(identity.series_instance_uid)
        if cached is None:
            series, study = rows.ensure_series(connection, row, self._receipt)
        else:
            series, study = cached
        if study != identity.study_instance_uid:
            raise Contradiction(f"its series is known under another study: {study}")
        inserted = rows.insert_instance(connection, row, series, self._receipt.id)
        if inserted:
            self._compare_patient(connection, series)
            self._stored = self._outcome(Outcome.STORED)
            self._seen = (series, study)
            return self._stored
        known = rows.known_instance(connection, identity.sop_instance_uid)
        if known is None:
            raise Vanished
        if known["blob_key"] == self.key:
            # A rebuild of the index came across the durable blob before this transaction: the row is ours.
            rows.mark_dirty(connection, known["series"], self._receipt.id)
            self._stored = self._outcome(Outcome.STORED)
            self._seen = (series, study)
            return self._stored
        if bytes(known["digest"]) == row.digest and known["transfer_syntax_uid"] == identity.transfer_syntax_uid:
            if not archive.blobs.exists(known["blob_key"]):
                return self._replace_lost(connection, row, known)
            if self._receipt.project is not None:
                rows.link_shared(connection, archive.blobs, known["series"], self._receipt)
            rows.note_sender(connection, known["id"], self._receipt)
            self._stored = self._outcome(Outcome.DUPLICATE)
        else:
            self._stored = self._outcome(
                Outcome.CONFLICT_KEPT if archive.settings.known_uid_policy == "keep" else Outcome.CONFLICT_REFUSED,
                "another object is known under this SOP Instance UID",
            )
        return self._stored

    def _compare_patient(self, connection: Connection, series: int) -> None:
        """See that a new object is of the patient of its study; known objects are compared by their digest."""
        said = patient.said(self.identity)
        if (series, said) in self._archive.patients_seen:
            return
        if patient.contradict(patient.of_series(connection, series), patient.read(self.identity)):
            raise Contradiction("its study is known under another Patient ID")
        self._patient = said

    def _replace_lost(self, connection: Connection, row: rows.InstanceRow, known: Row) -> Stored:
        """The blob of what is known is lost, or was put aside because it had rotted: this one takes its place."""
        if not rows.replace_blob(connection, known, row, self._receipt.id):
            raise Vanished
        if self._receipt.project is not None:
            rows.link_shared(connection, self._archive.blobs, known["series"], self._receipt)
        # It is now the last to arrive.
        derivation.derive_series(connection, self._archive.blobs, known["series"])
        derivation.derive_study(connection, self._archive.blobs, known["study"])
        links.record(connection, self._archive.blobs, known["series"])
        rows.mark_dirty(connection, known["series"], self._receipt.id)
        self._stored = self._outcome(Outcome.STORED)
        self._seen = (known["series"], self.identity.study_instance_uid)
        return self._stored

    def settle(self) -> None:
        """After the transaction: forget the blob of what was here already, remember the series of what was new."""
        stored = self._stored
        if stored is not None and stored.outcome is Outcome.STORED:
            self._archive.series_seen.put(self.identity.series_instance_uid, *self._seen)
            if self._patient is not None:
                self._archive.patients_seen.put(self._seen[0], self._patient)
        elif stored is not None and self._durable_at == self.key:
            self.withdraw()

    def withdraw(self) -> None:
        """Remove the durable blob of an object that did not enter the index."""
        if self._durable_at is not None:
            self._archive.blobs.delete(self._durable_at)
            self._durable_at = None

    def _give_up(self) -> None:
        """Remove the blob of an object that is not in the index, if that is certain; else scrub sees to it."""
        if not self._perhaps_indexed:
            self.withdraw()

    def quarantine(self, reason: str | None = None) -> Stored:
        """Keep an object that cannot be archived, with the reason, for a person."""
        reason = reason or self._unfit
        key = f"quarantine/{self._receipt.id}/{self._id}"
        if self._durable_at is not None:
            self._archive.blobs.move(self._durable_at, key)
        else:
            self._writer.commit(key)
            self._ended = True
        self._durable_at = key
        committing = False
        try:
            journal.append(
                self._archive.blobs, "quarantine", key=key, reason=reason, size=self._size, receipt=self._receipt.id,
                at=time_of(self._id).isoformat(),
            )  # fmt: skip
            with self._archive.database.transaction() as connection:
                rows.insert_quarantine(connection, key, reason, self._size, self._receipt.id, time_of(self._id))
                committing = True
        except BaseException as error:
            if not committing:
                self.withdraw()
            if isinstance(error, psycopg.OperationalError):
                raise database_away(error) from error
            raise
        self._durable_at = None  # it is not ours to withdraw any more
        logger.warning(
            "an object was quarantined: %s", reason,
            extra={"fields": {"receipt": self._receipt.id, "blob_key": key, "bytes": self._size}},
        )  # fmt: skip
        return self._outcome(Outcome.QUARANTINED, reason)

    def _index(self) -> Stored:
        committing = False
        try:
            with self._archive.database.transaction() as connection:
                stored = self.insert(connection)
                if stored.outcome is Outcome.CONFLICT_KEPT:
                    self._keep_conflict(connection)
                committing = True
        except psycopg.errors.ForeignKeyViolation as error:
            # The series was deleted since this process, or this transaction, saw it last.
            self._archive.series_seen.forget(self.identity.series_instance_uid)
            raise Vanished from error
        except (Contradiction, Vanished, psycopg.errors.DeadlockDetected):
            raise  # the blob is moved, or used again
        except BaseException:
            # Whether a commit that was under way went through is not known: then the blob stays, and scrub sees to it.
            if not committing:
                self._give_up()
            raise
        self._perhaps_indexed = False
        self.settle()
        if stored.outcome is Outcome.STORED:
            self._archive.wake()
        elif not stored.success or stored.outcome is Outcome.CONFLICT_KEPT:
            logger.warning(
                "another object under a known SOP Instance UID was %s",
                "kept as a conflict" if stored.success else "refused",
                extra={"fields": {"receipt": self._receipt.id}},  # a UID would lead to the patient
            )
        return stored

    def _keep_conflict(self, connection: Connection) -> None:
        """Keep the second object under a known UID aside; the same second object again is kept once."""
        key = f"conflicts/{self._receipt.id}/{self._id}.dcm"
        identity = self.identity
        kept = rows.insert_conflict(
            connection, identity.sop_instance_uid, self._examination.digest, identity.transfer_syntax_uid, key,
            self._receipt.id, time_of(self._id),
        )  # fmt: skip
        if kept:
            self._archive.blobs.move(self.key, key)
            self._durable_at = key
            journal.append(
                self._archive.blobs, "conflict", key=key, sop_instance_uid=identity.sop_instance_uid,
                digest=self._examination.digest.hex(), transfer_syntax_uid=identity.transfer_syntax_uid,
                receipt=self._receipt.id, at=time_of(self._id).isoformat(),
            )  # fmt: skip

    def _outcome(self, outcome: Outcome, reason: str | None = None) -> Stored:
        seen = self._examination.seen
        return Stored(
            outcome, seen(SOP_CLASS_UID), seen(SOP_INSTANCE_UID), seen(STUDY_INSTANCE_UID), seen(SERIES_INSTANCE_UID),
            reason,
        )  # fmt: skip


def database_away(error: psycopg.Error) -> Unavailable:
    """What a caller is told when PostgreSQL does not answer."""
    return Unavailable(
        "The database does not answer", why=str(error).splitlines()[0] if str(error) else None, remedy="Try again"
    )
