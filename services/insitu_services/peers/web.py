"""DICOMweb services of nodes, as their client: one HTTP session with its credential, time-outs and errors.

The credential is the value of the `Authorization` header in the file `secrets/node-NAME`, so that it stands neither in the
database nor in a process list. Not here: what is sent (storing) and fetched (fetching).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from insitu.errors import Invalid, Unavailable
from insitu.nodes.registry import Node
from insitu.settings import Settings


@contextmanager
def client(node: Node, settings: Settings) -> Iterator[httpx.Client]:
    """A session with the DICOMweb service of a node; paths are relative to its base URL.

    Raises
    ------
    Invalid
        The node has no URL.
    """
    if node.url is None:
        raise Invalid("This node has no DICOMweb service", value=node.name, remedy="Describe it anew with --url")
    headers = {}
    secret = settings.secrets / f"node-{node.name}"
    if secret.is_file():
        headers["Authorization"] = secret.read_text().strip()
    timeout = httpx.Timeout(settings.peer_timeout, connect=min(10.0, settings.peer_timeout))
    with httpx.Client(base_url=node.url, headers=headers, timeout=timeout, trust_env=False) as session:
        yield session


@contextmanager
def explained(node: Node) -> Iterator[None]:
    """Turn what the network raises into `Unavailable`."""
    try:
        yield
    except httpx.TransportError as error:
        raise Unavailable(
            "The node's DICOMweb service cannot be reached",
            value=node.address,
            why=str(error) or type(error).__name__,
            remedy="Check its URL, the network and its certificate",
        ) from error


def check(node: Node, response: httpx.Response) -> None:
    """Raise where the answer is no success.

    Raises
    ------
    Unavailable
        Names the status.
    """
    if response.status_code >= 400:
        remedy = "Look at its log"
        if response.status_code in (401, 403):
            remedy = f"Put the right Authorization value into secrets/node-{node.name}"
        raise Unavailable(
            "The node's DICOMweb service refused",
            value=node.address,
            why=f"it answered {response.status_code} {response.reason_phrase}",
            remedy=remedy,
        )


def found(node: Node, session: httpx.Client, path: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """What a search (QIDO-RS) finds, as DICOM JSON.

    Raises
    ------
    Unavailable
        It does not answer as PS3.18 10.6 says.
    """
    with explained(node):
        response = session.get(path, params=dict(query), headers={"Accept": "application/dicom+json"})
    check(node, response)
    if response.status_code == 204:
        return []
    try:
        documents = response.json()
    except ValueError:
        documents = None
    if not isinstance(documents, list):
        raise Unavailable(
            "The node's DICOMweb service gave an answer that is no list of results",
            value=node.address,
            remedy="Check its URL: it is that above /studies",
        )
    return [document for document in documents if isinstance(document, dict)]
