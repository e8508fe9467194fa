"""QIDO-RS with a million studies: what the searches of everyday cost over HTTP and in SQL, durable settings of PostgreSQL.

Run with `python -m tests.bench.bench_search [--studies N] [--rounds N] [--home DIR]`. Not here: images; no blob is read by these searches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg

from insitu.database import Database
from insitu.identity import tokens
from insitu.projects import projects
from insitu.projects.permissions import Role

from . import site

NAMES = ("Smith", "Jones", "Garcia", "Müller", "Nguyen", "Okafor", "Rossi", "Tanaka", "Ivanova", "Silva")
SERIES, INSTANCES = 2, 1  # per study, per series: the counts of an answer cost by them
RECEIPT = "00000000-0000-7000-8000-000000000001"


def study_row(number: int, seconds: int) -> tuple[Any, ...]:
    """UID, patient, attributes of one study; four studies per patient, dates over ten years in the order of arrival."""
    patient = f"P{number // 4:07d}"
    date = time.strftime("%Y%m%d", time.gmtime(1_420_070_400 + number * seconds))
    attributes = {
        "00080020": {"vr": "DA", "Value": [date]},
        "00080030": {"vr": "TM", "Value": [f"{number % 24:02d}{number % 60:02d}00"]},
        "00080050": {"vr": "SH", "Value": [f"A{number:08d}"]},
        "00081030": {"vr": "LO", "Value": [f"Protocol {number % 300}"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": f"{NAMES[number % 10]}{number // 4 % 5000}^Anna"}]},
        "00100020": {"vr": "LO", "Value": [patient]},
        "00100030": {"vr": "DA", "Value": ["19500102"]},
        "00100040": {"vr": "CS", "Value": ["F"]},
        "0020000D": {"vr": "UI", "Value": [f"1.2.3.{number}"]},
    }
    return f"1.2.3.{number}", patient, json.dumps(attributes)


def load(dsn: str, studies: int) -> None:
    """Fill the index by COPY: half of the studies in project `half`, one in a hundred in `few`."""
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO project (name) VALUES ('all'), ('half'), ('few')")
        connection.execute("INSERT INTO receipt (id, arrived_at, channel) VALUES (%s, now(), 'import')", (RECEIPT,))
        seconds = 10 * 365 * 86_400 // studies
        (any_attribute,) = connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'study_by_any'"
        ).fetchone() or ("",)
        connection.execute("DROP INDEX study_by_any")  # made at once below: so it is quicker to load
        with connection.cursor().copy("COPY study (study_instance_uid, patient_id, attributes) FROM STDIN") as copy:
            for number in range(studies):
                copy.write_row(study_row(number, seconds))
        connection.execute("SET maintenance_work_mem = '256MB'")
        connection.execute(any_attribute)
        connection.execute(
            "INSERT INTO series (series_instance_uid, study, modality, state) SELECT study_instance_uid || '.' || n, id,"
            " (ARRAY['CT', 'MR', 'SEG'])[1 + (id + n) %% 3], 'complete' FROM study, generate_series(1, %s) n ORDER BY id, n",
            (SERIES,),
        )
        connection.execute(
            "INSERT INTO series_project (series, project) SELECT s.id, p.name FROM series s, project p WHERE p.name = 'all'"
            " OR (p.name = 'half' AND s.study % 2 = 0) OR (p.name = 'few' AND s.study % 100 = 0)"
        )
        connection.execute(
            "INSERT INTO instance (sop_instance_uid, series, sop_class_uid, transfer_syntax_uid, digest, blob_key, size,"
            " dataset_offset, receipt, instance_number) SELECT series_instance_uid || '.' || n, id, '1.2.840.10008.5.1.4.1.1.2',"
            " '1.2.840.10008.1.2.1', '', series_instance_uid || '.' || n, 1, 1, %s, n FROM series, generate_series(1, %s) n"
            " ORDER BY id, n",
            (RECEIPT, INSTANCES),
        )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def searches(studies: int) -> dict[str, Callable[[int], dict[str, str]]]:
    """Parameters of each kind of search, by the number of the try."""
    return {
        "PatientID": lambda n: {"PatientID": f"P{n * 7919 % (studies // 4):07d}"},
        "StudyDate, a week": lambda n: {
            "StudyDate": f"20{16 + n % 8}{1 + n % 12:02d}01-20{16 + n % 8}{1 + n % 12:02d}07",
            "limit": "100",
        },
        "StudyDate, a year": lambda n: {"StudyDate": f"20{16 + n % 8}0101-20{16 + n % 8}1231", "limit": "100"},
        "study list, page 1": lambda n: {"limit": "100"},
        "AccessionNumber": lambda n: {"AccessionNumber": f"A{n * 7919 % studies:08d}"},
        "PatientName, begin": lambda n: {"PatientName": f"{NAMES[n % 10]}{n * 31 % 5000}*"},
    }


def measured(client: httpx.Client, parameters: Callable[[int], dict[str, str]], rounds: int) -> list[float]:
    """Milliseconds of each of `rounds` requests, sorted; three before them warm up."""
    times = []
    for number in range(-3, rounds):
        began = time.perf_counter()
        response = client.get("/dicom-web/studies", params=parameters(number + 3))
        response.raise_for_status()
        if number >= 0:
            times.append((time.perf_counter() - began) * 1000)
    return sorted(times)


def token(dsn: str, *, project: str | None) -> str:
    """A token of the site admin, or of a reader of one project."""
    database = Database(dsn, minimum=1, maximum=1)
    try:
        with database.transaction() as connection:
            name = project or "admin"
            connection.execute(
                "INSERT INTO account (name, password_hash, site_admin) VALUES (%s, 'none', %s)", (name, project is None)
            )
            if project:
                projects.set_member(connection, project, name, Role.READER)
            return tokens.create(connection, name, "bench")
    finally:
        database.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--home", type=Path, help="folder on the disk to measure")
    options = parser.parse_args()
    with site.folder(options.home) as home, site.database(home) as postgres:
        began = time.monotonic()
        load(postgres.dsn, options.studies)
        print(f"{options.studies} studies loaded in {time.monotonic() - began:.0f} s", flush=True)
        with psycopg.connect(postgres.dsn) as connection:
            for table in ("study", "series", "instance", "series_project", "study_project"):
                size = connection.execute("SELECT pg_total_relation_size(%s), reltuples FROM pg_class WHERE oid = %s::regclass",
                                          (table, table)).fetchone()  # fmt: skip
                assert size is not None
                print(f"  {table:15} {size[1]:10.0f} rows, {size[0] / max(size[1], 1):6.0f} bytes each with indexes")
        with site.api(home, postgres.dsn) as (_, url):
            for who in (None, "all", "half", "few"):
                headers = {"Authorization": f"Bearer {token(postgres.dsn, project=who)}"}
                print(f"{'site admin' if who is None else f'reader of project {who!r}'}: ms over HTTP, p50 and p95")
                with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=120) as client:
                    for name, parameters in searches(options.studies).items():
                        times = measured(client, parameters, options.rounds)
                        p95 = times[int(len(times) * 0.95)]
                        print(f"  {name:20} {statistics.median(times):7.1f} {p95:7.1f}", flush=True)


if __name__ == "__main__":
    main()
