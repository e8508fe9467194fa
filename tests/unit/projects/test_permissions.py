"""What `authorize` allows: nothing by default, and never more than a role says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.errors import Forbidden
from insitu.projects.permissions import (
    EVERYONE,
    IN_PROJECT,
    SITE_ADMIN,
    Action,
    Principal,
    Resource,
    Role,
    allowed,
    authorize,
    visible_projects,
)

MACHINERY = {Action.GATEWAY_FETCH, Action.GATEWAY_PUBLISH, Action.ENGINE_CALL}
names = st.sampled_from(["alpha", "beta", "gamma", "delta"])
actions = st.sampled_from(Action)
resources = st.builds(
    Resource,
    kind=st.just("series"),
    id=st.text(max_size=5),
    projects=st.none() | st.frozensets(names),
    execution=st.none() | st.sampled_from(["e1", "e2"]),
)
people = st.builds(
    Principal,
    name=st.just("anna"),
    kind=st.just("account"),
    site_admin=st.just(False),
    memberships=st.dictionaries(names, st.sampled_from(Role)),
)


@settings(deadline=None)
@given(action=actions, resource=resources, kind=st.sampled_from(["account", "step", "engine", "node", "stranger", ""]))
def test_somebody_without_any_role_or_grant_is_allowed_something(action: Action, resource: Resource, kind: str) -> None:
    principal = Principal(name="nobody", kind=kind)
    assert allowed(principal, action, resource) == (kind == "account" and action in EVERYONE)


@settings(deadline=None)
@given(person=people, action=actions, resource=resources)
def test_a_person_may_do_what_no_role_in_a_project_of_the_thing_allows(
    person: Principal, action: Action, resource: Resource
) -> None:
    shared = (resource.projects or frozenset()) & set(person.memberships)
    by_role = any(action in IN_PROJECT[person.memberships[project]] for project in shared)
    assert allowed(person, action, resource) == (by_role or action in EVERYONE)
    if not allowed(person, action, resource):
        with pytest.raises(Forbidden):
            authorize(person, action, resource)


@settings(deadline=None)
@given(person=people, action=actions, projects=st.frozensets(names))
def test_a_list_shows_other_projects_than_the_single_things_do(
    person: Principal, action: Action, projects: frozenset[str]
) -> None:
    visible = visible_projects(person, action)
    assert visible is not None
    if action not in EVERYONE:
        resource = Resource(kind="series", projects=projects)
        assert allowed(person, action, resource) == bool(visible & projects)


@settings(deadline=None)
@given(person=people, action=actions, projects=st.frozensets(names))
def test_a_better_role_takes_something_away(person: Principal, action: Action, projects: frozenset[str]) -> None:
    resource = Resource(kind="series", projects=projects)
    roles = list(Role)
    for project, role in person.memberships.items():
        for better in roles[roles.index(role) :]:
            promoted = person.model_copy(update={"memberships": {**person.memberships, project: better}})
            assert allowed(promoted, action, resource) >= allowed(person, action, resource)


@settings(deadline=None)
@given(action=st.sampled_from(sorted(MACHINERY)), resource=resources, person=people, site_admin=st.booleans())
def test_a_person_may_do_what_is_for_the_machinery(
    action: Action, resource: Resource, person: Principal, site_admin: bool
) -> None:
    assert not allowed(person.model_copy(update={"site_admin": site_admin}), action, resource)


@settings(deadline=None)
@given(action=actions, resource=resources, grant=st.sampled_from([Action.GATEWAY_FETCH, Action.GATEWAY_PUBLISH]))
def test_a_step_may_do_more_than_its_part_of_its_own_execution(
    action: Action, resource: Resource, grant: Action
) -> None:
    step = Principal(name="step", kind="step", execution="e1", grants=frozenset({grant}))
    assert allowed(step, action, resource) == (action is grant and resource.execution != "e2")


@settings(deadline=None)
@given(person=people, action=actions, resource=resources)
def test_a_node_may_do_more_than_read_the_images_of_its_projects(
    person: Principal, action: Action, resource: Resource
) -> None:
    node = person.model_copy(update={"kind": "node", "name": "node:pacs"})
    shared = (resource.projects or frozenset()) & set(node.memberships)
    assert allowed(node, action, resource) == (action is Action.IMAGE_READ and bool(shared))
    expected = frozenset(node.memberships) if action is Action.IMAGE_READ else frozenset()
    assert visible_projects(node, action) == expected


def test_a_site_action_is_given_to_a_role_in_a_project() -> None:
    site = {
        Action.ACCOUNT_MANAGE, Action.PROJECT_CREATE, Action.RULE_CHANGE, Action.ALGORITHM_INSTALL, Action.ARCHIVE_MANAGE,
        Action.AUDIT_READ, Action.PLATFORM_STATUS, Action.NODE_MANAGE, Action.PROJECT_SHARE,
    }  # fmt: skip
    assert not site & frozenset().union(*IN_PROJECT.values())
    assert not site & EVERYONE
    assert site <= SITE_ADMIN
