"""The overhead of a run and the cost of the platform: start when warm, memory when idle, last object acknowledged to results archived.

Run with `python -m tests.bench.bench_run [--runs N]`. Overhead is the time from the last acknowledgement until the results are in the
archive, less the quiet time and the algorithm's own seconds. Not here: the rate of receiving (bench_receive, bench_store).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from pydicom import dcmread

from insitu import demo_images
from tests.site import Sent, Site
from tests.system.running import platform
from tests.system.site import LocalSite

QUIET = 2.0


def main() -> None:
    """Measure and print, as lines of a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    with platform(quiet_time=str(QUIET)) as running:
        running.start()
        running.wait_ready()
        running.stop()
        running.start()
        warm = running.wait_ready()["ready_seconds"]
        time.sleep(30)
        facts = json.loads(running.insitu("status", "--json").stdout)
        site = LocalSite(running)
        site.ensure_project("trial")
        site.rules({"name": "ct", "then": {"project": "trial", "algorithms": [{"name": "ct-tissue"}]}})
        waterfalls = [once(site) for _ in range(arguments.runs)]
    overheads = [overhead(bars) for bars in waterfalls]
    print("| what | value |\n|---|---|")
    print(f"| `insitu up`, warm, to ready | {warm:.1f} s |")
    print(f"| idle memory (PSS of all processes) | {facts['memory_bytes'] / 2**30:.2f} GiB |")
    for process in facts["processes"]:
        print(f"| ... {process['name']} | {process['memory_bytes'] / 2**20:.0f} MiB |")
    print(
        f"| overhead of a run, median of {len(overheads)} | {statistics.median(overheads):.1f} s "
        f"({min(overheads):.1f} to {max(overheads):.1f}) |"
    )
    for number, bar in enumerate(waterfalls[0]):
        seconds = statistics.median(bars[number]["seconds"] for bars in waterfalls if len(bars) > number)
        print(f"| ... {bar['shows']} | {seconds:.2f} s |")


def once(site: Site) -> list[dict[str, Any]]:
    """Send the head CT of Debian's invesalius-examples as a new study, wait for the run; its waterfall."""
    with tempfile.TemporaryDirectory() as folder:
        files = demo_images.head_ct().write(Path(folder), salt=uuid.uuid4().hex[:12])
        header = dcmread(files[0], stop_before_pixels=True)
        sent = Sent(str(header.StudyInstanceUID), str(header.SeriesInstanceUID), files)
        site.send(sent)
    run = site.finished(site.until("a run", lambda: site.runs_of(sent.series), bool)[0]["execution"])
    assert run["state"] == "succeeded", run["reason"]
    bars: list[dict[str, Any]] = run["waterfall"]
    return bars


def overhead(bars: list[dict[str, Any]]) -> float:
    """Seconds from the last acknowledgement to the results in the archive, less the quiet time and the algorithm's."""
    by_stage = {bar["stage"]: bar for bar in bars}
    return float(by_stage["published"]["start"] - QUIET - by_stage["algorithm"]["seconds"])


if __name__ == "__main__":
    main()
