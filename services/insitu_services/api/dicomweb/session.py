"""The parts of one STOW-RS request on their way into the archive, and what became of each.

Objects come whole, or as metadata and bulk data apart, which are put together at the end of the request (assembly).
Not here: the request and its answer (stow), what makes an object archivable (insitu.archive).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from insitu.archive import reserve
from insitu.archive.incoming import Incoming
from insitu.archive.outcome import Outcome, Stored
from insitu.archive.receipts import Receipt
from insitu.archive.store import Archive
from insitu.archive.tolerant import FAILURES
from insitu.errors import Invalid, Unavailable

from .assembly import Assembly, Built, write
from .multipart import Parser, PartData, PartStart
from .negotiation import BadRequest

logger = logging.getLogger(__name__)

UNDER_WAY = 4  # complete objects of one request that become durable together
_COMMITS = ThreadPoolExecutor(2 * UNDER_WAY, thread_name_prefix="commit")

# Failure Reason (0008,1197), PS3.18 10.5.3.2 with the status codes of PS3.4 B.2.3 and PS3.7 C
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True)
class Item:
    """What became of one part. `failure` None: it is safe."""

    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    failure: int | None = None


def item_of(stored: Stored, study: str | None) -> Item:
    """The item for an outcome of the archive; `study` is the one named by the resource."""
    failure = None
    if stored.outcome is Outcome.CONFLICT_REFUSED:
        failure = DUPLICATE_SOP_INSTANCE
    elif not stored.success:
        other_study = study is not None and stored.study_instance_uid not in (None, study)
        failure = DOES_NOT_MATCH if other_study else CANNOT_UNDERSTAND
    known = stored.outcome in (Outcome.STORED, Outcome.DUPLICATE)
    return Item(
        stored.sop_class_uid,
        stored.sop_instance_uid,
        stored.study_instance_uid if known else None,
        stored.series_instance_uid if known else None,
        failure,
    )


class Session:
    """One request's parts on their way into the archive. Used by one thread at a time.

    While the next parts are read, a few that are complete become durable and indexed in threads of their own: each of them waits
    for the disk twice, and they can do so together.

    Parameters
    ----------
    archive : Archive
    receipt : Receipt
    boundary : str
        Of the multipart body.
    study : str, optional
        Study Instance UID every object must have.
    """

    def __init__(self, archive: Archive, receipt: Receipt, boundary: str, study: str | None) -> None:
        self._archive = archive
        self._receipt = receipt
        self._parser = Parser(boundary)
        self._study = study
        self._incoming: Incoming | None = None
        self._failure: int | None = None
        self._open = False
        self._results: list[Item | Future[Item]] = []
        self._under_way: dict[Future[Item], str | None] = {}  # with the SOP Instance UID
        self._series: set[str | None] = set()  # whose first object of this request is through

    @property
    def items(self) -> list[Item]:
        """What became of the parts, in their order; waits for those that are under way."""
        return [each if isinstance(each, Item) else each.result() for each in self._results]

    def fail(self) -> None:
        """Note that something of the body could not be understood."""
        self._results.append(Item(failure=CANNOT_UNDERSTAND))

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body.

        Raises
        ------
        BadRequest
            The body is no multipart body.
        """
        for event in self._parser.feed(data):
            if isinstance(event, PartStart):
                self._begin(event)
            elif isinstance(event, PartData):
                self._write(event.data)
            else:
                self._end()

    def finish(self) -> None:
        """Say that the body has ended: a part without an end is a failure.

        Raises
        ------
        BadRequest
            The body held no part.
        """
        if self._open:
            self.abort()
            self.fail()
        elif not self._results:
            raise BadRequest(
                "The body holds no part",
                why="no delimiter with this boundary was found in it",
                remedy="Send multipart/related with one application/dicom part per object",
            )
        elif not self._parser.complete:
            self.fail()

    def abort(self) -> None:
        """Forget the object at hand; those that were complete are waited for."""
        self._forget()
        wait(self._under_way)

    def _forget(self) -> None:
        if self._incoming is not None:
            self._incoming.abort()
            self._incoming = None

    def _begin(self, part: PartStart) -> None:
        self._open = True
        self._failure = None
        declared = part.headers.get("content-type", "application/dicom").split(";")[0].strip().lower()
        if declared not in ("application/dicom", "application/octet-stream"):
            self._failure = CANNOT_UNDERSTAND
            return
        try:
            self._incoming = self._archive.begin(self._receipt, study_instance_uid=self._study)
        except Unavailable as error:
            self._out_of_resources(error)

    def _write(self, data: memoryview) -> None:
        if self._incoming is None:
            return
        try:
            self._incoming.write(data)
        except Unavailable as error:
            self._out_of_resources(error)

    def _end(self) -> None:
        self._open = False
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            self._results.append(Item(failure=self._failure or PROCESSING_FAILURE))
            return
        self._hand_over(incoming)

    def _hand_over(self, incoming: Incoming) -> None:
        """Let a complete object become durable while the next one is read."""
        try:
            uid, series = incoming.seen_uids()
        except Unavailable as error:
            self._out_of_resources(error)
            incoming.abort()
            self._results.append(Item(failure=OUT_OF_RESOURCES))
            return
        self._make_way(uid)
        future = _COMMITS.submit(self._commit, incoming)
        self._under_way[future] = uid
        self._results.append(future)
        if series not in self._series:
            # The first object says what its series and study are, and since when they are here: none may overtake it.
            wait([future])
            self._series.add(series)

    def _make_way(self, uid: str | None) -> None:
        """Wait while too many are under way, and for one of the same UID: the first of a request is the first in the archive."""
        while self._under_way:
            same = [each for each, other in self._under_way.items() if other == uid and uid is not None]
            if same:
                wait(same)
            elif len(self._under_way) >= UNDER_WAY:
                wait(self._under_way, return_when=FIRST_COMPLETED)
            self._under_way = {each: other for each, other in self._under_way.items() if not each.done()}
            if not same and len(self._under_way) < UNDER_WAY:
                return

    def _commit(self, incoming: Incoming) -> Item:
        try:
            return item_of(incoming.commit(), self._study)
        except Unavailable as error:
            logger.warning("an object was refused: %s", error)
            return Item(failure=OUT_OF_RESOURCES)
        except Exception:  # the other parts are stored or refused on their own
            logger.exception("an object could not be stored")
            return Item(failure=PROCESSING_FAILURE)

    def _out_of_resources(self, error: Unavailable) -> None:
        logger.warning("an object was refused: %s", error)
        self._failure = OUT_OF_RESOURCES
        self._forget()


class SeparateSession(Session):
    """One request of metadata and bulk data (PS3.18 10.5.1.4): objects are put together once its last part is here.

    Parameters
    ----------
    archive, receipt, boundary, study
        As of a `Session`.
    assembly : Assembly
        Takes the parts.
    """

    def __init__(
        self, archive: Archive, receipt: Receipt, boundary: str, study: str | None, assembly: Assembly
    ) -> None:
        super().__init__(archive, receipt, boundary, study)
        self._assembly = assembly

    def finish(self) -> None:
        """Put the objects together and store them.

        Raises
        ------
        BadRequest
            The body is not complete, or its metadata cannot be read.
        """
        if not self._parser.complete:
            raise BadRequest("The body ends before its last part does", remedy="Send it again as a whole")
        for built in self._assembly.objects():
            self._take(built)
        if not self._results:
            raise BadRequest("The metadata of the request holds no object")

    def abort(self) -> None:
        """Forget what waits to be put together."""
        super().abort()
        self._assembly.close()

    def _begin(self, part: PartStart) -> None:
        with _disk():
            reserve.require(self._archive.settings)
            self._assembly.begin(part.headers)

    def _write(self, data: memoryview) -> None:
        with _disk():
            self._assembly.write(data)

    def _end(self) -> None:
        self._assembly.end()

    def _take(self, built: Built) -> None:
        failure, incoming = CANNOT_UNDERSTAND, None
        try:
            if built.dataset is None:
                raise Invalid(built.why or "")
            incoming = self._archive.begin(
                self._receipt,
                transfer_syntax_uid=built.transfer_syntax,
                sop_class_uid=built.sop_class_uid,
                sop_instance_uid=built.sop_instance_uid,
                study_instance_uid=self._study,
            )
            write(built.dataset, incoming.write)
        except Unavailable as error:
            logger.warning("an object was refused: %s", error)
            failure = OUT_OF_RESOURCES
        except (Invalid, *FAILURES) as error:
            why = error if isinstance(error, Invalid) else type(error).__name__
            logger.warning("an object could not be put together: %s", why)
        else:
            self._hand_over(incoming)
            return
        if incoming is not None:
            incoming.abort()
        self._results.append(Item(built.sop_class_uid, built.sop_instance_uid, failure=failure))


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable("The disk does not take the bulk data", why=error.strerror) from error
