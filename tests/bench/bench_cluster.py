"""The platform on a cluster: how long Helm installs, what it holds when idle, and the overhead of a run through Airflow and a Job.

Run with `python -m tests.bench.bench_cluster [--runs N]`. The cluster is that of the tests (docs/images.md), its images in it. Overhead
is the time from the last acknowledgement until the results are in the archive, less the quiet time and the algorithm's own seconds.
Not here: the same on one machine (bench_run).
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from tests.bench.bench_run import QUIET, once, overhead
from tests.cluster.cluster import find_cluster
from tests.cluster.images import Images
from tests.cluster.site import ClusterSite, site

IDLE_SECONDS = 90  # until the figures of the kubelet are those of an idle platform


def main() -> None:
    """Measure and print, as lines of a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=12)
    arguments = parser.parse_args()
    cluster = find_cluster()
    with site(cluster, Images(cluster)) as platform:
        time.sleep(IDLE_SECONDS)
        held = memory(platform)
        platform.ensure_project("trial")
        platform.rules({"name": "ct", "then": {"project": "trial", "algorithms": [{"name": "ct-tissue"}]}})
        waterfalls = [once(platform) for _ in range(arguments.runs)]
    overheads = sorted(overhead(bars) for bars in waterfalls)
    print("| what | value |\n|---|---|")
    if platform.install_seconds is not None:
        print(f"| `helm install --wait`, images present | {platform.install_seconds:.0f} s |")
    print(f"| idle memory of the platform's pods (working sets) | {sum(held.values()) / 2**30:.2f} GiB |")
    for name, size in sorted(held.items()):
        print(f"| ... {name} | {size / 2**20:.0f} MiB |")
    p95 = overheads[min(len(overheads) - 1, round(0.95 * (len(overheads) - 1)))]
    print(
        f"| overhead of a run, median of {len(overheads)} | {statistics.median(overheads):.1f} s "
        f"(p95 {p95:.1f}, {overheads[0]:.1f} to {overheads[-1]:.1f}) |"
    )
    for number, bar in enumerate(waterfalls[0]):
        seconds = statistics.median(bars[number]["seconds"] for bars in waterfalls if len(bars) > number)
        expected = f", of which {QUIET:g} s are the quiet time" if bar["stage"] == "acknowledged" else ""
        print(f"| ... {bar['shows']} | {seconds:.2f} s{expected} |")


def memory(platform: ClusterSite) -> dict[str, int]:
    """Bytes that each component holds, as the kubelets tell (working set: what cannot be given back)."""
    held: dict[str, int] = {}
    components = {
        pod["metadata"]["name"]: pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for pod in platform.namespace.get("pods")["items"]
        if pod["status"]["phase"] == "Running"
    }
    for node in platform.cluster.get("nodes")["items"]:
        found: Any = platform.cluster.raw(f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary")
        for pod in found["pods"]:
            name = pod["podRef"]["name"]
            if pod["podRef"]["namespace"] == platform.namespace.name and name in components:
                component = components[name]
                held[component] = held.get(component, 0) + pod["memory"]["workingSetBytes"]
    return held


if __name__ == "__main__":
    main()
