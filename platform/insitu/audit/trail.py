"""The audit trail: who did what to which resource, appended in the transaction of the deed itself, and read back.

Not here: the hash chain over it (seal). No patient's name goes in; a resource is named by its UID.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from psycopg.types.json import Jsonb

from insitu.database import Connection, Row

Outcome = Literal["success", "refused", "failure"]

_STUDY_OF = {
    "series": "SELECT t.study_instance_uid AS study FROM study t JOIN series s ON s.study = t.id WHERE s.series_instance_uid = %s",
    "instance": "SELECT t.study_instance_uid AS study FROM study t JOIN series s ON s.study = t.id"
    " JOIN instance i ON i.series = s.id WHERE i.sop_instance_uid = %s",
}
COLUMNS = "e.id, e.at, e.actor, e.action, e.kind, e.resource, e.project, e.outcome, e.detail"


def record(
    connection: Connection,
    actor: str,
    action: str,
    kind: str = "",
    resource: str = "",
    project: str | None = None,
    outcome: Outcome = "success",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Append one event. It exists if and only if the transaction of `connection` commits.

    Parameters
    ----------
    connection : Connection
        Inside the transaction of the deed.
    actor : str
        Name of the principal.
    action : str
        What was done, one word: login, view, export, run, rule-change, ...
    kind, resource : str
        Kind of the thing (study, series, run, account, ...) and its identifier; never a patient's name.
    project : str, optional
        The project it happened in.
    outcome : {"success", "refused", "failure"}
        How it ended.
    detail : mapping, optional
        What else a reader of the trail needs, as JSON. The study of a series or instance is added, so that the event is found by
        its patient also when that has been deleted.
    """
    said = dict(detail or {})
    if kind in _STUDY_OF and "study" not in said:
        said |= connection.execute(_STUDY_OF[kind], (resource,)).fetchone() or {}
    connection.execute(
        "INSERT INTO audit_event (actor, action, kind, resource, project, outcome, detail)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (actor, action, kind, resource, project, outcome, Jsonb(said)),
    )


def events(
    connection: Connection,
    *,
    actor: str | None = None,
    action: str | None = None,
    kind: str | None = None,
    resource: str | None = None,
    project: str | None = None,
    patient: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Row]:
    """Events that fit every given condition, the newest first.

    Parameters
    ----------
    patient : str, optional
        Patient ID: events about the studies, series and instances of this patient, also about studies that were deleted.
    since, until : datetime, optional
        From this time on, and before that one.
    before : int, optional
        Only events with a smaller id: the next page.
    limit : int
        At most so many.
    """
    conditions: list[str] = []
    values: list[Any] = []
    for condition, value in (
        ("e.actor = %s", actor),
        ("e.action = %s", action),
        ("e.kind = %s", kind),
        ("e.resource = %s", resource),
        ("e.project = %s", project),
        ("e.at >= %s", since),
        ("e.at < %s", until),
        ("e.id < %s", before),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if patient is not None:
        conditions.append(
            "ARRAY[e.resource, e.detail ->> 'study'] && ARRAY(SELECT study_instance_uid FROM study WHERE patient_id = %s"
            " UNION ALL SELECT study_instance_uid FROM deletion WHERE patient = sha256(convert_to(%s, 'UTF8')))"
        )
        values += [patient] * 2
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return connection.execute(
        f"SELECT {COLUMNS}, s.sequence FROM audit_event e LEFT JOIN audit_seal s ON s.event = e.id"
        f"{where} ORDER BY e.id DESC LIMIT %s",
        (*values, limit),
    ).fetchall()
