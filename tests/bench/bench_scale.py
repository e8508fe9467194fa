"""The archive with up to 20 million instances in its index: C-STORE beside an empty one, QIDO-RS, bytes per row.

Run with `python -m tests.bench.bench_scale [--studies N ...] [--rounds N] [--home DIR]`. Both receivers are served in turns by DCMTK's
storescu. A `--home` keeps the indexes for the next run; 20 million instances need 17 GB. Not here: the rows (population) and peers
(bench_peers).
"""

from __future__ import annotations

import argparse
import os
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from . import bench_search, population, site
from .bench_peers import send, write_objects

EMPTY, FULL = "empty", "full"


@dataclass
class Round:
    """What one round of objects took."""

    rate: float  # objects a second
    receiver: float  # ms of CPU per object
    postgres: float
    log: float  # bytes of write-ahead log per object


def log_position(dsn: str) -> int:
    """Bytes of write-ahead log that were ever written."""
    with psycopg.connect(dsn) as connection:
        (written,) = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone() or (0,)
    return int(written)


def one_round(
    postgres: site.Postgres,
    receiver: int,
    port: int,
    scratch: Path,
    objects: int,
    associations: int,
    *,
    checkpoint: bool,
) -> Round:
    """Send objects; after a checkpoint every page that is touched goes into the log as a whole."""
    with site.folder(scratch) as folder:
        folders = write_objects(folder, objects, associations)
        os.sync()
        if checkpoint:
            with psycopg.connect(postgres.dsn, autocommit=True) as connection:
                connection.execute("CHECKPOINT")
        before = site.cpu_seconds(receiver), site.cpu_seconds(postgres.pid), log_position(postgres.dsn)
        seconds = send(port, folders)
        after = site.cpu_seconds(receiver), site.cpu_seconds(postgres.pid), log_position(postgres.dsn)
    ours, database, log = ((late - early) / objects for early, late in zip(before, after, strict=True))
    return Round(objects / seconds, ours * 1000, database * 1000, log)


def compare(home: Path, full: site.Postgres, options: argparse.Namespace) -> None:
    """C-STORE into the full index and into an empty one, in turns."""
    with ExitStack() as stack:
        scratch = stack.enter_context(site.folder(home))
        empty_home = stack.enter_context(site.folder(home))
        empty = stack.enter_context(site.database(empty_home))
        servers = {
            EMPTY: (empty, *stack.enter_context(site.receiver(empty_home, empty.dsn, processes=options.processes))),
            FULL: (full, *stack.enter_context(site.receiver(scratch, full.dsn, processes=options.processes))),
        }
        found: dict[str, list[Round]] = {name: [] for name in servers}
        for number in range(options.rounds + 1):
            order = list(servers) if number % 2 else list(servers)[::-1]
            for name in order:
                result = one_round(
                    *servers[name], scratch, options.objects, options.associations, checkpoint=options.checkpoint
                )
                if number:  # the first warms up
                    found[name].append(result)
        rates = {name: statistics.median(one.rate for one in rounds) for name, rounds in found.items()}
        for name, rounds in found.items():
            print(
                f"  {name:6} {rates[name]:6.0f} objects/s ({min(o.rate for o in rounds):.0f} to {max(o.rate for o in rounds):.0f}),"
                f" CPU per object: receiver {statistics.median(o.receiver for o in rounds):.2f} ms,"
                f" PostgreSQL {statistics.median(o.postgres for o in rounds):.2f} ms;"
                f" log {statistics.median(o.log for o in rounds) / 1024:.1f} KiB"
            )
        pairs = [f.rate / e.rate for e, f in zip(found[EMPTY], found[FULL], strict=True)]
        print(f"  full against empty, median of the pairs: {statistics.median(pairs):.2f} (target 0.8)", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, nargs="+", default=[5_000, 50_000, 250_000, 1_000_000])
    parser.add_argument("--objects", type=int, default=600)
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2, help="of the receiver")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--searches", type=int, default=50, help="of each kind")
    parser.add_argument("--checkpoint", action="store_true", help="before every round: the most that the log can be")
    parser.add_argument("--home", type=Path, help="folder on the disk to measure; the indexes are kept there")
    options = parser.parse_args()
    for studies in options.studies:
        with population.index(options.home, studies) as (home, postgres):
            sizes = population.sizes(postgres.dsn)
            instances = next(rows for table, rows, _, _ in sizes if table == "instance")
            print(f"{studies} studies, {instances} instances")
            for table, rows, heap, indexes in sizes:
                print(
                    f"  {table:15} {rows:9d} rows, {heap / max(rows, 1):5.0f} bytes each, {indexes / max(rows, 1):5.0f} in indexes"
                )
            compare(home, postgres, options)
            if options.searches:
                bench_search.measure(home, postgres, studies, options.searches, ["site admin"])


if __name__ == "__main__":
    main()
