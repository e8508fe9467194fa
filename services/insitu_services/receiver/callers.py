"""Who is calling: the known node behind an association, and what it may find and retrieve.

DIMSE has no login. A node is known by its AE title together with the network it comes from, and its TLS certificate where one
is set for it; nobody else is served. Not here: the register of nodes (insitu.nodes.registry).
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import logging
import socket
from dataclasses import dataclass

import psycopg

from insitu.database import Database
from insitu.errors import InsituError
from insitu.nodes import registry
from insitu.nodes.registry import Node
from insitu.projects.permissions import Action, Principal, visible_projects
from insitu.settings import Settings

logger = logging.getLogger("insitu.receiver")

QUERY_CONNECTIONS = 4  # of one process; apart from those for storing, so that slow readers hold up no sender


@dataclass(frozen=True)
class Caller:
    """A known node on an open association."""

    node: Node
    ae_title: str
    principal: Principal
    database: Database

    @property
    def projects(self) -> frozenset[str] | None:
        """Projects whose images it may see."""
        return visible_projects(self.principal, Action.IMAGE_READ)


@functools.lru_cache(maxsize=2)
def query_database(dsn: str, seconds: float) -> Database:
    """The connections for queries and retrievals, one pool per process; opened when the first is needed."""
    return Database(dsn, minimum=0, maximum=QUERY_CONNECTIONS, patience=seconds, statement_seconds=seconds)


def identify(settings: Settings, ae_title: str, address: str, certificate: bytes | None) -> Caller | None:
    """The known node that is calling; None where there is none.

    Parameters
    ----------
    settings : Settings
    ae_title : str
        Calling AE title.
    address : str
        Where the connection comes from.
    certificate : bytes, optional
        The peer's TLS certificate, DER.
    """
    database = query_database(settings.database_dsn("receiver"), settings.database_patience)
    try:
        with database.transaction() as connection:
            node = registry.by_ae_title(connection, ae_title)
    except (InsituError, psycopg.OperationalError) as error:
        logger.error("a node could not be looked up: %s", error)
        return None
    if node is None:
        logger.warning("query and retrieval were refused: no node has this AE title: %s", ae_title)
        return None
    if not comes_from(node, address):
        logger.warning("query and retrieval were refused: node %s does not come from %s", node.name, address)
        return None
    if node.certificate and (certificate is None or not _is(certificate, node.certificate)):
        logger.warning("query and retrieval were refused: node %s shows another certificate or none", node.name)
        return None
    return Caller(node, ae_title, registry.principal_of(node), database)


def comes_from(node: Node, address: str) -> bool:
    """Whether an address is one of the node: in its networks, or that of its host where it has none."""
    here = _plain(ipaddress.ip_address(address))
    if node.networks:
        return any(
            here in network
            for network in (ipaddress.ip_network(text, strict=False) for text in node.networks)
            if network.version == here.version
        )
    if not node.host:
        return False
    try:
        found = socket.getaddrinfo(node.host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        logger.warning("the host of node %s has no address: %s", node.name, error)
        return False
    return any(_plain(ipaddress.ip_address(str(each[4][0]).partition("%")[0])) == here for each in found)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _is(certificate: bytes, fingerprint: str) -> bool:
    return hashlib.sha256(certificate).hexdigest() == fingerprint.replace(":", "").lower()
