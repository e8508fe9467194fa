"""The outbound queue: which objects go to which node, and what became of each. It lives in PostgreSQL and survives any kill.

An object that a peer acknowledged is noted before the next one goes out, and never sent again. Not here: the network
(insitu_services.peers) the threads that carry it out (insitu_services.dispatcher.transfers), what retrievals have too (queue).
"""

from __future__ import annotations

import uuid
from typing import Any, Literal

from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, NotFound

from . import leases, registry
from .leases import Claim
from .queue import Failure, Patience, Queue, given_up
from .verdicts import Verdict, judge

Way = Literal["dimse", "stow"]
COUNTED = ("waiting", "sent", "warning", "failed", "cancelled")

_COUNTS = ", ".join(f"count(*) FILTER (WHERE o.state = '{state}')::int AS {state}" for state in COUNTED)
QUEUE = Queue(
    "transfer",
    "SELECT t.id::text AS id, t.node, t.way, t.study_instance_uid, t.series_instance_uid, t.projects, t.requested_by,"
    " t.rule, t.requested_at, t.state, t.attempts, t.next_attempt, t.reason, t.finished_at,"
    " coalesce(t.leased_until > now(), false) AND t.state = 'queued' AS active, c.* FROM transfer t LEFT JOIN LATERAL"
    f" (SELECT {_COUNTS} FROM transfer_object o WHERE o.transfer = t.id) AS c ON true",
    visible="t.projects <@ %(projects)s AND t.projects <> '{}'",  # of one that goes with several, all
)
get, listed = QUEUE.get, QUEUE.listed


def create(
    connection: Connection,
    node: str,
    *,
    study: str | None = None,
    series: str | None = None,
    projects: frozenset[str] | None,
    requested_by: str,
    rule: str | None = None,
    way: Way | None = None,
) -> str | None:
    """Queue the objects of a study or series for a node; the transfer's id.

    Parameters
    ----------
    connection : Connection
    node : str
        Name of the node.
    study, series : str
        UID of the one that is sent.
    projects : frozenset of str or None
        Only series that belong to one of these; None: all.
    requested_by : str
        Name of the principal.
    rule : str, optional
        The rule that asks. Then objects that a rule has sent to this node, or that wait for it, are left out, and None is
        returned where no object is left.
    way : {"dimse", "stow"}, optional
        By default DIMSE where the node has an address, else STOW-RS.

    Raises
    ------
    NotFound
        There is no such node, study or series for these projects.
    Invalid
        The node cannot be sent to in this way.
    """
    described = registry.find(connection, node)
    chosen = way or ("dimse" if described.callable_by_dimse else "stow")
    if (chosen == "dimse" and not described.callable_by_dimse) or (chosen == "stow" and described.url is None):
        missing = "host and port" if chosen == "dimse" else "no URL of a DICOMweb service"
        raise Invalid(
            "Nothing can be sent to this node", value=node, why=f"it has {'no ' if chosen == 'dimse' else ''}{missing}"
        )
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()), "node": node, "way": chosen, "study": study, "series": series,
        "all": projects is None, "projects": sorted(projects or ()), "by": requested_by, "rule": rule,
    }  # fmt: skip
    condition = "s.series_instance_uid = %(series)s" if series is not None else "st.study_instance_uid = %(study)s"
    if series is not None and study is not None:
        condition += " AND st.study_instance_uid = %(study)s"
    found = connection.execute(
        "SELECT st.study_instance_uid, s.id,"
        " ARRAY(SELECT p.project FROM series_project p WHERE p.series = s.id AND (%(all)s OR p.project = ANY(%(projects)s)))"
        f" AS projects FROM series s JOIN study st ON st.id = s.study WHERE {condition}",
        values,
    ).fetchall()
    visible = [row for row in found if projects is None or row["projects"]]
    if not visible:
        what = "series" if series is not None else "study"
        raise NotFound(f"There is no such {what}", value=series if series is not None else study)
    values["study"] = visible[0]["study_instance_uid"]
    values["of"] = [row["id"] for row in visible]
    values["by_projects"] = sorted({project for row in visible for project in row["projects"]})
    connection.execute(
        "INSERT INTO transfer (id, node, way, study_instance_uid, series_instance_uid, projects, requested_by, rule)"
        " VALUES (%(id)s, %(node)s, %(way)s, %(study)s, %(series)s, %(by_projects)s, %(by)s, %(rule)s)",
        values,
    )
    already = (
        " AND NOT EXISTS (SELECT 1 FROM transfer_object o JOIN transfer t ON t.id = o.transfer WHERE t.node = %(node)s"
        " AND o.sop_instance_uid = i.sop_instance_uid AND t.rule IS NOT NULL AND o.state IN ('waiting', 'sent', 'warning'))"
        if rule is not None
        else ""
    )
    inserted = connection.execute(
        "INSERT INTO transfer_object (transfer, sop_instance_uid) SELECT %(id)s, i.sop_instance_uid FROM instance i"
        f" WHERE i.series = ANY(%(of)s){already}",
        values,
    ).rowcount
    if not inserted:
        connection.execute("DELETE FROM transfer WHERE id = %(id)s", values)
        if rule is not None:
            return None
        raise NotFound("There is no object to send", value=series or study)
    return str(values["id"])


def objects(connection: Connection, identifier: str, *, limit: int = 10_000, offset: int = 0) -> list[Row]:
    """What became of the objects of a transfer, those with a failure first."""
    return connection.execute(
        "SELECT sop_instance_uid, state, status, attempts, next_attempt, sentence, at FROM transfer_object"
        " WHERE transfer = %s ORDER BY array_position(ARRAY['failed', 'waiting', 'warning', 'sent', 'cancelled'], state),"
        ' sop_instance_uid COLLATE "C" LIMIT %s OFFSET %s',
        (identifier, limit, offset),
    ).fetchall()


def retry(connection: Connection, identifier: str) -> int:
    """Try failed and cancelled objects again, and waiting ones now; the number of objects that wait then.

    Raises
    ------
    Conflict
        Every object was sent.
    """
    row = connection.execute("SELECT state FROM transfer WHERE id = %s FOR UPDATE", (identifier,)).fetchone()
    waiting = connection.execute(
        "UPDATE transfer_object SET state = 'waiting', attempts = 0, next_attempt = now()"
        " WHERE transfer = %s AND state IN ('failed', 'cancelled', 'waiting')",
        (identifier,),
    ).rowcount
    if row is None or not waiting:
        raise Conflict("There is nothing to try again", value=identifier, why="every object was sent")
    QUEUE.again(connection, identifier)
    return waiting


def cancel(connection: Connection, identifier: str, by: str) -> int:
    """Send no further object; the number of those left. The object that is on its way just now may still arrive.

    Raises
    ------
    Conflict
        It has ended already.
    """
    QUEUE.cancel(connection, identifier, by)
    return connection.execute(
        "UPDATE transfer_object SET state = 'cancelled' WHERE transfer = %s AND state = 'waiting'", (identifier,)
    ).rowcount


def waiting(connection: Connection, work: Claim) -> list[Row]:
    """Objects of claimed transfers that are due, with where they lie; those with the fewest attempts first.

    Objects that are not in the archive any more fail here.
    """
    identifiers = [row["id"] for row in work.rows]
    connection.execute(
        "UPDATE transfer_object o SET state = 'failed', sentence = 'it was deleted here before it was sent', at = now()"
        " WHERE o.transfer = ANY(%s) AND o.state = 'waiting'"
        " AND NOT EXISTS (SELECT 1 FROM instance i WHERE i.sop_instance_uid = o.sop_instance_uid)",
        (identifiers,),
    )
    return connection.execute(
        "SELECT o.transfer::text AS transfer, o.sop_instance_uid, o.attempts, i.sop_class_uid, i.transfer_syntax_uid,"
        " i.blob_key, i.size, i.dataset_offset FROM transfer_object o"
        " JOIN instance i ON i.sop_instance_uid = o.sop_instance_uid JOIN transfer t ON t.id = o.transfer"
        " WHERE o.transfer = ANY(%s) AND o.state = 'waiting' AND o.next_attempt <= now()"
        " ORDER BY o.attempts, t.requested_at, i.series, i.instance_number NULLS LAST, o.sop_instance_uid",
        (identifiers,),
    ).fetchall()


def record(
    connection: Connection,
    work: Claim,
    item: Row,
    status: int | None,
    *,
    sentence: str | None = None,
    comment: str = "",
    refused: bool = False,
    patience: Patience,
) -> bool:
    """Note what became of one attempt to send an object. False where the transfer is not in the worker's hand any more.

    Parameters
    ----------
    item : dict
        From `waiting`.
    status : int or None
        What the peer answered; None where it answered nothing.
    sentence : str, optional
        In place of the meaning of the status.
    comment : str
        The peer's Error Comment.
    refused : bool
        Without a status: it makes no sense to try again.
    patience : Patience
        After so many attempts the object is given up.
    """
    mine = leases.held(connection, work, item["transfer"])
    judgement = None if status is None else judge(status, comment)
    verdict = judgement.verdict if judgement else (Verdict.REFUSED if refused else Verdict.RETRY)
    if not mine and verdict not in (Verdict.SENT, Verdict.WARNING):
        return False
    made = item["attempts"] + 1
    state = {Verdict.SENT: "sent", Verdict.WARNING: "warning", Verdict.REFUSED: "failed"}.get(verdict, "waiting")
    words = sentence or (judgement.sentence if judgement else "the peer did not answer")
    if state == "waiting" and made >= patience.attempts:
        state, words = "failed", f"{words}; given up after {made} attempts"
    connection.execute(
        "UPDATE transfer_object SET state = %(state)s, status = %(status)s, sentence = %(words)s, attempts = %(made)s,"
        " next_attempt = now() + make_interval(secs => %(wait)s), at = now()"
        " WHERE transfer = %(transfer)s AND sop_instance_uid = %(uid)s AND state IN ('waiting', 'cancelled')",
        {
            "state": state, "status": status, "words": words, "made": made, "transfer": item["transfer"],
            "wait": leases.back_off(made, patience.first_wait), "uid": item["sop_instance_uid"],
        },
    )  # fmt: skip
    if mine and verdict in (Verdict.SENT, Verdict.WARNING):
        connection.execute(
            "UPDATE transfer SET attempts = 0, reason = NULL WHERE id = %s AND attempts > 0", (item["transfer"],)
        )
    return mine


def settle(connection: Connection, work: Claim, failure: Failure | None, patience: Patience) -> list[str]:
    """Give claimed transfers back: ended where no object waits, else due again later.

    Parameters
    ----------
    failure : Failure, optional
        Why the node could not be worked with.
    patience : Patience
        After so many failures in a row a transfer is given up.

    Returns
    -------
    list of str
        Those that have ended.
    """
    ended: list[str] = []
    for each in work.rows:
        if not leases.held(connection, work, each["id"]):
            continue
        row = get(connection, each["id"], None)
        made = row["attempts"] + 1 if failure else 0
        if not row["waiting"]:
            reason = f"{row['failed']} objects were not taken" if row["failed"] else None
            QUEUE.end(connection, each["id"], "failed" if reason else "done", reason)
            ended.append(each["id"])
        elif failure and (reason := given_up(failure, made, patience)):
            connection.execute(
                "UPDATE transfer_object SET state = 'failed', at = now(), sentence = %s"
                " WHERE transfer = %s AND state = 'waiting'",
                (reason, each["id"]),
            )
            QUEUE.end(connection, each["id"], "failed", reason)
            ended.append(each["id"])
        else:
            soonest = connection.execute(
                "SELECT min(next_attempt) AS at FROM transfer_object WHERE transfer = %s AND state = 'waiting'",
                (each["id"],),
            ).fetchone()
            QUEUE.later(connection, each["id"], failure, made, patience, not_before=soonest["at"] if soonest else None)
    return ended
