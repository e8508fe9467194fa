"""May this peer open an association, and with which presentation contexts (PS3.8 7.1, PS3.7 annex D). Pure decisions.

pynetdicom reads and writes the PDUs. Not here: sending them (association).
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID, UID_dictionary
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import PresentationContext

from insitu.archive.classes import storable
from insitu.archive.classes import storage_classes as storage_classes
from insitu.archive.examine import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from insitu.errors import Invalid
from insitu.settings import Settings

from .sop_classes import FOR_NODES, PLAIN_SYNTAXES, QUERY_RETRIEVE, Operation

for name in ("utils", "pdu", "pdu_items", "pdu_primitives"):
    # What it stumbles over in a malformed request stands in the line of the association, without a stack.
    logging.getLogger(f"pynetdicom.{name}").setLevel(logging.CRITICAL)

VERIFICATION = "1.2.840.10008.1.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

FIXED = 74  # bytes of an A-ASSOCIATE-RQ before its items, those of the header included
CONTEXT_ITEM = 0x20
# Types of the items of an A-ASSOCIATE-RQ and of those inside (PS3.8 9.3.2, PS3.7 D.3.3).
ITEMS: dict[int, dict[int, Any]] = {
    0x10: {},
    CONTEXT_ITEM: {0x30: {}, 0x40: {}},
    0x50: {kind: {} for kind in (0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58)},
}

ACCEPTED, USER_REJECTION, ABSTRACT_SYNTAX_UNKNOWN, TRANSFER_SYNTAXES_UNKNOWN = 0, 1, 3, 4


@dataclass(frozen=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 9.3.4), and the same in words for the log."""

    result: int
    source: int
    reason: int
    words: str

    def pdu(self) -> bytes:
        """The A-ASSOCIATE-RJ."""
        primitive = A_ASSOCIATE()
        primitive.result, primitive.result_source, primitive.diagnostic = self.result, self.source, self.reason
        pdu = A_ASSOCIATE_RJ()
        pdu.from_primitive(primitive)
        encoded: bytes = pdu.encode()
        return encoded


BUSY = Rejection(2, 3, 2, "too many associations")


@dataclass(frozen=True)
class Agreement:
    """An accepted association.

    Attributes
    ----------
    contexts : dict
        Abstract syntax and transfer syntax by context id.
    peer_maximum : int
        Largest PDU the peer takes, in bytes; 0 is any.
    pdu : bytes
        The A-ASSOCIATE-AC.
    receives : frozenset of str
        SOP classes of which the peer takes objects from us (it has the SCP role), for C-GET.
    relational : frozenset of str
        Query/retrieve SOP classes with relational queries or retrieval.
    date_times : frozenset of str
        Those where a range of dates and one of times are one range of date-times.
    """

    contexts: dict[int, tuple[str, str]]
    peer_maximum: int
    pdu: bytes
    receives: frozenset[str] = frozenset()
    relational: frozenset[str] = frozenset()
    date_times: frozenset[str] = frozenset()


@functools.cache
def transfer_syntaxes() -> frozenset[str]:
    """UIDs of every transfer syntax in pydicom's dictionary."""
    return frozenset(uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax")


def request(body: bytes) -> A_ASSOCIATE:
    """The A-ASSOCIATE request in a PDU with header.

    Raises
    ------
    ValueError
        It cannot be read.
    """
    pdu = A_ASSOCIATE_RQ()
    items = known_items(body[FIXED:], ITEMS)
    try:
        pdu.decode(body[:2] + struct.pack(">I", FIXED - 6 + len(items)) + body[6:FIXED] + items)
        return pdu.to_primitive()
    except Exception as error:  # whatever pynetdicom stumbles over in a malformed PDU
        raise ValueError(f"an A-ASSOCIATE-RQ that cannot be read ({type(error).__name__})") from error


def known_items(data: bytes, known: Mapping[int, Mapping[int, Any]]) -> bytes:
    """Items of an A-ASSOCIATE-RQ without those of unknown types, which are skipped (PS3.8 9.3.1).

    Parameters
    ----------
    data : bytes
        Items one after the other.
    known : mapping
        The types that are kept, each with the types inside of it; empty where it holds no items.

    Raises
    ------
    ValueError
        An item is longer than what holds it.
    """
    kept = []
    at = 0
    while at < len(data):
        if len(data) - at < 4:
            raise ValueError("an A-ASSOCIATE-RQ that cannot be read: an item is cut off")
        kind, length = struct.unpack_from(">BxH", data, at)
        value = data[at + 4 : at + 4 + length]
        if len(value) < length:
            raise ValueError(f"an A-ASSOCIATE-RQ that cannot be read: item {kind:02x} is longer than what holds it")
        at += 4 + length
        if kind not in known:
            continue
        if known[kind]:
            fixed = 4 if kind == CONTEXT_ITEM else 0
            value = value[:fixed] + known_items(value[fixed:], known[kind])
        kept.append(struct.pack(">BxH", kind, len(value)) + value)
    return b"".join(kept)


def refuse(settings: Settings, primitive: A_ASSOCIATE, peer: str) -> Rejection | None:
    """The reason not to accept this peer; None where there is none."""
    calling = (primitive.calling_ae_title or "").strip()
    called = (primitive.called_ae_title or "").strip()
    address = ipaddress.ip_address(peer)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if not any(
        address in network for network in networks(settings.peers_allowed) if network.version == address.version
    ):
        return Rejection(1, 1, 1, "the address is not in peers_allowed")
    if str(primitive.application_context_name) != APPLICATION_CONTEXT:
        return Rejection(1, 1, 2, "another application context")
    if settings.calling_ae_allowed and calling not in settings.calling_ae_allowed:
        return Rejection(1, 1, 3, "the calling AE title is not in calling_ae_allowed")
    if not settings.accept_any_called_ae and called != settings.ae_title:
        return Rejection(1, 1, 7, "the called AE title is not ours")
    return None


@functools.lru_cache(maxsize=8)
def networks(texts: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The networks of `peers_allowed`.

    Raises
    ------
    Invalid
        One is not in CIDR form.
    """
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            raise Invalid(
                "A network of peers_allowed cannot be read", value=text, remedy="Write it as 192.0.2.0/24"
            ) from error
    return tuple(found)


def for_nodes(primitive: A_ASSOCIATE) -> bool:
    """Whether the peer asks for a service that only known nodes get."""
    return any(str(each.abstract_syntax) in FOR_NODES for each in primitive.presentation_context_definition_list)


def agree(settings: Settings, primitive: A_ASSOCIATE, *, node: bool = False) -> Agreement:
    """Answer every proposed context.

    Of its transfer syntaxes the first that is known is taken, so that nothing is recoded on the way in. Where the peer takes
    objects from us (C-GET), an uncompressed one is preferred: every object that can be decoded can be sent in it.

    Parameters
    ----------
    settings : Settings
    primitive : A_ASSOCIATE
        The request.
    node : bool
        The peer is a known node: query, retrieval and storage commitment are served too.
    """
    contexts: dict[int, tuple[str, str]] = {}
    results = []
    seen: set[int] = set()
    if not primitive.presentation_context_definition_list:
        raise ValueError("no presentation context is proposed")
    roles = _roles(primitive) if node else {}
    receives = frozenset(uid for uid, role in roles.items() if role.scp_role)
    for proposed in primitive.presentation_context_definition_list:
        if proposed.context_id in seen:
            raise ValueError(f"presentation context {proposed.context_id} is proposed twice")
        seen.add(proposed.context_id)
        if proposed.abstract_syntax is None:
            raise ValueError(f"presentation context {proposed.context_id} has no abstract syntax")
        abstract = str(proposed.abstract_syntax)
        syntaxes = [str(syntax) for syntax in proposed.transfer_syntax]
        wanted = syntaxes
        if abstract in FOR_NODES or abstract in receives:
            wanted = [syntax for syntax in PLAIN_SYNTAXES if syntax in syntaxes]
            if abstract in receives:
                wanted += syntaxes
        known = next((syntax for syntax in wanted if syntax in transfer_syntaxes()), None)
        answer = PresentationContext()
        answer.context_id = proposed.context_id
        answer.abstract_syntax = UID(abstract)
        if abstract in FOR_NODES and not node:
            answer.result = USER_REJECTION
        elif abstract not in FOR_NODES and not taken(settings, abstract):
            answer.result = ABSTRACT_SYNTAX_UNKNOWN
        elif known is None:
            answer.result = TRANSFER_SYNTAXES_UNKNOWN
        else:
            answer.result = ACCEPTED
            contexts[proposed.context_id] = (abstract, known)
        answer.transfer_syntax = [UID(known or syntaxes[0])]
        results.append(answer)
    extended = _extended(primitive) if node else {}
    accepted = _accept(settings, primitive, results, list(roles.values()), extended)
    relational, date_times = (
        frozenset(uid for uid, said in extended.items() if said[n : n + 1] == b"\1") for n in (0, 1)
    )
    return Agreement(contexts, primitive.maximum_length_received or 0, accepted, receives, relational, date_times)


def _roles(primitive: A_ASSOCIATE) -> dict[str, SCP_SCU_RoleSelectionNegotiation]:
    """The roles the peer proposes for storage SOP classes, accepted as they are (PS3.7 D.3.3.4)."""
    return {
        str(item.sop_class_uid): item
        for item in primitive.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
        and str(item.sop_class_uid) not in FOR_NODES
        and (item.scu_role or item.scp_role)
    }


def _extended(primitive: A_ASSOCIATE) -> dict[str, bytes]:
    """What is agreed beyond the baseline, by query/retrieve SOP class, one byte each (PS3.4 C.5.1.1, C.5.2.1, C.5.3.1).

    The first is relational queries or retrieval, the second, of C-FIND alone, the matching of date-times. Others are not had.
    """
    found: dict[str, bytes] = {}
    for item in primitive.user_information:
        if isinstance(item, SOPClassExtendedNegotiation) and (model := QUERY_RETRIEVE.get(str(item.sop_class_uid))):
            most = 2 if model.operation is Operation.FIND else 1
            asked = (item.service_class_application_information or b"")[:most]
            found[model.uid] = bytes(byte == 1 for byte in asked)
    return {uid: said for uid, said in found.items() if any(said)}


def taken(settings: Settings, abstract_syntax: str) -> bool:
    """Whether this service takes objects of a SOP class (or verification)."""
    return abstract_syntax == VERIFICATION or storable(
        abstract_syntax, accept_unknown=settings.accept_unknown_sop_classes
    )


def _accept(
    settings: Settings,
    primitive: A_ASSOCIATE,
    results: list[PresentationContext],
    roles: list[SCP_SCU_RoleSelectionNegotiation],
    extended: dict[str, bytes],
) -> bytes:
    answer = A_ASSOCIATE()
    answer.application_context_name = UID(APPLICATION_CONTEXT)
    answer.calling_ae_title = primitive.calling_ae_title
    answer.called_ae_title = primitive.called_ae_title
    answer.result, answer.result_source = 0, 1
    answer.presentation_context_definition_results_list = results
    maximum = MaximumLengthNotification()
    maximum.maximum_length_received = settings.maximum_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    behaviours = []
    for uid, said in sorted(extended.items()):
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid, item.service_class_application_information = UID(uid), said
        behaviours.append(item)
    answer.user_information = [maximum, implementation, version, *roles, *behaviours]
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(answer)
    encoded: bytes = pdu.encode()
    return encoded
