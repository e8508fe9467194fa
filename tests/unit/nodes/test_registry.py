"""The register of nodes: what a person may write into it, and who is recognised by it."""

from __future__ import annotations

import pytest

from insitu.database import Database
from insitu.errors import Conflict, Invalid, NotFound
from insitu.nodes import registry
from insitu.nodes.registry import Node, node_of
from insitu.projects import projects
from insitu.projects.permissions import Action, Resource, allowed, visible_projects


@pytest.mark.parametrize(
    ("values", "about"),
    [
        ({"name": "Pacs One", "ae_title": "PACS"}, "name"),
        ({"name": "pacs"}, "AE title"),
        ({"name": "pacs", "ae_title": "SEVENTEEN LETTERS"}, "ae_title"),
        ({"name": "pacs", "ae_title": " PACS"}, "ae_title"),
        ({"name": "pacs", "ae_title": "PACS", "host": "pacs.example"}, "host and port"),
        ({"name": "pacs", "ae_title": "PACS", "host": "pacs.example", "port": 70_000}, "port"),
        ({"name": "pacs", "ae_title": "PACS", "networks": ["10.0.0.0/33"]}, "networks"),
        ({"name": "pacs", "ae_title": "PACS", "certificate": "abc"}, "certificate"),
        ({"name": "pacs", "url": "https://me:secret@pacs.example/dicom-web"}, "url"),
        ({"name": "pacs", "url": "pacs.example/dicom-web"}, "url"),
        ({"name": "pacs", "ae_title": "PACS", "unknown": 1}, "unknown"),
    ],
)
def test_a_node_that_cannot_work_is_taken_into_the_register(values: dict[str, object], about: str) -> None:
    with pytest.raises(Invalid, match=about):
        node_of(values)


def test_a_fingerprint_in_another_spelling_is_another_certificate() -> None:
    digits = "ab" * 32
    spelled = ":".join(["AB"] * 32)
    assert Node(name="pacs", ae_title="PACS", certificate=spelled).certificate == digits


def test_a_saved_node_is_not_found_again_as_it_was(database: Database) -> None:
    node = Node(
        name="pacs", ae_title="PACS", host="pacs.example", port=104, tls=True, certificate="ab" * 32,
        networks=("10.1.0.0/16", "fd00::/8"), projects=("alpha",), maximum_associations=3, retrieve_by="move",
        url="https://pacs.example/dicom-web",
    )  # fmt: skip
    with database.transaction() as connection:
        projects.create(connection, "alpha")
        assert registry.save(connection, node) is True
        assert registry.find(connection, "pacs") == node
        assert registry.by_ae_title(connection, "PACS ") == node
        assert registry.by_ae_title(connection, "pacs") is None, "AE titles are case-sensitive"
        changed = node.model_copy(update={"host": None, "port": None})
        assert registry.save(connection, changed) is False
        assert registry.listed(connection) == [changed]
        registry.remove(connection, "pacs")
        with pytest.raises(NotFound):
            registry.find(connection, "pacs")


def test_two_nodes_with_one_ae_title_or_an_unknown_project_make_access_ambiguous(database: Database) -> None:
    with database.transaction() as connection:
        registry.save(connection, Node(name="one", ae_title="PACS"))
        with pytest.raises(Conflict, match="it is one"):
            registry.save(connection, Node(name="two", ae_title="PACS"))
        with pytest.raises(Invalid, match="no such project"):
            registry.save(connection, Node(name="three", ae_title="THREE", projects=("missing",)))


def test_a_node_without_projects_sees_something() -> None:
    principal = registry.principal_of(Node(name="pacs", ae_title="PACS"))
    assert visible_projects(principal, Action.IMAGE_READ) == frozenset()
    assert not allowed(principal, Action.IMAGE_READ, Resource(kind="series"))
    assert not allowed(principal, Action.IMAGE_READ, Resource(kind="series", projects=frozenset({"alpha"})))
