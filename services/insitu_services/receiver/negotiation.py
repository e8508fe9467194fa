"""May this peer open an association, and with which presentation contexts (PS3.8 7.1, PS3.7 annex D). Pure decisions.

pynetdicom reads and writes the PDUs. Not here: sending them (association).
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass

from pydicom.uid import UID, UID_dictionary
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext

from insitu.archive.examine import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from insitu.errors import Invalid
from insitu.settings import Settings

VERIFICATION = "1.2.840.10008.1.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
# "Storage" stands in their names too, but they store no composite object.
NOT_STORAGE = ("Storage Commitment", "Media Storage Directory", "Storage Management")

ACCEPTED, ABSTRACT_SYNTAX_UNKNOWN, TRANSFER_SYNTAXES_UNKNOWN = 0, 3, 4


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
    """An accepted association: contexts as (abstract syntax, transfer syntax) by their ids, largest PDU the peer takes."""

    contexts: dict[int, tuple[str, str]]
    peer_maximum: int
    pdu: bytes


@functools.cache
def storage_classes() -> frozenset[str]:
    """UIDs of every storage SOP class in pydicom's dictionary, retired ones too."""
    return frozenset(
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and not any(other in name for other in NOT_STORAGE)
    )


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
    try:
        pdu.decode(body)
        return pdu.to_primitive()
    except Exception as error:  # whatever pynetdicom stumbles over in a malformed PDU
        raise ValueError(f"an A-ASSOCIATE-RQ that cannot be read ({type(error).__name__})") from error


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


def agree(settings: Settings, primitive: A_ASSOCIATE) -> Agreement:
    """Answer every proposed context; of its transfer syntaxes the first that is known, so that nothing is recoded."""
    contexts: dict[int, tuple[str, str]] = {}
    results = []
    for proposed in primitive.presentation_context_definition_list:
        abstract = str(proposed.abstract_syntax)
        syntaxes = [str(syntax) for syntax in proposed.transfer_syntax]
        known = next((syntax for syntax in syntaxes if syntax in transfer_syntaxes()), None)
        answer = PresentationContext()
        answer.context_id = proposed.context_id
        answer.abstract_syntax = UID(abstract)
        if not taken(settings, abstract):
            answer.result = ABSTRACT_SYNTAX_UNKNOWN
        elif known is None:
            answer.result = TRANSFER_SYNTAXES_UNKNOWN
        else:
            answer.result = ACCEPTED
            contexts[proposed.context_id] = (abstract, known)
        answer.transfer_syntax = [UID(known or syntaxes[0])]
        results.append(answer)
    return Agreement(contexts, primitive.maximum_length_received or 0, _accept(settings, primitive, results))


def taken(settings: Settings, abstract_syntax: str) -> bool:
    """Whether this service takes objects of a SOP class (or verification)."""
    if abstract_syntax == VERIFICATION or abstract_syntax in storage_classes():
        return True
    return settings.accept_unknown_sop_classes and abstract_syntax not in UID_dictionary


def _accept(settings: Settings, primitive: A_ASSOCIATE, results: list[PresentationContext]) -> bytes:
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
    answer.user_information = [maximum, implementation, version]
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(answer)
    encoded: bytes = pdu.encode()
    return encoded
