"""One association from the first byte to the last: the acceptor's side of the upper layer (PS3.8 9.2) and its messages.

Not here: reading PDUs (pdu), deciding who may (negotiation), storing (storage).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter

from insitu.archive.store import Archive
from insitu.errors import InsituError
from insitu.settings import Settings

from . import command, negotiation, pdu, storage
from .command import BadCommand, Command
from .negotiation import Agreement, Rejection
from .pdu import PeerGone, ProtocolError, Reader
from .storage import Delivery, Reception

logger = logging.getLogger("insitu.receiver")

REQUEST_SECONDS = 30.0  # ARTIM: until the A-ASSOCIATE-RQ is here, and until the peer closes after the end
UNRECOGNIZED_OPERATION = 0x0211
SEND_SECONDS = 30.0


class Association:
    """An accepted connection.

    Parameters
    ----------
    connection : socket
    peer : str
        Address.
    settings : Settings
    archive : Archive
    full : bool
        Refuse it, because there are too many.
    """

    def __init__(
        self, connection: socket.socket, peer: str, settings: Settings, archive: Archive, *, full: bool = False
    ) -> None:
        self._socket = connection
        self._peer = peer
        self._settings = settings
        self._archive = archive
        self._full = full
        self._reader = Reader(connection)
        self._delivery: Delivery | None = None
        self._agreement: Agreement | None = None
        self._reception: Reception | None = None
        self._sending = threading.Lock()
        self._calling = self._called = ""
        self._echoes = 0
        self._statuses: Counter[str] = Counter()

    def run(self) -> None:
        """Serve until the association ends. Never raises."""
        began = time.monotonic()
        end = "failed"
        try:
            self._socket.settimeout(REQUEST_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            end = self._serve()
        except PeerGone:
            end = "connection lost"
        except ProtocolError as error:
            end = f"aborted by us: {error}"
            self._send_quietly(pdu.abort(error.reason))
        except TimeoutError:
            end = "aborted by us: nothing came in time"
            self._send_quietly(pdu.abort(0))
        except OSError as error:
            end = f"connection failed: {error.strerror}"
        except Exception:  # a mistake of ours must end this association only
            logger.exception("an association failed")
            self._send_quietly(pdu.abort(0))
        finally:
            if self._reception is not None:
                self._reception.abort()
            if self._delivery is not None:
                self._delivery.close()
            self._socket.close()
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
        rejection = self._associate()
        if rejection is not None:
            self._send(rejection.pdu())
            self._await_close()
            return f"rejected: {rejection.words}"
        self._socket.settimeout(self._settings.idle_timeout)
        while True:
            kind, length = self._reader.header()
            if kind == pdu.P_DATA_TF:
                self._data(length)
            elif kind == pdu.RELEASE_RQ:
                self._reader.body(length)
                if self._reception is not None:
                    raise ProtocolError("a release in the middle of an object", pdu.UNEXPECTED_PDU)
                if self._delivery is not None:
                    self._delivery.close()
                self._send(pdu.RELEASE_REPLY)
                self._await_close()
                return "released"
            elif kind == pdu.ABORT:
                self._reader.body(length)
                return "aborted by the peer"
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
            rejection = negotiation.refuse(self._settings, primitive, self._peer)
            if rejection is not None:
                return rejection
            agreement = negotiation.agree(self._settings, primitive)
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise ProtocolError(f"an A-ASSOCIATE-RQ that cannot be used: {error}", pdu.INVALID_PARAMETER) from error
        self._agreement = agreement
        self._delivery = Delivery(self._archive, self._calling, self._called, self._peer)
        self._send(agreement.pdu)
        return None

    def _data(self, length: int) -> None:
        """Take one P-DATA-TF: fragments of commands and data sets."""
        if length > self._settings.maximum_pdu:
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

    _command: bytearray | None = None
    _request: tuple[int, Command] | None = None  # context and command whose data set is awaited

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
            raise ProtocolError("a response without a request", pdu.UNEXPECTED_PDU)
        if field == command.C_CANCEL_RQ:
            return
        if request.has_data_set:
            self._request = (context, request)
            abstract, syntax = self._agreement.contexts[context]
            storable = abstract != negotiation.VERIFICATION and request.uid(command.AFFECTED_SOP_CLASS) == abstract
            if field == command.C_STORE_RQ and storable:
                self._reception = self._delivery.begin(abstract, request.uid(command.AFFECTED_SOP_INSTANCE), syntax)
            return
        if field == command.C_ECHO_RQ:
            self._echoes += 1
            self._respond(context, request, storage.SUCCESS)
        elif field == command.C_STORE_RQ:
            self._respond(context, request, storage.CANNOT_UNDERSTAND, "There is no data set")
        else:
            self._respond(context, request, UNRECOGNIZED_OPERATION, "Only C-ECHO and C-STORE are served here")

    def _data_fragment(self, context: int, size: int, is_last: bool) -> None:
        if self._request is None or self._request[0] != context:
            raise ProtocolError("a data set without a command", pdu.UNEXPECTED_PDU)
        for piece in self._reader.pieces(size):
            if self._reception is not None:
                self._reception.write(piece)
        if not is_last:
            return
        request = self._request[1]
        self._request = None
        if self._reception is not None:
            status, comment = self._reception.commit()
            self._reception = None
        elif request.field == command.C_STORE_RQ:
            status, comment = storage.SOP_CLASS_NOT_SUPPORTED, "The context is for another SOP class"
        else:
            status, comment = UNRECOGNIZED_OPERATION, "Only C-ECHO and C-STORE are served here"
        if request.field == command.C_STORE_RQ:
            self._statuses[f"{status:04x}"] += 1
        self._respond(context, request, status, comment)

    def _respond(self, context: int, request: Command, status: int, comment: str | None = None) -> None:
        assert self._agreement is not None  # noqa: S101
        self._send(pdu.p_data(context, command.respond(request, status, comment=comment), self._agreement.peer_maximum))

    def _send(self, data: bytes) -> None:
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
        self._socket.settimeout(2.0)
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(65_536):
                pass
        except OSError:
            pass  # it did not close in time, or did it the hard way

    def _log(self, end: str, seconds: float) -> None:
        logger.info(
            "association %s",
            end,
            extra={
                "fields": {
                    "calling_ae": self._calling,
                    "called_ae": self._called,
                    "peer": self._peer,
                    "echoes": self._echoes,
                    "stores": dict(self._statuses),
                    "bytes": self._reader.received,
                    "seconds": round(seconds, 3),
                }
            },
        )
