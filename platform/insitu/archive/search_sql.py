"""A search as SQL over study, series, instance and their DICOM JSON; only what the caller may see takes part.

`statement` is pure: a Search and the visible projects give the text and its parameters; `run` carries it out.
Not here: reading a request and writing an answer (QIDO-RS, C-FIND).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from insitu.database import Connection, Row

from .levels import SERIES_LEVEL, STUDY_LEVEL
from .search import MODALITIES_IN_STUDY, NUMERIC, RANGED, Condition, Level, Search, pattern, tag_of, value_range, wild

# Attributes with a column of their own: column, and whether it is a number.
_COLUMNS = {
    tag_of("StudyInstanceUID"): ("st.study_instance_uid", False),
    tag_of("PatientID"): ("st.patient_id", False),
    tag_of("SeriesInstanceUID"): ("s.series_instance_uid", False),
    tag_of("Modality"): ("s.modality", False),
    tag_of("SOPInstanceUID"): ("i.sop_instance_uid", False),
    tag_of("SOPClassUID"): ("i.sop_class_uid", False),
    tag_of("InstanceNumber"): ("i.instance_number", True),
    tag_of("Rows"): ("i.image_rows", True),
    tag_of("Columns"): ("i.image_columns", True),
    tag_of("NumberOfFrames"): ("i.number_of_frames", True),
}
_STUDY = frozenset(f"{tag:08X}" for tag in STUDY_LEVEL) | {MODALITIES_IN_STUDY}
_SERIES = frozenset(f"{tag:08X}" for tag in SERIES_LEVEL)


def level_of(tag: str) -> Level:
    """The level that holds an attribute: study (which has those of the patient too), series, and instance for everything else."""
    if tag in _STUDY:
        return Level.STUDY
    return Level.SERIES if tag in _SERIES else Level.INSTANCE


@dataclass
class Statement:
    """SQL texts with their common parameters: `page` answers the rows, `count` one row with `total`."""

    page: str
    count: str
    parameters: dict[str, Any]


class _Builder:
    def __init__(self, search: Search, projects: frozenset[str] | None) -> None:
        self.search = search
        self.parameters: dict[str, Any] = {"limit": search.limit, "offset": search.offset}
        self.visible = "true"
        if projects is not None:
            self.parameters["projects"] = sorted(projects)
            self.visible = (
                "EXISTS (SELECT 1 FROM series_project sp WHERE sp.series = s.id AND sp.project = ANY(%(projects)s))"
            )

    def bind(self, value: Any) -> str:
        name = f"v{len(self.parameters)}"
        self.parameters[name] = value
        return f"%({name})s"

    def conditions(self, level: Level) -> list[str]:
        return [self.condition(c) for c in self.search.conditions if level_of(c.path[0]) == level]

    def condition(self, condition: Condition) -> str:
        tag = condition.path[0]
        if tag == MODALITIES_IN_STUDY:
            inner = self.visible.replace("s.id", "x.id")
            return (
                f"EXISTS (SELECT 1 FROM series x WHERE x.study = st.id AND {inner}"
                f" AND x.modality = ANY({self.bind(condition.alternatives())}))"
            )
        if len(condition.path) == 1 and tag in _COLUMNS:
            column, number = _COLUMNS[tag]
            if number:
                return f"{column} = {self.bind(float(condition.value))}"
            if condition.vr == "UI":
                return f"{column} = ANY({self.bind(condition.alternatives())})"
            if wild(condition.value):
                return f"{column} ~ {self.bind(pattern(condition.value))}"
            return f"{column} = {self.bind(condition.value)}"
        document = {Level.STUDY: "st.attributes", Level.SERIES: "s.attributes", Level.INSTANCE: "m.body"}[level_of(tag)]
        path, variables = json_path(condition)
        return f"jsonb_path_exists({document}, {self.bind(path)}::jsonpath, {self.bind(json.dumps(variables))}::jsonb)"


def json_path(condition: Condition) -> tuple[str, dict[str, Any]]:
    """The condition as an SQL/JSON path over DICOM JSON, with its variables."""
    steps = "$" + "".join(f'."{tag}".Value[*]' for tag in condition.path)
    value = condition.value
    if condition.vr == "PN":  # without regard to case, in any of its three representations
        return f'{steps}.* ? (@ like_regex {json.dumps(pattern(value, person_name=True))} flag "i")', {}
    if condition.vr == "UI":
        return f"{steps} ? (@ == $a[*])", {"a": condition.alternatives()}
    if condition.vr in NUMERIC:
        return f"{steps} ? (@ == $n || @ == $a)", {"n": float(value), "a": value}
    if condition.vr in RANGED:
        low, high = value_range(condition.vr, value)
        tests = [text for text, bound in (("@ >= $low", low), ("@ < $high", high)) if bound]
        return f"{steps} ? ({' && '.join(tests)})", {"low": low, "high": high}
    if wild(value):
        return f"{steps} ? (@ like_regex {json.dumps(pattern(value))})", {}
    return f"{steps} ? (@ == $a)", {"a": value}


def statement(
    search: Search, projects: frozenset[str] | None, *, study: str | None = None, series: str | None = None
) -> Statement:
    """The SQL of a search.

    Parameters
    ----------
    search : Search
    projects : frozenset of str, or None
        Projects the caller may see; None sees everything.
    study, series : str, optional
        UIDs from the path of the resource.

    Returns
    -------
    Statement
        Rows come in a stable order: patients by their ID; the study that came last first, within it by series and instance number.
    """
    builder = _Builder(search, projects)
    at_study, at_series, at_instance = (
        builder.conditions(level) for level in (Level.STUDY, Level.SERIES, Level.INSTANCE)
    )
    if study is not None:
        at_study.append(f"st.study_instance_uid = {builder.bind(study)}")
    if series is not None:
        at_series.append(f"s.series_instance_uid = {builder.bind(series)}")
    build = {Level.PATIENT: _patients, Level.STUDY: _studies, Level.SERIES: _series, Level.INSTANCE: _instances}[
        search.level
    ]
    page, count = build(builder, at_study, [builder.visible, *at_series], at_instance)
    return Statement(page, count, builder.parameters)


_INSTANCE_TABLES = "instance i LEFT JOIN instance_metadata m ON m.instance = i.id"


def _instance_exists(conditions: list[str]) -> list[str]:
    if not conditions:
        return []
    return [f"EXISTS (SELECT 1 FROM {_INSTANCE_TABLES} WHERE i.series = s.id AND {' AND '.join(conditions)})"]


def _patients(builder: _Builder, study: list[str], series: list[str], instance: list[str]) -> tuple[str, str]:
    below = " AND ".join(["s.study = st.id", *series, *_instance_exists(instance)])
    source = f"FROM study st WHERE {' AND '.join([f'EXISTS (SELECT 1 FROM series s WHERE {below})', *study])}"
    page = f"""
        SELECT p.*, c.* FROM (
            SELECT DISTINCT ON (st.patient_id) st.patient_id, st.attributes AS study_attributes {source}
            ORDER BY st.patient_id, st.id DESC LIMIT %(limit)s OFFSET %(offset)s
        ) p CROSS JOIN LATERAL (
            SELECT count(DISTINCT s.study) AS study_count, count(*) AS series_count,
                   coalesce(sum((SELECT count(*) FROM instance i WHERE i.series = s.id)), 0)::bigint AS instance_count
            FROM study x JOIN series s ON s.study = x.id WHERE x.patient_id = p.patient_id AND {builder.visible}
        ) c ORDER BY p.patient_id"""
    return page, f"SELECT count(DISTINCT st.patient_id) AS total {source}"


def _studies(builder: _Builder, study: list[str], series: list[str], instance: list[str]) -> tuple[str, str]:
    below = " AND ".join(["s.study = st.id", *series, *_instance_exists(instance)])
    source = f"FROM study st WHERE {' AND '.join([f'EXISTS (SELECT 1 FROM series s WHERE {below})', *study])}"
    page = f"""
        SELECT p.*, c.* FROM (
            SELECT st.id, st.study_instance_uid, st.attributes AS study_attributes {source}
            ORDER BY st.id DESC LIMIT %(limit)s OFFSET %(offset)s
        ) p CROSS JOIN LATERAL (
            SELECT count(*) AS series_count, array_remove(array_agg(DISTINCT s.modality ORDER BY s.modality), '') AS modalities,
                   coalesce(sum((SELECT count(*) FROM instance i WHERE i.series = s.id)), 0)::bigint AS instance_count
            FROM series s WHERE s.study = p.id AND {builder.visible}
        ) c ORDER BY p.id DESC"""
    return page, f"SELECT count(*) AS total {source}"


def _series(builder: _Builder, study: list[str], series: list[str], instance: list[str]) -> tuple[str, str]:
    conditions = " AND ".join([*study, *series, *_instance_exists(instance)])
    source = f"FROM series s JOIN study st ON st.id = s.study WHERE {conditions}"
    page = f"""
        SELECT p.*, (SELECT count(*) FROM instance i WHERE i.series = p.id) AS instance_count FROM (
            SELECT s.id, st.id AS study_id, st.study_instance_uid, st.attributes AS study_attributes,
                   s.series_instance_uid, s.modality, s.attributes AS series_attributes {source}
            ORDER BY st.id DESC, s.id LIMIT %(limit)s OFFSET %(offset)s
        ) p ORDER BY p.study_id DESC, p.id"""
    return page, f"SELECT count(*) AS total {source}"


def _instances(builder: _Builder, study: list[str], series: list[str], instance: list[str]) -> tuple[str, str]:
    conditions = " AND ".join([*study, *series, *instance])
    joined = f"{_INSTANCE_TABLES} JOIN series s ON s.id = i.series JOIN study st ON st.id = s.study"
    body = "m.body"
    if not builder.search.everything:
        wanted = builder.bind(sorted(builder.search.fields | INSTANCE_FIELDS))
        # only what is asked for leaves the database; a body that is not there yet stays NULL
        body = (
            "CASE WHEN m.body IS NULL THEN NULL ELSE coalesce((SELECT jsonb_object_agg(e.key, e.value)"
            f" FROM jsonb_each(m.body) e WHERE e.key = ANY({wanted})), '{{}}'::jsonb) END"
        )
    page = f"""
        SELECT i.*, {body} AS body, s.series_instance_uid, s.modality, s.attributes AS series_attributes,
               st.study_instance_uid, st.attributes AS study_attributes
        FROM {joined} WHERE {conditions}
        ORDER BY st.id DESC, s.id, i.instance_number NULLS LAST, i.id LIMIT %(limit)s OFFSET %(offset)s"""
    return page, f"SELECT count(*) AS total FROM {joined} WHERE {conditions}"


# What an instance's answer has beside the columns, asked for or not (PS3.18 table 10.6.3-5).
INSTANCE_FIELDS = frozenset({tag_of("BitsAllocated"), tag_of("TimezoneOffsetFromUTC")})


def run(
    connection: Connection,
    search: Search,
    projects: frozenset[str] | None,
    *,
    study: str | None = None,
    series: str | None = None,
) -> list[Row]:
    """The rows of a search's page; see `statement`.

    Returns
    -------
    list of dict
        PATIENT: `patient_id`, `study_attributes` (DICOM JSON of the newest study that fits), `study_count`, `series_count`,
        `instance_count` of what is visible. STUDY: `study_instance_uid`, `study_attributes`, `modalities`, `series_count`,
        `instance_count`. SERIES: those of the study, `series_instance_uid`, `modality`, `series_attributes`, `instance_count`.
        INSTANCE: those of study and series, the columns of instance, and `body`: its DICOM JSON as far as it is asked for,
        None where the dispatcher has not made it yet (insitu.archive.metadata.instance_metadata does).
    """
    if not search.limit:
        return []
    sql = statement(search, projects, study=study, series=series)
    return connection.execute(sql.page, sql.parameters).fetchall()
