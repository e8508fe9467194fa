"""The queue of retrievals: studies and series that are to be fetched from other nodes, and how far each has come.

Not here: the network (insitu_services.peers), the threads (insitu_services.dispatcher), the off-peak window (window).
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection
from typing import Literal

from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, NotFound

from . import leases, registry
from .leases import Claim

Way = Literal["get", "move", "wado"]

_RETRIEVAL = (
    "SELECT id::text AS id, node, way, study_instance_uid, series_instance_uid, project, off_peak, requested_by, requested_at,"
    " state, attempts, next_attempt, expected, present, reason, finished_at,"
    " coalesce(leased_until > now(), false) AND state = 'queued' AS active FROM retrieval"
)


def create(
    connection: Connection,
    node: str,
    *,
    study: str,
    series: str | None = None,
    project: str,
    off_peak: bool,
    requested_by: str,
    way: Way | None = None,
) -> str:
    """Queue a study, or one series of it; the retrieval's id. The same that waits already is not queued twice.

    Parameters
    ----------
    connection : Connection
    node : str
        Name of the node to fetch from.
    study, series : str
    project : str
        Where the objects go.
    off_peak : bool
        Wait for the site's retrieval window.
    requested_by : str
    way : {"get", "move", "wado"}, optional
        By default as the node says where it has a DIMSE address, else WADO-RS.

    Raises
    ------
    NotFound
        There is no such node.
    Invalid
        There is no such project, or the node cannot be fetched from in this way.
    """
    described = registry.find(connection, node)
    chosen = way or (described.retrieve_by if described.callable_by_dimse else "wado")
    if (chosen == "wado" and described.url is None) or (chosen != "wado" and not described.callable_by_dimse):
        missing = "no URL of a DICOMweb service" if chosen == "wado" else "no host and port"
        raise Invalid("Nothing can be fetched from this node", value=node, why=f"it has {missing}")
    if connection.execute("SELECT 1 FROM project WHERE name = %s", (project,)).fetchone() is None:
        raise Invalid("There is no such project", value=project, remedy="See `insitu project list`")
    values = {
        "node": node, "way": chosen, "study": study, "series": series, "project": project, "off_peak": off_peak,
        "by": requested_by,
    }  # fmt: skip
    same = connection.execute(
        "SELECT id::text AS id FROM retrieval WHERE state = 'queued' AND node = %(node)s AND study_instance_uid = %(study)s"
        " AND series_instance_uid IS NOT DISTINCT FROM %(series)s AND project = %(project)s AND off_peak = %(off_peak)s",
        values,
    ).fetchone()
    if same is not None:
        return str(same["id"])
    made = connection.execute(
        "INSERT INTO retrieval (node, way, study_instance_uid, series_instance_uid, project, off_peak, requested_by)"
        " VALUES (%(node)s, %(way)s, %(study)s, %(series)s, %(project)s, %(off_peak)s, %(by)s) RETURNING id::text AS id",
        values,
    ).fetchone()
    assert made is not None  # noqa: S101
    return str(made["id"])


def get(connection: Connection, identifier: str, projects: frozenset[str] | None) -> Row:
    """A retrieval.

    Raises
    ------
    NotFound
        There is none into these projects.
    """
    row = None
    with contextlib.suppress(ValueError):  # what is no identifier is not found
        row = connection.execute(f"{_RETRIEVAL} WHERE id = %s", (str(uuid.UUID(identifier)),)).fetchone()
    if row is None or (projects is not None and row["project"] not in projects):
        raise NotFound("There is no such retrieval", value=identifier, remedy="See `insitu retrieve list`")
    return row


def listed(
    connection: Connection,
    projects: frozenset[str] | None,
    *,
    state: str | None = None,
    node: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> list[Row]:
    """Retrievals into these projects, the newest first."""
    return connection.execute(
        f"{_RETRIEVAL} WHERE (%(all)s OR project = ANY(%(projects)s))"
        " AND (%(state)s::text IS NULL OR state = %(state)s) AND (%(node)s::text IS NULL OR node = %(node)s)"
        " ORDER BY requested_at DESC, id LIMIT %(limit)s OFFSET %(offset)s",
        {
            "all": projects is None, "projects": sorted(projects or ()), "state": state, "node": node,
            "limit": limit, "offset": offset,
        },
    ).fetchall()  # fmt: skip


def cancel(connection: Connection, identifier: str, by: str) -> None:
    """Fetch no further object; what is here stays.

    Raises
    ------
    Conflict
        It has ended already.
    """
    changed = connection.execute(
        "UPDATE retrieval SET state = 'cancelled', finished_at = now(), reason = %s WHERE id = %s AND state = 'queued'",
        (f"cancelled by {by}", identifier),
    ).rowcount
    if not changed:
        raise Conflict("The retrieval has ended already", value=identifier)


def retry(connection: Connection, identifier: str) -> None:
    """Try a failed or cancelled one again, or a waiting one now.

    Raises
    ------
    Conflict
        It is done.
    """
    changed = connection.execute(
        "UPDATE retrieval SET attempts = 0, next_attempt = now(), reason = NULL, finished_at = NULL, state = 'queued',"
        " lease = CASE WHEN state = 'queued' THEN lease END,"
        " leased_until = CASE WHEN state = 'queued' THEN leased_until END WHERE id = %s AND state <> 'done'",
        (identifier,),
    ).rowcount
    if not changed:
        raise Conflict("The retrieval is done", value=identifier)


def present(connection: Connection, uids: Collection[str]) -> set[str]:
    """Those of the SOP Instance UIDs that are in the archive."""
    return {
        row["sop_instance_uid"]
        for row in connection.execute(
            "SELECT sop_instance_uid FROM instance WHERE sop_instance_uid = ANY(%s)", (list(uids),)
        )
    }


def held(connection: Connection, study: str, series: str | None) -> set[str]:
    """SOP Instance UIDs of a study or series in the archive."""
    return {
        row["sop_instance_uid"]
        for row in connection.execute(
            "SELECT i.sop_instance_uid FROM instance i JOIN series s ON s.id = i.series JOIN study t ON t.id = s.study"
            " WHERE t.study_instance_uid = %(study)s AND (%(series)s::text IS NULL OR s.series_instance_uid = %(series)s)",
            {"study": study, "series": series},
        )
    }


def note(connection: Connection, work: Claim, identifier: str, *, expected: int | None, present: int) -> bool:
    """Note how far it is; progress forgives earlier failures. False where it is not in the worker's hand any more."""
    if not leases.held(connection, work, identifier):
        return False
    connection.execute(
        "UPDATE retrieval SET attempts = CASE WHEN %(present)s > present THEN 0 ELSE attempts END,"
        " expected = coalesce(%(expected)s, expected), present = %(present)s WHERE id = %(id)s",
        {"id": identifier, "expected": expected, "present": present},
    )
    return True


def settle(
    connection: Connection,
    work: Claim,
    identifier: str,
    *,
    failure: str | None,
    final: bool,
    attempts: int,
    first_wait: float,
) -> None:
    """Give a claimed retrieval back: done where `failure` is None, failed where it is final, else due again later."""
    if not leases.held(connection, work, identifier):
        return
    row = get(connection, identifier, None)
    made = row["attempts"] + 1
    if failure is None:
        state, reason = "done", None
    elif final or made >= attempts:
        state, reason = "failed", failure if final else f"{failure} Given up after {made} attempts."
    else:
        state, reason = "queued", failure
    connection.execute(
        "UPDATE retrieval SET state = %(state)s, reason = %(reason)s, attempts = %(made)s, lease = NULL, leased_until = NULL,"
        " finished_at = CASE WHEN %(state)s = 'queued' THEN NULL ELSE now() END,"
        " next_attempt = now() + make_interval(secs => %(wait)s) WHERE id = %(id)s",
        {
            "state": state, "reason": reason, "made": made if failure else row["attempts"],
            "wait": leases.back_off(made, first_wait), "id": identifier,
        },
    )  # fmt: skip


def let_go(connection: Connection, work: Claim, identifier: str) -> None:
    """Give a claimed retrieval back as it is, because the process stops."""
    if leases.held(connection, work, identifier):
        connection.execute("UPDATE retrieval SET lease = NULL, leased_until = NULL WHERE id = %s", (identifier,))
