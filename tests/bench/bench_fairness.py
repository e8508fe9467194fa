"""Twenty series at once from two projects while a training runs: order between the projects, waiting times, throughput (RUN-7).

`python -m tests.bench.bench_fairness` starts a platform of its own; `--cluster` takes the one that is installed in the namespace
INSITU_TEST_RELEASE. The series of the first project are all sent before those of the second.

Not here: the overhead of a single run (bench_run).
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests import doubles
from tests.site import Site, phantom
from tests.system.running import platform
from tests.system.site import LocalSite

EACH = 10  # series of each project
SECONDS = 1200.0  # for all of it
TRAINING = {"purpose": "training", "name": "double-busy", "resources": {"memory": "512Mi", "seconds": 3600, "cpu": 2}}


@dataclass(frozen=True)
class Run:
    """A run as it went, in seconds since the first one was asked for."""

    project: str
    state: str
    requested: float
    admitted: float
    begun: float
    ended: float


def main() -> None:
    """Measure and print, as lines of a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--at-once", type=int, default=4, help="Runs at once of the platform that is started here.")
    parser.add_argument("--algorithm", default="ct-tissue")
    parser.add_argument("--without", action="store_true", help="Measure without a training first, to compare.")
    arguments = parser.parse_args()
    print(f"load of this machine at the start: {os.getloadavg()[0]:.1f}")
    with _cluster() if arguments.cluster else _local(arguments.at_once) as (site, install):
        at_once = _at_once(site, arguments.at_once)
        with tempfile.TemporaryDirectory() as folder:
            name = install("busy", Path(folder), **TRAINING)
            rounds = {"a training runs": name}
            if arguments.without:
                rounds = {"no training": None, **rounds}
            columns = [_measure(site, arguments.algorithm, training, at_once) for training in rounds.values()]
            print(f"| {' | '.join(('what', *rounds))} |\n{'|---' * (1 + len(rounds))}|")
            for what in columns[0]:
                print(f"| {' | '.join((what, *(column[what] for column in columns)))} |")
    print(f"load of this machine at the end: {os.getloadavg()[0]:.1f}")


@contextmanager
def _local(at_once: int) -> Iterator[tuple[Site, Any]]:
    with platform(quiet_time="1", runs_at_once=str(at_once)) as running:
        running.start()
        running.wait_ready()
        site = LocalSite(running)

        def install(kind: str, folder: Path, **changes: Any) -> str:
            done: subprocess.CompletedProcess[str] = site.insitu(
                "algorithm", "install", str(doubles.build(kind, folder, **changes))
            )
            assert done.returncode == 0, done.stderr
            return str(changes["name"])

        yield site, install


@contextmanager
def _cluster() -> Iterator[tuple[Site, Any]]:
    from tests.cluster.cluster import find_cluster
    from tests.cluster.images import Images
    from tests.cluster.site import site as installed

    cluster = find_cluster()
    with installed(cluster, Images(cluster)) as site:
        yield site, site.install_double


def _at_once(site: Site, chosen: int) -> int:
    """How many runs at once the platform carries out, as it says itself."""
    from tests.system.site import LocalSite

    if isinstance(site, LocalSite):
        return chosen
    import yaml

    maps = site.namespace.get("configmaps")["items"]  # type: ignore[attr-defined]
    (text,) = [item["data"]["insitu.yaml"] for item in maps if "insitu.yaml" in item.get("data", {})]
    return int(yaml.safe_load(text).get("runs_at_once", 2))


def _measure(site: Site, algorithm: str, training: str | None, at_once: int) -> dict[str, str]:
    """One round; the cells of its column."""
    mark = uuid.uuid4().hex[:6]
    projects = [f"first-{mark}", f"second-{mark}", f"research-{mark}"]
    for project in projects:
        site.ensure_project(project)
    site.rules(
        *(
            {
                "name": f"to-{project}",
                "when": {"called_ae": f"AE{number}{mark}".upper()},
                "then": {"project": project, "algorithms": [{"name": algorithm}]},
            }
            for number, project in enumerate(projects[:2])
        )
    )
    begun = None
    with tempfile.TemporaryDirectory() as folder:
        if training is not None:
            begun = _begin_training(site, training, projects[2], Path(folder) / "training")
        sent: list[tuple[str, str]] = []
        started = time.monotonic()
        for number, project in enumerate(projects[:2]):
            for each in range(EACH):
                series = phantom(Path(folder) / f"{number}-{each}")
                site.send(series, called=f"AE{number}{mark}".upper())
                sent.append((project, series.series))
        sending = time.monotonic() - started
        runs = _ended(site, sent)
        facts = None if begun is None else site.get(f"/api/v1/runs/{begun}")
        if begun is not None:
            site.http.post(f"/api/v1/runs/{begun}/cancel")
            site.finished(begun)
    return _report(runs, projects, at_once, sending, facts)


def _begin_training(site: Site, training: str, project: str, folder: Path) -> str:
    series = phantom(folder)
    site.send(series)
    site.complete(series.series)
    execution = site.start(training, series.series, project=project)
    site.until(
        "a training that runs",
        lambda: site.get(f"/api/v1/runs/{execution}"),
        lambda run: any(event["stage"] == "algorithm" for event in run["history"]),
    )
    return execution


def _ended(site: Site, sent: list[tuple[str, str]]) -> list[Run]:
    deadline = time.monotonic() + SECONDS
    waiting = dict.fromkeys(range(len(sent)))
    details: dict[int, dict[str, Any]] = {}
    while waiting:
        assert time.monotonic() < deadline, f"{len(waiting)} of {len(sent)} runs have not ended"
        for number in list(waiting):
            found = site.runs_of(sent[number][1])
            if found and found[0]["state"] in ("succeeded", "failed", "cancelled"):
                details[number] = site.get(f"/api/v1/runs/{found[0]['execution']}")
                del waiting[number]
        time.sleep(1.0)
    first = min(_at(detail["requested_at"]) for detail in details.values())
    runs = []
    for number, (project, _) in enumerate(sent):
        detail = details[number]
        stages = {event["stage"]: _at(event["at"]) - first for event in reversed(detail["history"])}
        ended = _at(detail["finished_at"]) - first
        runs.append(
            Run(
                project,
                detail["state"],
                _at(detail["requested_at"]) - first,
                stages["admitted"],
                stages.get("fetch", ended),
                ended,
            )
        )
    return runs


def _at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _report(
    runs: list[Run], projects: list[str], at_once: int, sending: float, training: dict[str, Any] | None
) -> dict[str, str]:
    order = sorted(runs, key=lambda run: run.admitted)
    letters = "".join("AB"[projects.index(run.project)] for run in order)
    whole = max(run.ended for run in runs)
    cells = {
        "runs that succeeded": f"{sum(run.state == 'succeeded' for run in runs)} of {len(runs)}",
        "sent in": f"{sending:.0f} s",
        "throughput, from the first asked for to the last result": f"{60 * len(runs) / whole:.1f} a minute ({whole:.0f} s)",
        "order of admission": letters,
        "largest lead of a project while both waited": str(_lead(order, projects)),
        "free places while a run waited, longest": f"{_idle(runs, at_once):.1f} s",
    }
    for name, project in zip("AB", projects, strict=False):
        mine = [run for run in runs if run.project == project]
        waits = [run.admitted - run.requested for run in mine]
        cells[f"project {name}: wait for admission, median (most)"] = (
            f"{statistics.median(waits):.1f} s ({max(waits):.1f})"
        )
    starts = [run.begun - run.admitted for run in runs]
    cells["from admission to fetch, median (most)"] = f"{statistics.median(starts):.1f} s ({max(starts):.1f})"
    if training is not None:
        again = sum(1 for event in training["history"] if event["stage"] == "attempt")
        cells["the training meanwhile"] = f"{training['state']}, made room {again} times"
    else:
        cells["the training meanwhile"] = ""
    return cells


def _lead(order: list[Run], projects: list[str]) -> int:
    """By how many admissions one project was ahead at most, over those at which runs of both waited."""
    ahead = most = 0
    for run in order:
        waiting = {each.project for each in order if each.requested <= run.admitted <= each.admitted}
        if waiting >= set(projects[:2]):
            ahead += 1 if run.project == projects[0] else -1
            most = max(most, abs(ahead))
    return most


def _idle(runs: list[Run], at_once: int) -> float:
    """Longest time for which a run waited for its admission although a place was free: something else held it up."""
    times = sorted({time for run in runs for time in (run.requested, run.admitted, run.ended)})
    longest = current = 0.0
    for start, end in itertools.pairwise(times):
        active = sum(1 for run in runs if run.admitted <= start < run.ended)
        waits = any(run.requested <= start < run.admitted for run in runs)
        current = current + end - start if waits and active < at_once else 0.0
        longest = max(longest, current)
    return longest


if __name__ == "__main__":
    main()
