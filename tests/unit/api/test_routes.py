"""ID-2: every route of the api refuses a stranger, and shows nothing of a project to whoever is not in it.

The routes are read from the application itself, so that a new one is covered, or fails here until it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from insitu.archive import conflicts, quarantine
from insitu.identity import tokens
from insitu.identity.sessions import COOKIE, open_session
from insitu.nodes import registry, retrievals, transfers
from insitu.nodes.registry import Node
from insitu.projects.permissions import Action
from insitu.runs.preparation import step_token
from insitu_services.api.access import current_principal
from insitu_services.api.app import create_app, create_gateway

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
OPEN = {
    ("GET", "/healthz"): "tells only that the process answers",
    ("GET", "/readyz"): "tells only which component answers",
    ("POST", "/api/v1/session"): "is the login",
    ("GET", "/login"): "is the login page",
    ("GET", "/static/{path:path}"): "has the style and scripts of the login page",
}
# Path parameters that name something of a project: who is not in it must not get an answer.
OF_A_PROJECT = {
    "study",
    "series",
    "instance",
    "series_instance_uid",
    "sop_instance_uid",
    "execution",
    "project",
    "token",
    "transfer",
    "retrieval",
}
# Bodies by which a route would do something, so that a refusal is not one of the body. Only for routes that take one.
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/api/v1/session"): {"name": "nobody", "password": "nothing"},
    ("POST", "/api/v1/accounts"): {"name": "mallory", "password": "a long enough password", "site_admin": True},
    ("PATCH", "/api/v1/accounts/{account}"): {"site_admin": True},
    ("PUT", "/api/v1/accounts/{account}/password"): {"password": "a long enough password"},
    ("POST", "/api/v1/tokens"): {"name": "stolen", "account": "alpha-lead"},
    ("POST", "/api/v1/projects"): {"name": "gamma"},
    ("PATCH", "/api/v1/projects/{project}"): {"weight": 1000, "runs_at_once": 1},
    ("PUT", "/api/v1/projects/{project}/members/{account}"): {"role": "lead"},
    ("PATCH", "/api/v1/algorithms/{name}"): {"enabled": False},
    ("PUT", "/api/v1/rules"): {"version": 1, "rules": []},
    ("POST", "/api/v1/rules/test"): {"series": "{series}"},
    ("POST", "/api/v1/rules/replay"): {},
    ("POST", "/api/v1/archive/deletions"): {"study": "{study}", "reason": "a test"},
    ("PUT", "/api/v1/archive/holds/{study}"): {"reason": "a test"},
    ("POST", "/api/v1/conflicts/{conflict}/resolve"): {"resolution": "replace", "reason": "a test"},
    ("POST", "/api/v1/runs"): {"again": "{execution}"},
    ("POST", "/api/v1/transfers"): {"study": "{study}", "to": "pacs"},
    ("POST", "/api/v1/retrievals"): {"from": "pacs", "study": "{study}", "project": "alpha"},
    ("POST", "/api/v1/nodes/{node}/search"): {"study": "1.2.3"},
    ("PUT", "/api/v1/nodes/{node}"): {"ae_title": "MALLORY"},
    ("POST", "/engine/v1/executions/{execution}/stage"): {"stage": "running"},
    ("POST", "/engine/v1/executions/{execution}/conclude"): {"outcome": {"state": "cancelled"}},
    ("POST", "/gateway/v1/executions/{execution}/stage"): {"stage": "stored"},
}
# What no answer to an outsider may hold, whatever its status; the uids and ids come on top where it succeeds.
SECRETS = ("Geheim", "SECRET-4711")
UNCHANGED = (
    "account", "membership", "project", "series_project", "series", "instance", "run", "execution", "execution_event",
    "execution_result", "rule_set", "algorithm", "quarantine", "conflict", "node", "transfer", "retrieval",
)  # fmt: skip


@dataclass(frozen=True)
class Door:
    """A method of a route."""

    method: str
    path: str
    action: Action | None
    knows_caller: bool

    @property
    def parameters(self) -> set[str]:
        """Names of the path parameters."""
        return {name.partition(":")[0] for name in re.findall(r"{([^}]+)}", self.path)}

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def doors(app: Any) -> Iterator[Door]:
    """Every method of every route, also of included routers. Fails for anything that is no API route."""
    for context in iter_route_contexts(app.routes):
        assert isinstance(context.original_route, APIRoute), f"{context.path} cannot say what it requires"
        calls = list(dependencies(context.dependant))
        actions = [call.insitu_action for call in calls if hasattr(call, "insitu_action")]
        for method in sorted(context.methods or ()):
            yield Door(method, str(context.path), actions[0] if actions else None, current_principal in calls)


def dependencies(dependant: Any) -> Iterator[Callable[..., Any]]:
    """The functions a route depends on, at any depth."""
    for inner in dependant.dependencies:
        yield inner.call
        yield from dependencies(inner)


@pytest.fixture
def visit(furnished: Any, new_file: Callable[..., bytes]) -> Callable[..., httpx.Response]:
    """Goes through a door with the identifiers of what is in alpha."""
    execution = furnished.executions["alpha"]
    with furnished.context.database.transaction() as connection:
        token_id = tokens.of_account(connection, "alpha-lead")[0]["id"]
        (kept,) = quarantine.listed(connection)
    receipt = furnished.context.archive.open_receipt(channel="import", project="alpha")
    other = {"Study": "study", "Series": "series", "SOP": "instance"}
    with furnished.context.archive.begin(receipt) as incoming:
        incoming.write(
            new_file(StationName="another", **{f"{n}InstanceUID": furnished.uids[uid] for n, uid in other.items()})
        )
        incoming.commit()
    furnished.context.archive.close_receipt(receipt)
    with furnished.context.database.transaction() as connection:
        (second,) = conflicts.listed(connection)
        registry.save(connection, Node(name="pacs", ae_title="PACS", host="localhost", port=1))
        transfer = transfers.create(
            connection, "pacs", study=furnished.uids["study"], projects=None, requested_by="alpha-lead"
        )
        retrieval = retrievals.create(
            connection, "pacs", study="1.2.3", project="alpha", off_peak=True, requested_by="alpha-lead"
        )
    values = {
        **furnished.uids,
        "series_instance_uid": furnished.uids["series"],
        "sop_instance_uid": furnished.uids["instance"],
        "execution": execution,
        "project": "alpha",
        "account": "alpha-lead",
        "token": token_id,
        "entry": kept["id"],
        "conflict": second["id"],
        "numbers": "1",
        "number": "1",
        "version": "1",
        "path": "index.html",
        "name": "tissue",
        "node": "pacs",
        "transfer": str(transfer),
        "retrieval": retrieval,
        "algorithm": "tissue",
        "digest": "sha256:" + "a" * 64,
    }

    def filled(text: str) -> str:
        for name in re.findall(r"{([^}]+)}", text):
            plain = name.partition(":")[0]
            assert plain in values, f"tell this test which value to put in for {{{name}}} of {text}"
            text = text.replace(f"{{{name}}}", values[plain])
        return text

    def body(door: Door) -> dict[str, Any]:
        if door.path.startswith("/dicom-web") and door.method == "POST":
            part = new_file(StudyInstanceUID=furnished.uids["study"])
            return {
                "content": b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n--b--\r\n",
                "headers": {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'},
                "params": {"project": "alpha"},
            }
        if door.path.startswith(("/api/v1/quarantine", "/api/v1/archive/holds")) and door.method == "DELETE":
            return {"params": {"reason": "a test"}}
        if door.path.endswith("/results"):
            return {"files": {"file": ("0.dcm", new_file())}}
        content = BODIES.get((door.method, door.path))
        if content is None:
            return {}
        return {"json": {key: filled(value) if isinstance(value, str) else value for key, value in content.items()}}

    def through(client: httpx.Client, door: Door, method: str | None = None) -> httpx.Response:
        return client.request(method or door.method, filled(door.path), **body(door))

    return through


@pytest.fixture
def people(furnished: Any) -> dict[str, str]:
    """API tokens by name of the account."""
    return {
        "alpha-lead": furnished.account("alpha-lead", alpha="lead"),
        "alpha-reader": furnished.account("alpha-reader", alpha="reader"),
        "beta-lead": furnished.account("beta-lead", beta="lead"),
        "nobody": furnished.account("nobody"),
        "admin": furnished.account("admin", site_admin=True),
    }


def everything(house: Any) -> dict[str, list[Any]]:
    """The rows an outsider must not change."""
    with house.context.database.transaction() as connection:
        found = {
            table: [str(row["content"]) for row in connection.execute(f"SELECT t::text AS content FROM {table} t")]
            for table in UNCHANGED
        }
    return {table: sorted(rows) for table, rows in found.items()}


def test_a_route_that_names_no_action_would_be_open_to_everybody(house: Any) -> None:
    found = {(door.method, door.path): door for door in doors(create_app(house.context))}
    assert len(found) > 50, "the walk does not find the routes any more"
    unguarded = {key for key, door in found.items() if door.action is None or not door.knows_caller}
    assert unguarded == set(OPEN), "each route needs requires(Action.X), or a reason to be open"


def test_a_stranger_gets_an_answer(
    furnished: Any, people: dict[str, str], visit: Callable[..., httpx.Response]
) -> None:
    database = furnished.context.database
    with database.transaction() as connection:
        admin = connection.execute("SELECT id::text AS id FROM account WHERE name = 'admin'").fetchone()
        assert admin is not None
        ended = open_session(connection, admin["id"], -1)
        disabled_cookie = open_session(connection, admin["id"], 1)
        connection.execute("UPDATE account SET disabled = true WHERE name = 'admin'")
        late = tokens.create(connection, "alpha-lead", "late", days=1)
        connection.execute("UPDATE api_token SET expires_at = now() - interval '1 second' WHERE name = 'late'")
    before = everything(furnished)
    strangers = {
        "without anything": furnished.client(),
        "with an invented token": furnished.client("insitu_api_invented"),
        "with an invented step token": furnished.client("insitu_step_invented"),
        "with an ended token": furnished.client(late),
        "with the token of a disabled account": furnished.client(people["admin"]),
        "with an ended session": furnished.client(cookie=f"{COOKIE}={ended}"),
        "with the session of a disabled account": furnished.client(cookie=f"{COOKIE}={disabled_cookie}"),
    }
    wrong = []
    for door in doors(create_app(furnished.context)):
        if (door.method, door.path) in OPEN:
            continue
        for who, client in strangers.items():
            status = visit(client, door).status_code
            if status != 401:
                wrong.append(f"{door} {who}: {status}")
        for method in METHODS:
            if (method, door.path) not in OPEN:
                status = visit(strangers["without anything"], door, method).status_code
                if status not in (401, 405):
                    wrong.append(f"{method} at {door}: {status}")
    assert wrong == []
    assert everything(furnished) == before


@pytest.mark.parametrize("who", ["beta-lead", "nobody"])
def test_another_projects_member_sees_or_changes_something_of_this_one(
    furnished: Any, people: dict[str, str], visit: Callable[..., httpx.Response], who: str
) -> None:
    markers = [*SECRETS, *furnished.uids.values(), furnished.executions["alpha"], "alpha", people["alpha-lead"]]
    before = everything(furnished)
    wrong = []
    with furnished.client(people[who]) as client:
        for door in doors(create_app(furnished.context)):
            if (door.method, door.path) in OPEN:
                continue
            answer = visit(client, door)
            names_alpha = bool(door.parameters & OF_A_PROJECT)
            if answer.status_code < 400:
                shown = [marker for marker in markers if marker in answer.text]
                # a search that finds nothing is answered by an empty list (PS3.18 10.6)
                if shown or (names_alpha and answer.text != "[]"):
                    wrong.append(f"{door}: {answer.status_code} with {shown}")
            elif answer.status_code == 422:
                wrong.append(f"{door}: tell this test a body that the route can use: {answer.text}")
            elif answer.status_code not in ((403, 404) if names_alpha else (403, 404, 503)):
                wrong.append(f"{door}: {answer.status_code} {answer.text[:200]}")
            if any(secret in answer.text for secret in SECRETS):
                wrong.append(f"{door}: shows the patient in its refusal")
    assert wrong == []
    assert everything(furnished) == before


def test_a_reader_changes_something(
    furnished: Any, people: dict[str, str], visit: Callable[..., httpx.Response]
) -> None:
    before = everything(furnished)
    wrong = []
    with furnished.client(people["alpha-reader"]) as client:
        for door in doors(create_app(furnished.context)):
            if door.method in ("GET", "OPTIONS") or (door.method, door.path) in OPEN or door.path == "/api/v1/session":
                continue
            status = visit(client, door).status_code
            if status not in (403, 404):
                wrong.append(f"{door}: {status}")
    assert wrong == []
    assert everything(furnished) == before


def test_those_who_may_see_are_refused_so_the_walk_proves_nothing(
    furnished: Any, people: dict[str, str], visit: Callable[..., httpx.Response]
) -> None:
    wrong = []
    execution, settings = furnished.executions["alpha"], furnished.context.settings
    step = furnished.client(step_token(settings, execution, "fetch"))
    for door in doors(create_app(furnished.context)):
        if door.method != "GET" or (door.method, door.path) in OPEN or door.path.startswith("/viewer"):
            continue
        of_the_site = door.action in (
            Action.ACCOUNT_MANAGE, Action.AUDIT_READ, Action.RULE_READ, Action.PLATFORM_STATUS, Action.ARCHIVE_MANAGE,
            Action.ALGORITHM_INSTALL, Action.NODE_MANAGE,
        )  # fmt: skip
        someone = furnished.client(people["admin" if of_the_site else "alpha-lead"])
        client = step if door.path.startswith("/gateway") else someone
        answer = visit(client, door)
        # a site without rules has no version 1, and index.html is no element with bulk data
        absent = "{version}" in door.path or "/bulkdata/" in door.path
        if answer.status_code >= 400 and not (absent and answer.status_code == 404):
            wrong.append(f"{door}: {answer.status_code} {answer.text[:300]}")
    assert wrong == []


def test_the_token_of_a_step_opens_another_door(
    furnished: Any, people: dict[str, str], visit: Callable[..., httpx.Response]
) -> None:
    settings = furnished.context.settings
    engine = (settings.secrets / "engine-token").read_text()
    callers = {
        "fetch of alpha": (step_token(settings, furnished.executions["alpha"], "fetch"), {Action.GATEWAY_FETCH}),
        "fetch of beta": (step_token(settings, furnished.executions["beta"], "fetch"), set()),
        "publish of beta": (step_token(settings, furnished.executions["beta"], "publish"), set()),
        "the engine": (engine, {Action.ENGINE_CALL}),
    }
    wrong = []
    for who, (token, may) in callers.items():
        with furnished.client(token) as client:
            for door in doors(create_app(furnished.context)):
                if (door.method, door.path) in OPEN or door.action in may:
                    continue
                answer = visit(client, door)
                if answer.status_code != 403 or any(secret in answer.text for secret in SECRETS):
                    wrong.append(f"{door} for {who}: {answer.status_code}")
    assert wrong == []


ALIVE = {("GET", "/healthz")}


def test_the_run_gateway_serves_something_else_of_the_platform(
    furnished: Any, people: dict[str, str], visit: Callable[..., httpx.Response], gateway_url: str
) -> None:
    of_the_api = list(doors(create_app(furnished.context)))
    own = {(door.method, door.path) for door in of_the_api if door.path.startswith("/gateway/")} | ALIVE
    assert {(door.method, door.path) for door in doors(create_gateway(furnished.context))} == own
    before = everything(furnished)
    wrong = []
    admin = {"Authorization": f"Bearer {people['admin']}"}
    with httpx.Client(base_url=gateway_url, headers=admin, timeout=60, trust_env=False) as client:
        for door in of_the_api:
            if (door.method, door.path) not in own:
                status = visit(client, door).status_code
                if status != 404:
                    wrong.append(f"{door}: {status}")
    assert wrong == []
    assert everything(furnished) == before


def test_the_run_gateway_answers_a_stranger_or_another_execution(
    furnished: Any, people: dict[str, str], visit: Callable[..., httpx.Response], gateway_url: str
) -> None:
    settings = furnished.context.settings
    alpha, beta = furnished.executions["alpha"], furnished.executions["beta"]
    callers = {
        "nobody": ("", 401),
        "an invented token": ("insitu_step_invented", 401),
        "the admin": (people["admin"], 403),
        "a lead": (people["alpha-lead"], 403),
        "the engine": ((settings.secrets / "engine-token").read_text(), 403),
        "fetch of beta": (step_token(settings, beta, "fetch"), 403),
        "publish of beta": (step_token(settings, beta, "publish"), 403),
    }
    before = everything(furnished)
    wrong = []
    for who, (token, expected) in callers.items():
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(base_url=gateway_url, headers=headers, timeout=60, trust_env=False) as client:
            for door in doors(create_gateway(furnished.context)):
                if (door.method, door.path) not in ALIVE:
                    answer = visit(client, door)
                    if answer.status_code != expected or any(secret in answer.text for secret in SECRETS):
                        wrong.append(f"{door} for {who}: {answer.status_code}")
    assert wrong == []
    assert everything(furnished) == before
    # The walk proves nothing if nobody gets in.
    with httpx.Client(base_url=gateway_url, timeout=60, trust_env=False) as client:
        fetch = {"Authorization": f"Bearer {step_token(settings, alpha, 'fetch')}"}
        answer = client.get(f"/gateway/v1/executions/{alpha}/manifest", headers=fetch)
        assert answer.json()["execution"] == alpha
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        too_large = client.post(f"/gateway/v1/executions/{alpha}/stage", content=bytes(70_000))
        assert too_large.status_code == 401, "a stranger's body is read"
