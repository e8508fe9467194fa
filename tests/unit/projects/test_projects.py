"""Projects and memberships in the database."""

from __future__ import annotations

import pytest

from insitu.database import Database
from insitu.errors import Conflict, Invalid, NotFound
from insitu.projects import projects
from insitu.projects.permissions import Role


@pytest.mark.parametrize("name", ["", "Alpha", "-a", "a b", "a/b", "ä", "x" * 64, "a\n"])
def test_a_name_that_breaks_addresses_becomes_a_project(database: Database, name: str) -> None:
    with database.transaction() as connection, pytest.raises(Invalid):
        projects.create(connection, name)


def test_a_project_is_made_twice(database: Database) -> None:
    with database.transaction() as connection:
        projects.create(connection, "alpha", "First")
        projects.ensure(connection, "alpha", "Second")
        with pytest.raises(Conflict):
            projects.create(connection, "alpha", "Third")
        assert projects.get(connection, "alpha")["title"] == "First"


def test_a_member_of_a_project_that_there_is_not(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO account (name, password_hash) VALUES ('anna', 'none')")
        with pytest.raises(NotFound):
            projects.set_member(connection, "nothing", "anna", Role.READER)
        projects.create(connection, "alpha")
        with pytest.raises(NotFound):
            projects.set_member(connection, "alpha", "nobody", Role.READER)
        assert projects.set_member(connection, "alpha", "anna", Role.READER) is None
        assert projects.set_member(connection, "alpha", "anna", Role.LEAD) is Role.READER
        assert projects.members(connection, "alpha") == [{"account": "anna", "role": "lead", "disabled": False}]


def test_the_list_shows_projects_one_is_not_in(database: Database) -> None:
    with database.transaction() as connection:
        for name in ("alpha", "beta"):
            projects.create(connection, name)
        assert [row["name"] for row in projects.visible(connection, None)] == ["alpha", "beta"]
        assert [row["name"] for row in projects.visible(connection, frozenset({"beta", "gamma"}))] == ["beta"]
        assert projects.visible(connection, frozenset()) == []
