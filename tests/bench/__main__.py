"""`make bench`: every measurement, one after the other, on a machine that does nothing else."""

from __future__ import annotations

import subprocess
import sys

MEASUREMENTS = (
    "bench_peers",
    "bench_read",
    "bench_search",
    "bench_scale",
    "bench_large",
    "bench_store",
    "bench_receive",
    "bench_run",
    "bench_fairness",
    "bench_cluster",
)

if __name__ == "__main__":
    for name in MEASUREMENTS:
        print(f"\n## {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=True)
