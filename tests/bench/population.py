"""An index of a hospital's size, made inside PostgreSQL: patients, studies, series, instances, projects, without any blob.

Rows are made by `generate_series`, and indexes and constraints after the rows, as a restore does it: 20 million instances take minutes.
What a study is follows from its number alone, so a larger population has the smaller one inside. Not here: what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from . import site

INSTANCES_OF_A_STUDY = 20  # on average: a million studies have 20 million instances
STUDIES_A_DAY = 274  # a million in ten years
FIRST_DAY = "2015-01-01"
LATEST = 2_000  # studies at the end with as many instances as today's scanners make; the list begins with them
TABLES = (
    "receipt",
    "study",
    "series",
    "series_project",
    "study_project",
    "instance",
    "series_source",
    "series_revision",
)
# Share of the studies, in thousandths, that each project holds; `whole` has them all.
PROJECTS = {"whole": 1000, "half": 500, **{f"tenth{n}": 100 for n in range(5)}, **{f"few{n}": 1 for n in range(5)}}

# A number in [0, %(of)s) that looks drawn by chance but follows from the row's own number.
_CHANCE = "((hashint8extended({0}, {1}) & 4611686018427387903) %% {2})"


def _document(*elements: tuple[str, str, str]) -> str:
    """SQL of a DICOM JSON document, from tags, VRs and SQL of the values. As text: jsonb_build_object takes fifteen times as long."""
    parts = []
    for tag, vr, value in elements:
        before, after = ('{"Alphabetic":"', '"}') if vr == "PN" else ("", "") if vr == "IS" else ('"', '"')
        parts.append(f"""'"{tag}":{{"vr":"{vr}","Value":[{before}' || {value} || '{after}]}}'""")
    joined = " || ',' || ".join(parts)
    return f"('{{' || {joined} || '}}')::jsonb"


_STUDY_UID = f"'1.2.840.113619.2.408.' || {_CHANCE.format('n', 1, 900000000)} || '.' || n"
_STUDIES = f"""
INSERT INTO study (id, study_instance_uid, patient_id, attributes, created_at) OVERRIDING SYSTEM VALUE
SELECT n, {_STUDY_UID}, patient, {
    _document(
        ("00080020", "DA", "to_char(at, 'YYYYMMDD')"),
        ("00080030", "TM", "to_char(at, 'HH24MISS')"),
        ("00080050", "SH", "'A' || lpad(n::text, 9, '0')"),
        ("00080090", "PN", f"'Referrer' || {_CHANCE.format('n', 2, 400)} || '^Eva^^Dr'"),
        ("00081030", "LO", f"'Protocol ' || {_CHANCE.format('n', 3, 300)}"),
        ("00100010", "PN", "name"),
        ("00100020", "LO", "patient"),
        ("00100030", "DA", "to_char(date '1930-01-01' + (p * 7919 %% 30000)::int, 'YYYYMMDD')"),
        ("00100040", "CS", "(ARRAY['F', 'M'])[1 + p %% 2]"),
        ("0020000D", "UI", _STUDY_UID),
        ("00200010", "SH", "'S' || n"),
    )
}, at
FROM (
    SELECT n, p, 'P' || lpad(p::text, 7, '0') AS patient,
        timestamptz '{FIRST_DAY} 06:00+00' + n * interval '1 day' / {STUDIES_A_DAY} AS at,
        (ARRAY['Smith', 'Jones', 'Garcia', 'Müller', 'Nguyen', 'Okafor', 'Rossi', 'Tanaka', 'Ivanova', 'Silva'])[1 + p %% 10]
            || (ARRAY['', 'son', 'mann', 'ova', 'ez', 'berg', 'ski', 'ini', 'feld', 'wood'])[1 + p / 10 %% 10]
            || chr((97 + p / 100 %% 26)::int) || chr((97 + p / 2600 %% 26)::int)
            || '^' || (ARRAY['Anna', 'Ben', 'Clara', 'David', 'Emma', 'Felix', 'Greta'])[1 + p * 31 %% 7] AS name
    FROM (
        -- patients come again: one in ten has more than seven studies, some have fifty
        SELECT n, floor(350000 * power({_CHANCE.format("n", 4, 1000000)} / 1e6::float8, 1.3::float8))::bigint AS p
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
    ) a
) b"""

_RECEIPTS = """
INSERT INTO receipt (id, arrived_at, channel, calling_ae, called_ae, peer)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(id), 12, '0'))::uuid, created_at, 'dimse', 'CT_' || id %% 40, 'INSITU', '10.0.0.1'
FROM study WHERE id BETWEEN %(first)s AND %(last)s"""

_SERIES = f"""
INSERT INTO series (series_instance_uid, study, modality, state, revision, last_received_at, created_at, attributes)
SELECT study_instance_uid || '.' || k, id, modality, 'complete', 1, created_at, created_at, {
    _document(
        ("00080021", "DA", "study_date"),
        ("00080031", "TM", "to_char(created_at, 'HH24MISS')"),
        ("00080060", "CS", "modality"),
        ("00080070", "LO", "'Vendor ' || id %% 5"),
        ("00080080", "LO", "'University Hospital'"),
        ("00081010", "SH", "modality || id %% 40"),
        ("0008103E", "LO", "'Series ' || (id + k) %% 500"),
        ("00081090", "LO", "'Model ' || id %% 11"),
        ("00180015", "CS", "(ARRAY['HEAD', 'CHEST', 'KNEE'])[1 + id %% 3]"),
        ("00181030", "LO", "'Protocol ' || (id + k) %% 500"),
        ("0020000E", "UI", "study_instance_uid || '.' || k"),
        ("00200011", "IS", "k"),
    )
}
FROM (
    SELECT *, CASE WHEN c < 450 THEN 'DX' WHEN c < 600 THEN 'US' WHEN c < 650 THEN 'MG' WHEN c < 850 THEN 'CT'
        WHEN c < 970 THEN 'MR' ELSE 'SR' END AS modality
    FROM (SELECT *, {
    _CHANCE.format("id", 5, 1000)
} AS c FROM study WHERE id BETWEEN %(first)s AND %(last)s ORDER BY id) a
) b CROSS JOIN LATERAL generate_series(1, CASE modality WHEN 'CT' THEN 3 WHEN 'MR' THEN 5 ELSE 1 END) k"""

# Half of the devices count their SOP Instance UIDs up, the others draw them by chance: those go anywhere in the index.
_INSTANCES = f"""
INSERT INTO instance (sop_instance_uid, series, sop_class_uid, transfer_syntax_uid, digest, blob_key, size, dataset_offset,
    receipt, received_at, instance_number, image_rows, image_columns)
SELECT CASE WHEN study %% 2 = 0 THEN series_instance_uid || '.' || k
        ELSE '1.' || rpad((hashint8extended(id, k) & 9223372036854775807)::text
            || (hashint8extended(id, k + 100000) & 9223372036854775807)::text || k, 40, '7') END,
    id, '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', sha256(int8send(id * 10000 + k)),
    'objects/' || receipt || '/' || substr(receipt::text, 1, 19) || lpad(to_hex(id * 10000 + k), 17, '0') || '.dcm',
    526100, 350, receipt, created_at, k, 512, 512
FROM (
    SELECT s.*, ('00000000-0000-7000-8000-' || lpad(to_hex(study), 12, '0'))::uuid AS receipt,
        CASE modality WHEN 'DX' THEN 2 WHEN 'US' THEN 12 WHEN 'MG' THEN 4 WHEN 'CT' THEN 6 + {_CHANCE.format("s.id", 6, 31)}
            WHEN 'MR' THEN 4 + {_CHANCE.format("s.id", 6, 9)} ELSE 1 END
        * CASE WHEN study > %(latest)s AND modality IN ('CT', 'MR') THEN 15 ELSE 1 END AS objects
    FROM series s WHERE study BETWEEN %(first)s AND %(last)s ORDER BY id
) a CROSS JOIN LATERAL generate_series(1, objects) k"""

_LINKS = f"""
INSERT INTO series_project (series, project, added_at, added_by)
SELECT s.id, p.name, s.created_at, 'CT_1' FROM series s JOIN share p ON {_CHANCE.format("s.study", "p.seed", 1000)} < p.thousandths
WHERE s.study BETWEEN %(first)s AND %(last)s"""

_STUDY_PROJECTS = """
INSERT INTO study_project (project, study, study_date)
SELECT DISTINCT sp.project, s.study, st.study_date FROM series s JOIN series_project sp ON sp.series = s.id
JOIN study st ON st.id = s.study WHERE s.study BETWEEN %(first)s AND %(last)s ORDER BY 1, 2"""

_SOURCES = """
INSERT INTO series_source (series, receipt)
SELECT id, ('00000000-0000-7000-8000-' || lpad(to_hex(study), 12, '0'))::uuid FROM series
WHERE study BETWEEN %(first)s AND %(last)s"""

_REVISIONS = """
INSERT INTO series_revision (series, revision, completed_at, instances, bytes, content_digest)
SELECT id, 1, created_at, 20, 10000000, sha256(int8send(id)) FROM series WHERE study BETWEEN %(first)s AND %(last)s"""

STEPS = {
    "studies": _STUDIES, "receipts": _RECEIPTS, "series": _SERIES, "links": _LINKS, "studies of projects": _STUDY_PROJECTS,
    "instances": _INSTANCES, "sources": _SOURCES, "revisions": _REVISIONS,
}  # fmt: skip


def _bare(connection: psycopg.Connection[tuple[str, ...]]) -> list[str]:
    """Take constraints and indexes from the tables; the statements that make them again."""
    again: list[str] = []
    keys: list[str] = []
    for table in TABLES:
        for name, kind, definition, owner in connection.execute(
            "SELECT conname, contype, pg_get_constraintdef(oid), conrelid::regclass::text FROM pg_constraint"
            " WHERE contype IN ('p', 'u', 'f') AND (conrelid = %s::regclass OR confrelid = %s::regclass)",
            (table, table),
        ).fetchall():
            statement = f"ALTER TABLE {owner} ADD CONSTRAINT {name} {definition}"
            if statement not in again + keys:
                (keys if kind == "f" else again).append(statement)
    for statement in keys + again:
        table, name = statement.split()[2], statement.split()[5]
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    for name, definition in connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY(%s)",
        (list(TABLES),),
    ).fetchall():
        again.append(definition)
        connection.execute(f"DROP INDEX {name}")
    return again + keys


def load(dsn: str, studies: int, *, first: int = 1, tell: bool = True) -> None:
    """Make the studies number `first` to `studies` with all that belongs to them, by the superuser; VACUUM ANALYZE at the end.

    Parameters
    ----------
    dsn : str
    studies : int
        How many there are afterwards.
    first : int
        1 in an empty index; one more than there are in one that this function has filled.
    tell : bool
        Print the seconds of each step.
    """
    values = {"first": first, "last": studies, "latest": studies - min(LATEST, studies // 50)}
    began = time.monotonic()

    def done(what: str) -> None:
        nonlocal began
        if tell:
            print(f"  {what:20} {time.monotonic() - began:6.1f} s", flush=True)
        began = time.monotonic()

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # no trigger: what they make is made below
        connection.execute("SET synchronous_commit = off")  # of the loading alone
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute("SET work_mem = '256MB'")
        connection.execute("SET max_parallel_maintenance_workers = 2")
        connection.execute(
            "INSERT INTO project (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", (list(PROJECTS),)
        )
        connection.execute("CREATE TEMP TABLE share (name text, thousandths int, seed int)")
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO share VALUES (%s, %s, %s)",
                [(name, share, 10 + n) for n, (name, share) in enumerate(PROJECTS.items())],
            )
        again = _bare(connection)
        for what, statement in STEPS.items():
            connection.execute(statement, values)
            done(what)
        for statement in again:
            connection.execute(statement)
        connection.execute("SELECT setval(pg_get_serial_sequence('study', 'id'), %s)", (studies,))
        done("indexes, constraints")
        connection.execute("VACUUM ANALYZE")
        done("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        done("CHECKPOINT")


@contextmanager
def index(parent: Path | None, studies: int) -> Iterator[tuple[Path, site.Postgres]]:
    """A running PostgreSQL with so many studies, and its folder: of `parent`, made there where it is not yet, or a passing one."""
    if parent is not None:
        home = parent / f"studies-{studies}"
        home.mkdir(parents=True, exist_ok=True, mode=0o755)
        with site.database(home) as postgres:
            _fill(postgres.dsn, studies)
            yield home, postgres
    else:
        with site.folder(None) as home, site.database(home) as postgres:
            _fill(postgres.dsn, studies)
            yield home, postgres


def _fill(dsn: str, studies: int) -> None:
    with psycopg.connect(dsn) as connection:
        (there,) = connection.execute("SELECT coalesce(max(id), 0) FROM study").fetchone() or (0,)
    if there < studies:
        began = time.monotonic()
        load(dsn, studies, first=there + 1)
        print(f"{studies} studies loaded in {time.monotonic() - began:.0f} s", flush=True)


def sizes(dsn: str) -> list[tuple[str, int, int, int]]:
    """Table, rows, bytes of the rows, bytes of the indexes."""
    with psycopg.connect(dsn) as connection:
        return [
            connection.execute(
                f"SELECT %s, (SELECT count(*) FROM {table}), pg_table_size(%s), pg_indexes_size(%s)",
                (table, table, table),
            ).fetchone()
            or (table, 0, 0, 0)
            for table in TABLES
        ]
