"""QIDO-RS with a million studies: what the searches of everyday cost over HTTP, for callers who see all, much or little of them.

Run with `python -m tests.bench.bench_search [--studies N] [--rounds N] [--home DIR]`. A `--home` is kept, and used again by the next run.
Not here: the rows (population); images, since no blob is read by these searches.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx

from insitu.database import Database
from insitu.identity import tokens
from insitu.projects import projects
from insitu.projects.permissions import Role

from . import population, site

PAGE = "100"
# None: the site admin; else the projects of which the caller is a reader.
CALLERS: dict[str, tuple[str, ...] | None] = {
    "site admin": None,
    "a project with every study": ("whole",),
    "a project with one study in ten": ("tenth0",),
    "five with one in ten each": tuple(f"tenth{n}" for n in range(5)),
    "a project with one in a thousand": ("few0",),
    "five with one in a thousand each": tuple(f"few{n}" for n in range(5)),
}
TARGETS = {"PatientID": 10, "StudyDate, a week": 30, "StudyDate, a year": 30, "study list, page 1": 30}  # ms, p95


def searches(studies: int) -> dict[str, Callable[[int], dict[str, str]]]:
    """Parameters of each kind of search, by the number of the try."""
    days = studies // population.STUDIES_A_DAY

    def dates(number: int, length: int) -> dict[str, str]:
        first = datetime.date.fromisoformat(population.FIRST_DAY)
        begin = first + datetime.timedelta(days=number * 7919 % max(1, days - length))
        return {"StudyDate": f"{begin:%Y%m%d}-{begin + datetime.timedelta(days=length - 1):%Y%m%d}", "limit": PAGE}

    return {
        "PatientID": lambda n: {"PatientID": f"P{n * 7919 % 350_000:07d}"},
        "StudyDate, a week": lambda n: dates(n, 7),
        "StudyDate, a year": lambda n: dates(n, 365),
        "study list, page 1": lambda n: {"limit": PAGE},
        "AccessionNumber": lambda n: {"AccessionNumber": f"A{n * 7919 % studies + 1:09d}"},
        "PatientName, begin": lambda n: {"PatientName": f"{('Smith', 'Rossi', 'Tanaka')[n % 3]}*", "limit": PAGE},
        "PatientName, middle": lambda n: {
            "PatientName": f"*{('nova', 'cia', 'fel')[n % 3]}{chr(97 + n % 26)}*",
            "limit": PAGE,
        },
        "ModalitiesInStudy": lambda n: {"ModalitiesInStudy": ("CT", "MR", "MG")[n % 3], "limit": PAGE},
    }


def token(dsn: str, name: str, member_of: Iterable[str] | None) -> str:
    """A token of the site admin, or of a reader of these projects."""
    database = Database(dsn, minimum=1, maximum=1)
    account = name.replace(" ", "-").replace(",", "")
    try:
        with database.transaction() as connection:
            connection.execute(
                "INSERT INTO account (name, password_hash, site_admin) VALUES (%s, 'none', %s) ON CONFLICT DO NOTHING",
                (account, member_of is None),
            )
            for project in member_of or ():
                projects.set_member(connection, project, account, Role.READER)
            return tokens.ensure(connection, account, "bench")
    finally:
        database.close()


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


def measure(home: Path, postgres: site.Postgres, studies: int, rounds: int, callers: Iterable[str] = CALLERS) -> None:
    """Start an api over the index, ask it, print what it took."""
    with site.api(home, postgres.dsn) as (pid, url):
        for name in callers:
            headers = {"Authorization": f"Bearer {token(postgres.dsn, name, CALLERS[name])}"}
            print(f"{name}: ms over HTTP, p50 and p95; ms of CPU per request, api and PostgreSQL")
            with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=120) as client:
                for what, parameters in searches(studies).items():
                    before = site.cpu_seconds(pid), site.cpu_seconds(postgres.pid)
                    times = measured(client, parameters, rounds)
                    after = site.cpu_seconds(pid), site.cpu_seconds(postgres.pid)
                    api, database = ((b - a) * 1000 / (rounds + 3) for a, b in zip(before, after, strict=True))
                    p95 = times[int(len(times) * 0.95)]
                    target = f"  (target {TARGETS[what]})" if what in TARGETS else ""
                    print(
                        f"  {what:20} {statistics.median(times):7.1f} {p95:7.1f}   {api:5.1f} {database:6.1f}{target}",
                        flush=True,
                    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--home", type=Path, help="folder on the disk to measure; it is kept")
    parser.add_argument("--callers", nargs="*", default=list(CALLERS), choices=list(CALLERS))
    options = parser.parse_args()
    with population.index(options.home, options.studies) as (home, postgres):
        for table, rows, heap, indexes in population.sizes(postgres.dsn):
            print(
                f"  {table:15} {rows:10d} rows, {heap / max(rows, 1):6.0f} bytes each, {indexes / max(rows, 1):6.0f} in indexes"
            )
        measure(home, postgres, options.studies, options.rounds, options.callers)


if __name__ == "__main__":
    main()
