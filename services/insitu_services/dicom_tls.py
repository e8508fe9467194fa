"""TLS contexts of the receiver and for the nodes we call, from the settings.

Not here: protocol versions and suites (insitu.dicom.tls).
"""

from __future__ import annotations

import ssl

from insitu.dicom.tls import peer_context, server_context
from insitu.nodes.registry import Node
from insitu.settings import Settings

__all__ = ["client_context", "server_context"]


def client_context(settings: Settings, node: Node | None = None) -> ssl.SSLContext:
    """What we speak to a peer: its certificate must be signed by `tls_ca`, or by an authority of the system, and name its host.

    Parameters
    ----------
    settings : Settings
    node : Node, optional
        The peer; the context is the same for all.

    Raises
    ------
    Invalid
        A file cannot be used.
    """
    return peer_context(settings.tls_ca, settings.tls_certificate, settings.tls_key)
