"""One association from the first byte to the last: the acceptor's side of the upper layer (PS3.8 9.2) and its messages.

An object is stored as its fragments come. Any other request is taken in whole, and carried out by its service when the PDU
that ended it has been read; while that goes on, only a cancel and the responses to our own requests may come.
Not here: reading PDUs (pdu), deciding who may (negotiation, callers), the services (storage, query, retrieve, commitment).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable

import psycopg

from insitu.archive.store import Archive
from insitu.errors import InsituError
from insitu.settings import Settings

from . import callers, command, commitment, negotiation, pdu, query, retrieve, storage
from .callers import Caller
from .command import BadCommand, Command
from .dialogue import (
    OUT_OF_RESOURCES,
    PENDING,
    SUCCESS,
    UNABLE_TO_PROCESS,
    UNRECOGNIZED_OPERATION,
    DataSetBuffer,
    Later,
    Refusal,
    Request,
)
from .negotiation import Agreement, Rejection
from .pdu import PeerGone, ProtocolError, Reader
from .secure import SecureSocket
from .sop_classes import FOR_NODES
from .storage import Delivery, Reception

logger = logging.getLogger("insitu.receiver")

CLOSE_SECONDS = 2.0  # until the peer closes after the end
KEPT_BACK = 32_768  # bytes of pending answers that are sent together
SERVICES = {
    command.C_FIND_RQ: query.find,
    command.C_MOVE_RQ: retrieve.move,
    command.C_GET_RQ: retrieve.get,
    command.N_ACTION_RQ: commitment.action,
}
NOT_SERVED = "This is not served here"


class Ended(Exception):  # an end, not an error
    """The peer has ended the association; the text says how."""


class Association:
    """An accepted connection.

    Parameters
    ----------
    connection : socket or SecureSocket
    peer : str
        Address.
    settings : Settings
    archive : Archive
    full : bool
        Refuse it, because there are too many.
    certificate : bytes, optional
        The peer's TLS certificate, DER.
    """

    def __init__(
        self,
        connection: socket.socket | SecureSocket,
        peer: str,
        settings: Settings,
        archive: Archive,
        *,
        full: bool = False,
        certificate: bytes | None = None,
    ) -> None:
        self._socket = connection
        self._peer = peer
        self.settings = settings
        self.archive = archive
        self._certificate = certificate
        self._full = full
        self._reader = Reader(connection, settings.idle_timeout)
        self._delivery: Delivery | None = None
        self._agreement: Agreement | None = None
        self._caller: Caller | None = None
        self._sending = threading.Lock()
        self._calling = self._called = ""
        self._echoes = 0
        self._statuses: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        # the message on its way in
        self._command: bytearray | None = None
        self._request: tuple[int, Command] | None = None  # context and command whose data set is awaited
        self._sink: Reception | DataSetBuffer | None = None
        # the request that is carried out, and what it waits for
        self._operation: Request | None = None
        self._cancels: set[int] = set()
        self._kept = bytearray()
        self._message_id = 0
        self._response: Command | None = None
        self._reports: list[Later] = []

    def run(self) -> None:
        """Serve until the association ends. Never raises."""
        began = time.monotonic()
        end = "failed"
        try:
            self._socket.settimeout(self.settings.association_timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            end = self._serve()
        except PeerGone:
            end = "connection lost"
        except ProtocolError as error:
            end = f"aborted by us: {error}"
            self._send_quietly(pdu.abort(error.reason))
            self._await_close()  # a connection closed over unread bytes is reset, and the abort is lost with it
        except TimeoutError:
            end = "aborted by us: nothing came in time"
            self._send_quietly(pdu.abort(0))
        except OSError as error:
            end = f"connection failed: {error.strerror}"
        except Exception:  # a mistake of ours must end this association only
            logger.exception("an association failed")
            self._send_quietly(pdu.abort(0))
        finally:
            if isinstance(self._sink, Reception):
                self._sink.abort()
            if self._delivery is not None:
                self._delivery.close()
            self._socket.close()
            for report in self._reports:
                report.hand_over()
            self._log(end, time.monotonic() - began)

    def renew(self) -> None:
        """Keep the lease of what it stores; called from another thread while the association is open."""
        if self._delivery is not None:
            try:
                self._delivery.renew()
            except InsituError as error:
                logger.warning("a lease could not be renewed: %s", error)

    def end(self) -> None:
        """Abort it, because this process stops; called from another thread."""
        self._send_quietly(pdu.abort(0, source=0))
        with contextlib.suppress(OSError):  # it may have ended by itself meanwhile
            self._socket.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> str:
        with self._reader.within(self.settings.association_timeout):
            rejection = self._associate()
        if rejection is not None:
            self._send(rejection.pdu())
            self._await_close()
            return f"rejected: {rejection.words}"
        self._socket.settimeout(self.settings.idle_timeout)
        try:
            while True:
                if self._reports and not self._reader.ready(commitment.QUIET_SECONDS):
                    self._reports.pop(0).deliver(self)
                self._take_pdu()
                if self._operation is not None:
                    self._carry_out(self._operation)
        except Ended as end:
            return str(end)

    def _take_pdu(self) -> None:
        """Read one PDU and do what it says.

        Raises
        ------
        Ended
            It ends the association.
        """
        kind, length = self._reader.header()
        if kind == pdu.P_DATA_TF:
            self._data(length)
        elif kind == pdu.RELEASE_RQ:
            self._reader.body(length)
            if self._command is not None or self._request is not None:
                raise ProtocolError("a release in the middle of a message", pdu.UNEXPECTED_PDU)
            if self._delivery is not None:
                self._delivery.close()
            self._send(pdu.RELEASE_REPLY)
            self._await_close()
            raise Ended("released")
        elif kind == pdu.ABORT:
            self._reader.body(length)
            raise Ended("aborted by the peer")
        elif kind in (pdu.ASSOCIATE_RQ, pdu.ASSOCIATE_AC, pdu.ASSOCIATE_RJ, pdu.RELEASE_RP):
            raise ProtocolError(f"PDU type {kind:02x} in an open association", pdu.UNEXPECTED_PDU)
        else:
            raise ProtocolError(f"unknown PDU type {kind:02x}", pdu.UNRECOGNIZED_PDU)

    def _associate(self) -> Rejection | None:
        """Read the request and accept it; or the reason why not."""
        kind, length = self._reader.header()
        if kind == pdu.ABORT:
            raise PeerGone
        if kind != pdu.ASSOCIATE_RQ:
            known = kind in range(pdu.ASSOCIATE_RQ, pdu.ABORT + 1)
            raise ProtocolError(
                f"PDU type {kind:02x} before an association", pdu.UNEXPECTED_PDU if known else pdu.UNRECOGNIZED_PDU
            )
        header = bytes([kind, 0]) + length.to_bytes(4, "big")
        body = self._reader.body(length)
        if len(body) < 68:
            raise ProtocolError("an A-ASSOCIATE-RQ that is cut off", pdu.INVALID_PARAMETER)
        if not body[1] & 1:
            return Rejection(1, 2, 2, "another protocol version")
        try:
            primitive = negotiation.request(header + body)
            self._calling = (primitive.calling_ae_title or "").strip()
            self._called = (primitive.called_ae_title or "").strip()
            if self._full:
                return negotiation.BUSY
            rejection = negotiation.refuse(self.settings, primitive, self._peer)
            if rejection is not None:
                return rejection
            if negotiation.for_nodes(primitive):
                self._caller = callers.identify(self.settings, self._calling, self._peer, self._certificate)
            agreement = negotiation.agree(self.settings, primitive, node=self._caller is not None)
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise ProtocolError(f"an A-ASSOCIATE-RQ that cannot be used: {error}", pdu.INVALID_PARAMETER) from error
        self._agreement = agreement
        self._delivery = Delivery(self.archive, self._calling, self._called, self._peer)
        self._send(agreement.pdu)
        return None

    def _data(self, length: int) -> None:
        """Take one P-DATA-TF: fragments of commands and data sets."""
        if length > self.settings.maximum_pdu:
            raise ProtocolError(f"a P-DATA-TF of {length} bytes, more than agreed", pdu.INVALID_PARAMETER)
        assert self._agreement is not None  # noqa: S101  # set before the loop that comes here
        for context, control, size in self._reader.fragments(length):
            if context not in self._agreement.contexts:
                raise ProtocolError(f"presentation context {context} was not accepted", pdu.INVALID_PARAMETER)
            is_command, is_last = bool(control & 1), bool(control & 2)
            if is_command:
                self._command_fragment(context, size, is_last)
            else:
                self._data_fragment(context, size, is_last)

    def _command_fragment(self, context: int, size: int, is_last: bool) -> None:
        if self._request is not None:
            raise ProtocolError("a command where a data set was to come", pdu.UNEXPECTED_PDU)
        collected = self._command if self._command is not None else bytearray()
        if len(collected) + size > command.LONGEST:
            raise ProtocolError("a command set that is too long", pdu.INVALID_PARAMETER)
        for piece in self._reader.pieces(size):
            collected += piece
        self._command = collected
        if not is_last:
            return
        self._command = None
        try:
            request = command.decode(bytes(collected))
            self._begin(context, request)
        except BadCommand as error:
            raise ProtocolError(f"a command set that cannot be read: {error}", pdu.INVALID_PARAMETER) from error

    def _begin(self, context: int, request: Command) -> None:
        """A whole command is here."""
        assert self._agreement is not None  # noqa: S101
        assert self._delivery is not None  # noqa: S101
        field = request.field
        if field & command.RESPONSE:
            self._take_response(context, request)
            return
        if field == command.C_CANCEL_RQ:
            self._cancels.add(request.number(command.MESSAGE_ID_RESPONDED_TO) or 0)
            return
        if self._operation is not None:
            raise ProtocolError("a request before the last one was answered", pdu.UNEXPECTED_PDU)
        if request.has_data_set:
            self._request = (context, request)
            abstract, syntax = self._agreement.contexts[context]
            if abstract in FOR_NODES:
                self._sink = DataSetBuffer()
            elif field == command.C_STORE_RQ and _may_store(abstract, request):
                self._sink = self._delivery.begin(abstract, request.uid(command.AFFECTED_SOP_INSTANCE), syntax)
            return
        if field == command.C_ECHO_RQ:
            self._echoes += 1
            self._respond(context, request, SUCCESS)
        elif field == command.C_STORE_RQ or field in SERVICES:
            self._respond(context, request, UNABLE_TO_PROCESS, "There is no data set")
        else:
            self._respond(context, request, UNRECOGNIZED_OPERATION, NOT_SERVED)

    def _data_fragment(self, context: int, size: int, is_last: bool) -> None:
        assert self._agreement is not None  # noqa: S101
        if self._request is None or self._request[0] != context:
            raise ProtocolError("a data set without a command", pdu.UNEXPECTED_PDU)
        sink = self._sink
        for piece in self._reader.pieces(size):
            if sink is not None:
                sink.write(piece)
        if not is_last:
            return
        request = self._request[1]
        self._request = self._sink = None
        field = request.field
        if isinstance(sink, Reception):
            status, comment = sink.commit()
        elif field & command.RESPONSE:
            self._response = request
            return
        elif isinstance(sink, DataSetBuffer) and field in SERVICES:
            abstract, syntax = self._agreement.contexts[context]
            self._operation = Request(context, abstract, syntax, request, sink)
            return
        elif field == command.C_STORE_RQ:
            status, comment = storage.SOP_CLASS_NOT_SUPPORTED, "The context is for another SOP class"
        else:
            status, comment = UNRECOGNIZED_OPERATION, NOT_SERVED
        if field == command.C_STORE_RQ:
            self._statuses[f"{status:04x}"] += 1
        self._respond(context, request, status, comment)

    def _take_response(self, context: int, response: Command) -> None:
        """Keep the response to a request of ours; a data set in it says nothing we need."""
        if not self._message_id or response.number(command.MESSAGE_ID_RESPONDED_TO) != self._message_id:
            raise ProtocolError("a response without a request", pdu.UNEXPECTED_PDU)
        if response.has_data_set:
            self._request = (context, response)
        else:
            self._response = response

    def _carry_out(self, request: Request) -> None:
        """Let the service of a whole request do its work; its refusal and what it cannot have become a status."""
        try:
            SERVICES[request.command.field](self, request)
        except Refusal as refusal:
            self.respond(request, refusal.status, refusal.comment, offending=refusal.offending)
        except (InsituError, psycopg.OperationalError) as error:
            logger.error("a request was not carried out: %s", error)
            self.respond(request, OUT_OF_RESOURCES, "Not possible just now; try again later")
        finally:
            self._operation = None
            self._cancels.clear()

    @property
    def agreement(self) -> Agreement:
        """What was negotiated."""
        assert self._agreement is not None  # noqa: S101  # services are called in an open association only
        return self._agreement

    @property
    def caller(self) -> Caller:
        """The node that is calling; for services that only nodes get."""
        assert self._caller is not None  # noqa: S101  # their contexts are accepted from nodes only
        return self._caller

    def respond(
        self,
        request: Request,
        status: int,
        comment: str | None = None,
        *,
        offending: tuple[int, ...] = (),
        numbers: dict[int, int] | None = None,
        data_set: bytes | None = None,
    ) -> None:
        """Answer a request (see Dialogue)."""
        maximum = self.agreement.peer_maximum
        with_data = command.NO_DATA_SET if data_set is None else command.WITH_DATA_SET
        encoded = command.respond(
            request.command, status, comment=comment, data_set_type=with_data, offending=offending, numbers=numbers
        )
        self._kept += pdu.p_data(request.context, encoded, maximum)
        if data_set is not None:
            for piece in pdu.data_set(request.context, [data_set], maximum):
                self._kept += piece
        final = status & 0xFF00 != PENDING
        if final or len(self._kept) > KEPT_BACK:
            self.flush()
        if final:
            self._served[f"{request.command.field:04x} {status:04x}"] += 1

    def flush(self) -> None:
        """Send the answers that were kept back."""
        kept, self._kept = self._kept, bytearray()
        if kept:
            self._send(kept)

    def cancelled(self, request: Request) -> bool:
        """Whether the peer has cancelled a request; reads what has come, does not wait."""
        while self._reader.ready():
            self._take_pdu()
        return request.command.number(command.MESSAGE_ID) in self._cancels

    def ask(
        self,
        context: int,
        field: int,
        sop_class: str,
        sop_instance: str,
        data_set: Iterable[bytes],
        numbers: dict[int, int] | None = None,
    ) -> Command:
        """Send a request with a data set and wait for its response."""
        self.flush()
        self._message_id = self._message_id % 0xFFFF + 1
        maximum = self.agreement.peer_maximum
        encoded = command.ask(field, self._message_id, sop_class, sop_instance, numbers=numbers)
        self._send(pdu.p_data(context, encoded, maximum))
        for piece in pdu.data_set(context, data_set, maximum):
            self._send(piece)
        self._response = None
        while self._response is None:
            self._take_pdu()
        return self._response

    def report_later(self, report: Later) -> None:
        """Tell something when the association is quiet, or otherwise when it has ended."""
        self._reports.append(report)

    def _respond(self, context: int, request: Command, status: int, comment: str | None = None) -> None:
        assert self._agreement is not None  # noqa: S101
        self._send(pdu.p_data(context, command.respond(request, status, comment=comment), self._agreement.peer_maximum))

    def _send(self, data: bytes | bytearray) -> None:
        with self._sending:
            self._socket.sendall(data)

    def _send_quietly(self, data: bytes) -> None:
        """Send where the connection may be gone, without waiting for a peer that does not read."""
        if not self._sending.acquire(timeout=0.5):
            return
        try:
            self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            pass  # there is nobody to tell any more
        finally:
            self._sending.release()

    def _await_close(self) -> None:
        """Let the peer close first (PS3.8 9.2.3, Sta13), so that it reads our last PDU; not for ever."""
        until = time.monotonic() + CLOSE_SECONDS
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(65_536):
                    break
        except OSError:
            pass  # it did not close in time, or did it the hard way

    def _log(self, end: str, seconds: float) -> None:
        # Who says nothing is a probe of the port: one every few seconds in a cluster, which would bury the others.
        silent = not self._reader.received and not end.startswith(("aborted", "failed"))
        logger.log(
            logging.DEBUG if silent else logging.INFO,
            "association %s",
            end,
            extra={
                "fields": {
                    "calling_ae": self._calling,
                    "called_ae": self._called,
                    "peer": self._peer,
                    "echoes": self._echoes,
                    "stores": dict(self._statuses),
                    "requests": dict(self._served),
                    "bytes": self._reader.received,
                    "seconds": round(seconds, 3),
                }
            },
        )


def _may_store(abstract: str, request: Command) -> bool:
    """Whether a C-STORE on a context is for the SOP class of that context."""
    return abstract != negotiation.VERIFICATION and request.uid(command.AFFECTED_SOP_CLASS) == abstract
