"""Who may do what: `authorize()` is the one question every service asks. Deny by default.

Not here: how a principal proves who it is (insitu.identity) and how refusals are shown (the services).
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from insitu.errors import Forbidden


class Role(StrEnum):
    """Role of a person in a project, each includes the ones before it."""

    READER = "reader"
    REVIEWER = "reviewer"
    RESEARCHER = "researcher"
    LEAD = "lead"


class Action(StrEnum):
    """What can be asked for. Names are `noun:verb`."""

    # in a project
    IMAGE_READ = "image:read"
    IMAGE_STORE = "image:store"
    IMAGE_DELETE = "image:delete"
    IMAGE_EXPORT = "image:export"  # send to another node
    IMAGE_RETRIEVE = "image:retrieve"  # search another node and fetch from it
    RUN_READ = "run:read"
    RUN_START = "run:start"
    RUN_CANCEL = "run:cancel"
    DATASET_READ = "dataset:read"
    DATASET_CHANGE = "dataset:change"
    RESULT_REVIEW = "result:review"
    PROJECT_READ = "project:read"
    PROJECT_MEMBERS = "project:members"
    # of the site
    ACCOUNT_MANAGE = "account:manage"
    PROJECT_CREATE = "project:create"
    PROJECT_SHARE = "project:share"  # of the site's capacity: weight and limit
    RULE_READ = "rule:read"
    RULE_CHANGE = "rule:change"
    ALGORITHM_READ = "algorithm:read"
    ALGORITHM_INSTALL = "algorithm:install"
    ARCHIVE_MANAGE = "archive:manage"
    NODE_MANAGE = "node:manage"
    AUDIT_READ = "audit:read"
    PLATFORM_STATUS = "platform:status"
    # of oneself
    SELF = "self"
    # of the machinery
    GATEWAY_FETCH = "gateway:fetch"
    GATEWAY_PUBLISH = "gateway:publish"
    ENGINE_CALL = "engine:call"


_READER = {Action.IMAGE_READ, Action.RUN_READ, Action.DATASET_READ, Action.PROJECT_READ}
_REVIEWER = _READER | {Action.RESULT_REVIEW}
_RESEARCHER = _REVIEWER | {
    Action.IMAGE_STORE, Action.IMAGE_EXPORT, Action.RUN_START, Action.RUN_CANCEL, Action.DATASET_CHANGE,
}  # fmt: skip
# Who searches a hospital's PACS sees every patient of the house, so that is for the lead.
_LEAD = _RESEARCHER | {Action.PROJECT_MEMBERS, Action.IMAGE_DELETE, Action.IMAGE_RETRIEVE}
IN_PROJECT: dict[Role, frozenset[Action]] = {
    Role.READER: frozenset(_READER),
    Role.REVIEWER: frozenset(_REVIEWER),
    Role.RESEARCHER: frozenset(_RESEARCHER),
    Role.LEAD: frozenset(_LEAD),
}
# Another DICOM system that queries and retrieves, in its own projects.
NODE = frozenset({Action.IMAGE_READ})
# Everyone with an account; these tell nothing of any project.
EVERYONE = frozenset({Action.SELF, Action.ALGORITHM_READ})
# The site admin runs the house. Also in no project, he reads images: he can open the files anyway, so it is audited instead.
SITE_ADMIN = frozenset(Action) - {Action.GATEWAY_FETCH, Action.GATEWAY_PUBLISH, Action.ENGINE_CALL}


class Principal(BaseModel):
    """Somebody or something that asks: a person, a token of a person, a step of an execution, the workflow engine, a node."""

    model_config = ConfigDict(frozen=True)

    name: str  # as it stands in the audit trail
    kind: str  # "account", "step", "engine", "node", "system"
    account_id: str | None = None
    site_admin: bool = False
    memberships: dict[str, Role] = {}
    execution: str | None = None  # of a step
    grants: frozenset[Action] = frozenset()  # of a step or the engine


SYSTEM = Principal(name="system", kind="system", grants=frozenset(Action))


class Resource(BaseModel):
    """What is asked about: its kind and identifier for the message, and the projects it belongs to.

    `projects` is None for things of the site (accounts, rules); an empty set for a series that no project holds.
    `execution` is set where only the steps of one execution may pass.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    id: str = ""
    projects: frozenset[str] | None = None
    execution: str | None = None


SITE = Resource(kind="site")


def allowed(principal: Principal, action: Action, resource: Resource) -> bool:
    """Whether `principal` may do `action` on `resource`. A pure function of its arguments."""
    if principal.kind == "system":
        return True
    if resource.execution is not None and principal.kind == "step" and resource.execution != principal.execution:
        return False
    if action in principal.grants:
        return True
    if principal.kind == "node":
        return action in NODE and not (resource.projects or frozenset()).isdisjoint(principal.memberships)
    if principal.kind != "account":
        return False
    if principal.site_admin and action in SITE_ADMIN:
        return True
    if action in EVERYONE:
        return True
    if resource.projects is None:
        return False
    return any(
        action in IN_PROJECT[role] for project, role in principal.memberships.items() if project in resource.projects
    )


def authorize(principal: Principal, action: Action, resource: Resource = SITE) -> None:
    """Return if `principal` may do `action` on `resource`, else raise.

    Raises
    ------
    Forbidden
        Names the action and the kind of resource, nothing about its content.
    """
    if not allowed(principal, action, resource):
        raise Forbidden(
            f"{principal.name} may not do {action.value} here",
            why=f"No role of this account allows it on this {resource.kind}",
            remedy="Ask the project's lead or the site admin for the role",
        )


def visible_projects(principal: Principal, action: Action) -> frozenset[str] | None:
    """The projects in which `principal` may do `action`; None means all (also series that no project holds)."""
    if principal.kind == "system" or (principal.site_admin and action in SITE_ADMIN):
        return None
    if principal.kind == "node" and action not in NODE:
        return frozenset()
    return frozenset(project for project, role in principal.memberships.items() if action in IN_PROJECT[role])
