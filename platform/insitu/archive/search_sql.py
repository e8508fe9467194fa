"""A search as SQL over study, series, instance and their DICOM JSON; only what the caller may see takes part.

`statement` is pure: a Search and the visible projects give the text and its parameters; `run` carries it out.
Not here: reading a request and writing an answer (QIDO-RS, C-FIND).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from insitu.database import Connection, Row
from insitu.errors import Invalid

from .levels import SERIES_LEVEL, STUDY_LEVEL
from .search import (
    MODALITIES_IN_STUDY,
    NUMERIC,
    RANGED,
    Condition,
    Level,
    Search,
    like_pattern,
    literal_prefix,
    pattern,
    tag_of,
    value_range,
    wild,
)

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
PATIENT_ID, PATIENT_NAME, STUDY_DATE = tag_of("PatientID"), tag_of("PatientName"), tag_of("StudyDate")
_NAMES = ("patient_name", "patient_ideographic", "patient_phonetic")
_STUDY = frozenset(f"{tag:08X}" for tag in STUDY_LEVEL) | {MODALITIES_IN_STUDY}
_SERIES = frozenset(f"{tag:08X}" for tag in SERIES_LEVEL)


def level_of(tag: str) -> Level:
    """The level that holds an attribute: study (which has those of the patient too), series, and instance for everything else."""
    if tag in _STUDY:
        return Level.STUDY
    return Level.SERIES if tag in _SERIES else Level.INSTANCE


@dataclass
class Statement:
    """SQL texts with their common parameters: `page` answers the rows, `count` one row with `total`.

    `total` is exact up to the parameter `bound` (None: exact always) and one more than it where there are more.
    """

    page: str
    count: str
    parameters: dict[str, Any]


class _Builder:
    def __init__(self, search: Search, projects: frozenset[str] | None) -> None:
        self.search = search
        self.parameters: dict[str, Any] = {"limit": search.limit, "offset": search.offset, "bound": None}
        self.visible = "true"
        self.steer: list[str] = []  # conditions on st that only make the search quicker
        if projects is not None:
            self.parameters["projects"] = sorted(projects)
            self.visible = (
                "EXISTS (SELECT 1 FROM series_project sp WHERE sp.series = s.id AND sp.project = ANY(%(projects)s))"
            )
        self.by_date = any(c.path == (STUDY_DATE,) for c in search.conditions)
        # The studies of one project come out of an index in the order of the answer; those of several are merged from theirs,
        # or looked up where a key finds few.
        self.studies, self.study_date, self.study = "FROM study st", "st.study_date", "st.id"
        if projects and search.level == Level.STUDY and (len(projects) == 1 or not self.finds_few()):
            self.study = "mine.study"
            if self.by_date:
                self.study_date = "mine.study_date"
            self.studies = f"FROM {self.merged(sorted(projects))} JOIN study st ON st.id = mine.study"
        elif projects is not None:
            self.steer.append(
                "st.id IN (SELECT mine.study FROM study_project mine WHERE mine.project = ANY(%(projects)s))"
            )

    def finds_few(self) -> bool:
        """Whether a key is likely to leave few studies, out of an index of its own."""
        return any(
            level_of(c.path[0]) == Level.STUDY and c.path not in ((STUDY_DATE,), (MODALITIES_IN_STUDY,))
            for c in self.search.conditions
        )

    def merged(self, projects: list[str]) -> str:
        """The table `mine`: studies of these projects, each once, in the order of the answer without reading all of them."""
        if len(projects) == 1:
            self.steer.append(f"mine.project = {self.bind(projects[0])}")
            return "study_project mine"
        columns = ("study_date", "study") if self.by_date else ("study",)  # no more than an index holds
        order = ", ".join(f"{column} DESC" for column in columns)
        bounds = [
            f"study_date {sign} {self.bind(bound)}"
            for c in self.search.conditions
            if c.path == (STUDY_DATE,)
            for sign, bound in zip((">=", "<"), value_range("DA", c.value), strict=True)
            if bound
        ]
        each = " UNION ALL ".join(
            f"(SELECT {', '.join(columns)} FROM study_project"
            f" {_where([f'project = {self.bind(project)}', *bounds])} ORDER BY {order})"
            for project in projects
        )
        return f"(SELECT DISTINCT ON ({', '.join(columns)}) * FROM ({each}) a ORDER BY {order}) mine"

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
                f" AND x.modality = ANY({self.bind(condition.alternatives())})"
                # asked of each study in turn, in place of a plan that begins with all visible series
                f"{'' if self.visible == 'true' else ' OFFSET 0'})"
            )
        if len(condition.path) == 1 and tag in _COLUMNS:
            column, number = _COLUMNS[tag]
            if number:
                return f"{column} = {self.bind(float(condition.value))}"
            if condition.vr == "UI":
                return f"{column} = ANY({self.bind(condition.alternatives())})"
            if not wild(condition.value):
                return f"{column} = {self.bind(condition.value)}"
            matches = f"{column} ~ {self.bind(pattern(condition.value))}"
            prefix = literal_prefix(condition.value)
            return f"{matches} AND {self.begins(column, prefix)}" if prefix and tag == PATIENT_ID else matches
        document = {Level.STUDY: "st.attributes", Level.SERIES: "s.attributes", Level.INSTANCE: "m.body"}[level_of(tag)]
        if condition.path == (STUDY_DATE,):
            bounds = zip((">=", "<"), value_range("DA", condition.value), strict=True)
            return " AND ".join(f"{self.study_date} {sign} {self.bind(bound)}" for sign, bound in bounds if bound)
        if condition.vr not in NUMERIC | RANGED | {"PN", "UI", "SQ"} and not wild(
            condition.value
        ):  # equality, for which there is an index
            return f"{document} @> {self.bind(json.dumps(_containing(condition)))}::jsonb"
        date = self.search.date_of(condition)
        if date is not None:
            return self.time_of_days(document, date, condition)
        path, variables = json_path(condition)
        exists = (
            f"jsonb_path_exists({document}, {self.bind(path)}::jsonpath, {self.bind(json.dumps(variables))}::jsonb)"
        )
        if condition.path != (PATIENT_NAME,):
            return exists
        prefix = literal_prefix(condition.value, person_name=True)
        if prefix:
            narrowed = " OR ".join(self.begins(f"st.{column}", prefix, lower=True) for column in _NAMES)
        elif re.search(r"[^*?^ ]{3}", condition.value):  # the index holds every three characters in a row
            like = self.bind(like_pattern(condition.value))
            narrowed = " OR ".join(f"st.{column} LIKE lower({like})" for column in _NAMES)
        else:
            return exists
        # the expression only where the name may fit: the planner takes it for as cheap as a comparison, and would ask it first
        return f"({narrowed}) AND CASE WHEN {narrowed} THEN {exists} ELSE false END"

    def time_of_days(self, document: str, date: Condition, time: Condition) -> str:
        """The times of a range of date-times: they bound its first and its last day, the days between have any."""
        bounds = zip(value_range("DA", date.value), value_range("TM", time.value), (">", "<"), (">=", "<"), strict=True)
        conditions = []
        for day, hour, beyond, within in bounds:
            if day is None or hour is None:  # open to this side
                continue
            tests = ((date, beyond, day.rstrip("~")), (time, within, hour))
            texts = []
            for each, sign, bound in tests:
                path = self.bind(f'$."{each.path[0]}".Value[*] ? (@ {sign} $bound)')
                variables = self.bind(json.dumps({"bound": bound}))
                texts.append(f"jsonb_path_exists({document}, {path}::jsonpath, {variables}::jsonb)")
            conditions.append(f"({' OR '.join(texts)})")
        return " AND ".join(conditions) or "true"

    def begins(self, column: str, prefix: str, *, lower: bool = False) -> str:
        """A condition that an ordinary index serves. The bound holds the greatest character there is."""
        low, high = self.bind(prefix), self.bind(prefix + "\U0010ffff")
        if lower:
            low, high = f"lower({low})", f"lower({high})"
        return f"({column} >= {low} AND {column} < {high})"


def _containing(condition: Condition) -> dict[str, Any]:
    document: dict[str, Any] = {condition.path[-1]: {"Value": [condition.value]}}
    for tag in reversed(condition.path[:-1]):
        document = {tag: {"Value": [document]}}
    return document


def json_path(condition: Condition, root: str = "$", prefix: str = "") -> tuple[str, dict[str, Any]]:
    """The condition as an SQL/JSON path over DICOM JSON, with its variables, whose names begin with `prefix`."""
    steps = root + "".join(f'."{tag}".Value[*]' for tag in condition.path)
    value = condition.value
    if condition.inner:
        inner = [json_path(each, "@", f"{prefix}i{number}") for number, each in enumerate(condition.inner)]
        tests = " && ".join(f"exists({path})" for path, _ in inner)
        return f"{steps} ? ({tests})", {name: bound for _, variables in inner for name, bound in variables.items()}
    if condition.vr == "PN":  # without regard to case, in any of its three representations
        return f'{steps}.* ? (@ like_regex {json.dumps(pattern(value, person_name=True))} flag "i")', {}
    if condition.vr == "UI":
        return f"{steps} ? (@ == ${prefix}a[*])", {f"{prefix}a": condition.alternatives()}
    if condition.vr in NUMERIC:
        return (
            f"{steps} ? (@ == ${prefix}n || @ == ${prefix}a)",
            {f"{prefix}n": float(value), f"{prefix}a": value},
        )
    if condition.vr in RANGED:
        low, high = value_range(condition.vr, value)
        bounds = ((f"@ >= ${prefix}low", low), (f"@ < ${prefix}high", high))
        return (
            f"{steps} ? ({' && '.join(text for text, bound in bounds if bound)})",
            {f"{prefix}low": low, f"{prefix}high": high},
        )
    if wild(value):
        return f"{steps} ? (@ like_regex {json.dumps(pattern(value))})", {}
    return f"{steps} ? (@ == ${prefix}a)", {f"{prefix}a": value}


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
        Rows come in a stable order: patients by their ID; studies by date where StudyDate is a key, else the one that came last
        first; within a study by series and instance number.
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


def place(search: Search, row: Mapping[str, Any]) -> tuple[int | str | None, ...]:
    """Where a row stands in the order of a search's results; as `Search.after` it begins the next page.

    A page that begins behind a place misses nothing and repeats nothing of what was there when the search began, whatever is
    stored or deleted meanwhile.
    """
    if search.level == Level.PATIENT:
        return (row["patient_id"],)
    if search.level == Level.STUDY:
        by_date = any(c.path == (STUDY_DATE,) for c in search.conditions)
        return (row["study_date"], row["id"]) if by_date else (row["id"],)
    if search.level == Level.SERIES:
        return row["study_id"], row["id"]
    return row["study_id"], row["series"], row["instance_number"], row["id"]


def _behind(builder: _Builder) -> list[str]:
    """The condition that a row stands behind `Search.after`.

    Raises
    ------
    Invalid
        `after` is not a place of this kind of search.
    """
    after = builder.search.after
    if not after:
        return []
    kinds: tuple[type, ...]
    if builder.search.level == Level.PATIENT:
        kinds, text = (str,), "st.patient_id > {0}"
    elif builder.search.level == Level.STUDY and builder.by_date:
        kinds, text = (str, int), f"({builder.study_date}, {builder.study}) < ({{0}}, {{1}})"
    elif builder.search.level == Level.STUDY:
        kinds, text = (int,), f"{builder.study} < {{0}}"
    elif builder.search.level == Level.SERIES:
        kinds, text = (int, int), "(st.id < {0} OR (st.id = {0} AND s.id > {1}))"
    else:
        kinds = (int, int, int, int)
        number = f"(coalesce(i.instance_number, {_LAST}), i.id) > ({{2}}, {{3}})"
        text = f"(st.id < {{0}} OR (st.id = {{0}} AND (s.id > {{1}} OR (s.id = {{1}} AND {number}))))"
        after = tuple(1 << 31 if value is None else value for value in after)
    if len(after) != len(kinds) or any(type(value) is not kind for value, kind in zip(after, kinds, strict=True)):
        raise Invalid("This is not a place in the results of this search", remedy="Follow the Link of an answer")
    if any(isinstance(value, int) and not abs(value) < 1 << 62 for value in after):
        raise Invalid("This is not a place in the results of this search", remedy="Follow the Link of an answer")
    return [text.format(*map(builder.bind, after))]


_INSTANCE_TABLES = "instance i LEFT JOIN instance_metadata m ON m.instance = i.id"


_LAST = "2147483648::bigint"  # stands for an instance without a number, behind all that have one
_LIMITS = "LIMIT %(limit)s OFFSET %(offset)s"


def _instance_exists(conditions: list[str]) -> list[str]:
    if not conditions:
        return []
    return [f"EXISTS (SELECT 1 FROM {_INSTANCE_TABLES} WHERE i.series = s.id AND {' AND '.join(conditions)})"]


def _where(conditions: list[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _counted(what: str, source: str, conditions: list[str]) -> str:
    return f"SELECT count(*) AS total FROM (SELECT {what} {source} {_where(conditions)} LIMIT %(bound)s + 1) x"


def _study_conditions(builder: _Builder, study: list[str], series: list[str], instance: list[str]) -> list[str]:
    below = [condition for condition in (*series, *_instance_exists(instance)) if condition != "true"]
    if below:  # else: every study has a series
        # Only what is visible: asked of each study that is found, in place of a plan that begins with all visible series.
        fence = " OFFSET 0" if below == [builder.visible] else ""
        study = [*study, f"EXISTS (SELECT 1 FROM series s WHERE s.study = st.id AND {' AND '.join(below)}{fence})"]
    return [*builder.steer, *study]


def _patients(builder: _Builder, study: list[str], series: list[str], instance: list[str]) -> tuple[str, str]:
    conditions = _study_conditions(builder, study, series, instance)
    page = f"""
        SELECT p.*, c.* FROM (
            SELECT DISTINCT ON (st.patient_id) st.patient_id, st.attributes AS study_attributes FROM study st
            {_where([*conditions, *_behind(builder)])} ORDER BY st.patient_id, st.id DESC {_LIMITS}
        ) p CROSS JOIN LATERAL (
            SELECT count(DISTINCT s.study) AS study_count, count(*) AS series_count,
                   coalesce(sum((SELECT count(*) FROM instance i WHERE i.series = s.id)), 0)::bigint AS instance_count
            FROM study x JOIN series s ON s.study = x.id WHERE x.patient_id = p.patient_id AND {builder.visible}
        ) c ORDER BY p.patient_id"""
    return page, _counted("DISTINCT st.patient_id", "FROM study st", conditions)


def _studies(builder: _Builder, study: list[str], series: list[str], instance: list[str]) -> tuple[str, str]:
    conditions = _study_conditions(builder, study, series, instance)
    # By date where dates are asked for: then the rows of any range come out of its index in their order.
    inside, outside = f"{builder.study} DESC", "p.id DESC"
    if builder.by_date:
        inside, outside = f"{builder.study_date} DESC, {inside}", f"p.study_date DESC, {outside}"
    page = f"""
        SELECT p.*, c.* FROM (
            SELECT st.id, {builder.study_date}, st.study_instance_uid, st.attributes AS study_attributes {builder.studies}
            {_where([*conditions, *_behind(builder)])} ORDER BY {inside} {_LIMITS}
        ) p CROSS JOIN LATERAL (
            SELECT count(*) AS series_count, array_remove(array_agg(DISTINCT s.modality ORDER BY s.modality), '') AS modalities,
                   coalesce(sum((SELECT count(*) FROM instance i WHERE i.series = s.id)), 0)::bigint AS instance_count
            FROM series s WHERE s.study = p.id AND {builder.visible}
        ) c ORDER BY {outside}"""
    return page, _counted("1", builder.studies, conditions)


def _series(builder: _Builder, study: list[str], series: list[str], instance: list[str]) -> tuple[str, str]:
    conditions = [*builder.steer, *study, *series, *_instance_exists(instance)]
    source = "FROM series s JOIN study st ON st.id = s.study"
    page = f"""
        SELECT p.*, (SELECT count(*) FROM instance i WHERE i.series = p.id) AS instance_count FROM (
            SELECT s.id, st.id AS study_id, st.study_instance_uid, st.attributes AS study_attributes,
                   s.series_instance_uid, s.modality, s.attributes AS series_attributes {source}
            {_where([*conditions, *_behind(builder)])} ORDER BY st.id DESC, s.id {_LIMITS}
        ) p ORDER BY p.study_id DESC, p.id"""
    return page, _counted("1", source, conditions)


def _instances(builder: _Builder, study: list[str], series: list[str], instance: list[str]) -> tuple[str, str]:
    conditions = [*builder.steer, *study, *series, *instance]
    source = f"FROM {_INSTANCE_TABLES} JOIN series s ON s.id = i.series JOIN study st ON st.id = s.study"
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
               st.id AS study_id, st.study_instance_uid, st.attributes AS study_attributes
        {source} {_where([*conditions, *_behind(builder)])}
        ORDER BY st.id DESC, s.id, i.instance_number NULLS LAST, i.id {_LIMITS}"""
    return page, _counted("1", source, conditions)


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
    # planned for these very values: a plan for any values would not know how many studies a range of dates has
    return connection.execute(sql.page, sql.parameters, prepare=False).fetchall()


def count(
    connection: Connection,
    search: Search,
    projects: frozenset[str] | None,
    *,
    study: str | None = None,
    series: str | None = None,
    bound: int | None = None,
) -> int:
    """How many results a search has on all pages: exact up to `bound`, and `bound + 1` where there are more.

    Parameters
    ----------
    bound : int, optional
        None: exact whatever it costs.
    """
    sql = statement(replace(search, after=()), projects, study=study, series=series)
    row = connection.execute(sql.count, {**sql.parameters, "bound": bound}, prepare=False).fetchone()
    return int(row["total"]) if row else 0
