"""The queue of retrievals: studies and series that are to be fetched from other nodes, and how far each has come.

Not here: the network (insitu_services.peers), the threads (insitu_services.dispatcher), the off-peak window (window),
what transfers have too (queue).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from insitu.database import Connection
from insitu.errors import Conflict, Invalid

from . import leases, registry
from .leases import Claim
from .queue import Failure, Patience, Queue, given_up

Way = Literal["get", "move", "wado"]

QUEUE = Queue(
    "retrieval",
    "SELECT t.id::text AS id, t.node, t.way, t.study_instance_uid, t.series_instance_uid, t.project, t.off_peak,"
    " t.requested_by, t.requested_at, t.state, t.attempts, t.next_attempt, t.expected, t.present, t.reason, t.finished_at,"
    " coalesce(t.leased_until > now(), false) AND t.state = 'queued' AS active FROM retrieval t",
    visible="t.project = ANY(%(projects)s)",
)
get, listed, cancel = QUEUE.get, QUEUE.listed, QUEUE.cancel


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


def retry(connection: Connection, identifier: str) -> None:
    """Try a failed or cancelled one again, or a waiting one now.

    Raises
    ------
    Conflict
        It is done.
    """
    row = connection.execute("SELECT state FROM retrieval WHERE id = %s FOR UPDATE", (identifier,)).fetchone()
    if row is None or row["state"] == "done":
        raise Conflict("The retrieval is done", value=identifier)
    QUEUE.again(connection, identifier)


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


def settle(connection: Connection, work: Claim, failure: Failure | None, patience: Patience) -> list[str]:
    """Give a claimed retrieval back: done where `failure` is None, failed where nothing more is tried, else due again later.

    Returns the ids of those that have ended.
    """
    ended: list[str] = []
    for each in work.rows:
        if not leases.held(connection, work, each["id"]):
            continue
        made = int(get(connection, each["id"], None)["attempts"]) + 1
        if failure is None:
            QUEUE.end(connection, each["id"], "done", None)
            ended.append(each["id"])
        elif reason := given_up(failure, made, patience):
            QUEUE.end(connection, each["id"], "failed", reason)
            ended.append(each["id"])
        else:
            QUEUE.later(connection, each["id"], failure, made, patience)
    return ended
