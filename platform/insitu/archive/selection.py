"""The objects of a retrieval: those below a patient, studies, series or instances that the caller may see.

A selection of many is held as numbers only; rows are read in batches. Not here: sending them, and searches (insitu.archive.search).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

from insitu.database import Connection, Row

_COLUMNS = """i.id, i.sop_instance_uid, i.sop_class_uid, i.transfer_syntax_uid, i.blob_key, i.size, i.dataset_offset,
    s.series_instance_uid, st.study_instance_uid"""
_TABLES = "instance i JOIN series s ON s.id = i.series JOIN study st ON st.id = s.study"
_VISIBLE = (
    "(%(all)s OR EXISTS (SELECT 1 FROM series_project sp WHERE sp.series = s.id AND sp.project = ANY(%(projects)s)))"
)


@dataclass(frozen=True)
class Selection:
    """What is asked for; an empty tuple does not restrict."""

    patient: str | None = None
    studies: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()

    def where(self, projects: frozenset[str] | None) -> tuple[str, dict[str, Any]]:
        """The SQL condition with its parameters."""
        parameters: dict[str, Any] = {"all": projects is None, "projects": sorted(projects or ())}
        conditions = [_VISIBLE]
        if self.patient is not None:
            conditions.append("st.patient_id = %(patient)s")
            parameters["patient"] = self.patient
        for column, name, uids in (
            ("st.study_instance_uid", "studies", self.studies),
            ("s.series_instance_uid", "series", self.series),
            ("i.sop_instance_uid", "instances", self.instances),
        ):
            if uids:
                conditions.append(f"{column} = ANY(%({name})s)")
                parameters[name] = list(uids)
        return " AND ".join(conditions), parameters


@dataclass(frozen=True)
class Kind:
    """SOP class and transfer syntax, and how many of the selected objects have them."""

    sop_class_uid: str
    transfer_syntax_uid: str
    count: int


def kinds(connection: Connection, selection: Selection, projects: frozenset[str] | None) -> list[Kind]:
    """The kinds of the selected objects, the most frequent first."""
    condition, parameters = selection.where(projects)
    rows = connection.execute(
        f"SELECT i.sop_class_uid, i.transfer_syntax_uid, count(*) AS count FROM {_TABLES} WHERE {condition}"
        " GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
        parameters,
    ).fetchall()
    return [Kind(**row) for row in rows]


def per_study(connection: Connection, selection: Selection, projects: frozenset[str] | None) -> dict[str, int]:
    """Number of the selected objects by Study Instance UID."""
    condition, parameters = selection.where(projects)
    rows = connection.execute(
        f"SELECT st.study_instance_uid, count(*) AS count FROM {_TABLES} WHERE {condition} GROUP BY 1 ORDER BY 1",
        parameters,
    ).fetchall()
    return {row["study_instance_uid"]: row["count"] for row in rows}


def numbers(connection: Connection, selection: Selection, projects: frozenset[str] | None) -> array[int]:
    """The row numbers of the selected objects, in the order of study, series and instance number."""
    condition, parameters = selection.where(projects)
    found = array("q")
    with connection.cursor(name="selected") as cursor:
        cursor.execute(
            f"SELECT i.id FROM {_TABLES} WHERE {condition} ORDER BY st.id, s.id, i.instance_number NULLS LAST, i.id",
            parameters,
        )
        while rows := cursor.fetchmany(5000):
            found.extend(row["id"] for row in rows)
    return found


def rows_of(connection: Connection, numbers: list[int], projects: frozenset[str] | None) -> dict[int, Row]:
    """Rows by their number, as far as they are still there and visible."""
    condition, parameters = Selection().where(projects)
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM {_TABLES} WHERE i.id = ANY(%(numbers)s) AND {condition}",
        parameters | {"numbers": numbers},
    ).fetchall()
    return {row["id"]: row for row in rows}
