"""Associations that we open to nodes: addressing, TLS, time-outs, and why one did not come about.

Not here: what is then asked (echo, sending, retrieving) and the associations others open to us (insitu_services.receiver).
"""

from __future__ import annotations

import queue
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import P_DATA, MaximumLengthNotification

from insitu.errors import Invalid, Unavailable
from insitu.nodes.registry import Node
from insitu.settings import Settings
from insitu_services.dicom_tls import client_context

CONNECT_SECONDS = 10.0
LARGEST_FRAGMENT = 1 << 18  # bytes sent in one PDU, also where the peer takes larger ones or sets no limit
WAITING_FRAGMENTS = 8  # that may wait for a slow peer in memory
MOST_CONTEXTS = 128  # of one association (PS3.8 9.3.2.2)

# A file's own data set goes out piece by piece, instead of an object that was decoded, held in memory and encoded again;
# what comes in by C-GET is written to a file as it comes.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.STORE_RECV_CHUNKED_DATASET = True


@contextmanager
def connect(
    node: Node,
    settings: Settings,
    contexts: Sequence[Any],
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
) -> Iterator[Any]:
    """An association with a node, released at the end of the block, aborted where the block raises.

    Parameters
    ----------
    node : Node
    settings : Settings
        Our AE title, time-outs and TLS identity.
    contexts : sequence of pynetdicom PresentationContext
        1 to 128.
    roles : sequence of SCP_SCU_RoleSelectionNegotiation, optional
    handlers : sequence of tuple, optional
        pynetdicom's (event, function[, arguments]).

    Yields
    ------
    pynetdicom.association.Association
        Established, with at least one accepted context.

    Raises
    ------
    Invalid
        The node has no DIMSE address.
    Unavailable
        It could not be reached, refused the association, or accepted no context; the message says which.
    """
    if not node.callable_by_dimse:
        raise Invalid(
            "This node cannot be called by DIMSE",
            value=node.name,
            why="it has no host and port",
            remedy=f"insitu node add {node.name} --ae-title AE --host HOST --port PORT",
        )
    refusals: list[str] = []

    def opened(event: Any) -> None:
        plug = event.assoc.dul.socket.socket
        # Waiting for more to send costs 40 ms an object; and a peer that neither reads nor writes must not hold us for ever.
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        plug.settimeout(settings.peer_timeout)

    def received(event: Any) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            refusals.append(f"{event.pdu.result_str}, {event.pdu.source_str}: {event.pdu.reason_str}")

    entity = AE(ae_title=settings.ae_title)
    entity.connection_timeout = min(CONNECT_SECONDS, settings.peer_timeout)
    entity.acse_timeout = entity.dimse_timeout = settings.peer_timeout
    entity.network_timeout = 2 * settings.peer_timeout  # the two above come first, with a clearer end
    address = _address(node)
    association = entity.associate(
        address,
        node.port,
        contexts=list(contexts),
        ae_title=node.ae_title,
        max_pdu=settings.maximum_pdu,
        ext_neg=list(roles),
        tls_args=(client_context(settings, node), node.host) if node.tls else None,
        evt_handlers=[(evt.EVT_CONN_OPEN, opened), (evt.EVT_PDU_RECV, received), *handlers],
    )
    if not association.is_established:
        raise _failure(node, settings, association, refusals, address)
    _limit_memory(association)
    try:
        yield association
    except BaseException:
        if association.is_established:
            association.abort()
        raise
    if association.is_established:
        association.release()


class _Bounded(queue.Queue):  # type: ignore[type-arg]
    """pynetdicom's queue to the network: fragments wait while the peer is slow, instead of piling up in memory.

    Everything but fragments is taken at once: an abort must not wait behind them.
    """

    def __init__(self, association: Any) -> None:
        super().__init__()
        self._association = association

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put a primitive into the queue.

        Raises
        ------
        ConnectionError
            The association ended while a fragment waited.
        """
        if isinstance(item, P_DATA):
            with self.not_full:
                while self._qsize() >= WAITING_FRAGMENTS:
                    alive = self._association.is_established and self._association.dul.is_alive()
                    if not alive or self._association.dul.state_machine.current_state != "Sta6":
                        raise ConnectionError("the association ended in mid-object")
                    self.not_full.wait(0.2)
        super().put(item, block, timeout)


def _limit_memory(association: Any) -> None:
    association.dul.to_provider_queue = _Bounded(association)
    for item in association.acceptor.user_information:
        if isinstance(item, MaximumLengthNotification) and not 0 < item.maximum_length_received <= LARGEST_FRAGMENT:
            item.maximum_length_received = LARGEST_FRAGMENT


def _address(node: Node) -> str:
    try:
        found = socket.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(
            "The node cannot be reached",
            value=node.address,
            why=f"its host has no address: {error.strerror or error}",
            remedy="Check the spelling of the host, and this machine's name service",
        ) from error
    return str(found[0][4][0])


def _failure(node: Node, settings: Settings, association: Any, refusals: list[str], address: str) -> Unavailable:
    """Why there is no association, as well as can be told from here."""
    if refusals:
        return Unavailable(
            "The node refused the association",
            value=node.address,
            why=f"it says: {refusals[0]}",
            remedy=f"Enter our AE title {settings.ae_title} and this machine's address there, and check the node's AE title",
        )
    if association.acceptor.primitive is not None and association.acceptor.primitive.result == 0x00:
        return Unavailable(
            "The node accepts nothing of what was asked",
            value=node.address,
            why="it refused every presentation context",
            remedy="Enable these services or SOP classes for our AE title there",
        )
    why, remedy = _diagnosis(node, settings, address)
    return Unavailable("The node cannot be reached", value=node.address, why=why, remedy=remedy)


def _diagnosis(node: Node, settings: Settings, address: str) -> tuple[str, str]:
    """Look at the connection once more, step by step: pynetdicom does not tell how it failed."""
    try:
        with socket.create_connection(
            (address, node.port or 0), timeout=min(CONNECT_SECONDS, settings.peer_timeout)
        ) as plug:
            if node.tls:
                with client_context(settings, node).wrap_socket(plug, server_hostname=node.host):
                    pass
    except ssl.SSLCertVerificationError as error:
        return (
            f"its TLS certificate is not trusted: {error.verify_message}",
            "Put the authority that signed it into tls_ca, and name the node by the host in the certificate",
        )
    except ssl.SSLError as error:
        return (
            f"the TLS handshake failed: {error.reason or error}",
            "Check that the port speaks TLS and takes our certificate",
        )
    except TimeoutError:
        return "nothing answers there in time", "Check the address, the network and firewalls between"
    except ConnectionRefusedError:
        return "the connection is refused", "Check the port, and that the peer's DICOM service runs"
    except OSError as error:
        return error.strerror or str(error), "Check the address and the network"
    return (
        "the connection is accepted but no association comes about: it was closed, aborted, or not answered in time",
        "Check that a DICOM service listens on this port" + ("" if node.tls else ", and whether it expects TLS"),
    )
