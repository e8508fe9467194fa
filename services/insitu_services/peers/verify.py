"""Whether a node answers, and how quickly: C-ECHO, or a small search of its DICOMweb service.

Not here: the connections (connection, web).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pynetdicom import build_context
from pynetdicom.sop_class import Verification

from insitu.errors import Invalid, Unavailable
from insitu.nodes.registry import Node
from insitu.settings import Settings

from . import web
from .connection import connect

Attempt = Callable[[Node, Settings], float]


def ways(node: Node) -> list[tuple[str, Attempt]]:
    """The ways in which a node can be tried, as (name, function).

    Raises
    ------
    Invalid
        There is none: it only calls us.
    """
    found: list[tuple[str, Attempt]] = []
    if node.callable_by_dimse:
        found.append(("dimse", echo))
    if node.url:
        found.append(("dicomweb", search))
    if not found:
        raise Invalid(
            "This node is never called", value=node.name, why="it has neither host and port nor a URL",
            remedy="Describe it anew with its address",
        )  # fmt: skip
    return found


def echo(node: Node, settings: Settings) -> float:
    """Verify the DICOM connection to a node (PS3.4 annex A); seconds it took, association included.

    Raises
    ------
    Unavailable
        The node does not answer well; the message says how far it got.
    """
    began = time.monotonic()
    with connect(node, settings, [build_context(Verification)]) as association:
        status = association.send_c_echo().get("Status")
    if status != 0x0000:
        why = "it gave no answer in time" if status is None else f"it answered 0x{status:04X}"
        raise Unavailable("The node does not answer C-ECHO", value=node.address, why=why, remedy="Look at its log")
    return time.monotonic() - began


def search(node: Node, settings: Settings) -> float:
    """Search the DICOMweb service of a node for one study; seconds it took.

    Raises
    ------
    Unavailable
        It does not answer, or not as a DICOMweb service does.
    """
    began = time.monotonic()
    with web.client(node, settings) as client:
        web.found(node, client, "/studies", {"limit": "1"})
    return time.monotonic() - began
