"""C-STORE beside peers: DCMTK's storescu sends the same CT objects to us, to Orthanc and to DCMTK's storescp, in turns.

Run with `python -m tests.bench.bench_peers [--objects N] [--associations N] [--rounds N] [--home DIR]`. What decides fairness is printed:
what each server syncs. Not here: reading (bench_read).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from insitu.archive.examine import file_meta
from tests.peers.dcmtk import storescp
from tests.peers.orthanc import orthanc

from . import site
from .bench_store import CT, EXPLICIT, data_set


def write_objects(folder: Path, objects: int, associations: int) -> list[Path]:
    """CT slices of 512 x 512 x 16 bit as DICOM files, one folder and one series per association; the folders."""
    folders = []
    placeholder = "1." + "2" * 40
    for number in range(associations):
        part = folder / str(number)
        part.mkdir(parents=True)
        template = data_set(placeholder, f"2.25.{uuid.uuid4().int}", f"2.25.{uuid.uuid4().int}", 1)
        for index in range(number, objects, associations):
            sop = f"1.{uuid.uuid4().int:039d}9"[:42]
            content = file_meta(EXPLICIT, CT, sop, None) + template.replace(placeholder.encode(), sop.encode(), 1)
            (part / f"{index:05d}.dcm").write_bytes(content)
        folders.append(part)
    return folders


def send(port: int, folders: list[Path]) -> float:
    """Send every folder by a storescu of its own, all at once; seconds until the last has ended."""
    environment = {"PATH": os.environ["PATH"], "TCP_NODELAY": "1"}
    began = time.monotonic()
    senders = [
        subprocess.Popen(
            ["storescu", "-xe", "-R", "+sd", "-aet", "BENCH", "-aec", "ANY-SCP", "127.0.0.1", str(port), str(folder)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for folder in folders
    ]  # fmt: skip
    failures = [sender.communicate()[1][-500:] for sender in senders if sender.wait()]
    if failures:
        raise SystemExit(f"storescu failed: {failures[0].decode()}")
    return time.monotonic() - began


def one_round(port: int, cpu: Callable[[], float], options: argparse.Namespace, scratch: Path) -> tuple[float, float]:
    """Objects a second, and CPU milliseconds of the server per object."""
    with site.folder(scratch) as objects:
        folders = write_objects(objects, options.objects, options.associations)
        os.sync()
        before = cpu()
        seconds = send(port, folders)
        used = cpu() - before
    return options.objects / seconds, used / options.objects * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=600)
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="of our receiver")
    parser.add_argument("--home", type=Path, help="folder on the disk to measure")
    options = parser.parse_args()
    with (
        site.folder(options.home) as home,
        site.database(home) as postgres,
        site.receiver(home, postgres.dsn, processes=options.processes) as (receiver, port),
        orthanc(home / "orthanc") as peer,
        storescp(home / "storescp", ["--ignore"] if os.environ.get("STORESCP_IGNORE") else []) as plain,
    ):
        version = peer.request("GET", "/system")
        print(
            f"{options.objects} CT objects of 512x512x16, {options.associations} associations, {os.cpu_count()} cores.\n"
            "Insitu: fsync of object and folder, PostgreSQL fsync, synchronous_commit and full_page_writes on.\n"
            f"Orthanc {version['Version'] if isinstance(version, dict) else ''}: Debian's defaults"
            " (SQLite index, SyncStorageArea as shipped, MaximumPduLength as shipped).\n"
            "storescp: files only, no index, no sync."
        )
        servers: dict[str, tuple[int, Callable[[], float]]] = {
            "insitu": (port, lambda: site.cpu_seconds(receiver) + site.cpu_seconds(postgres.pid)),
            "orthanc": (peer.dicom_port, lambda: site.cpu_seconds(peer.pid)),
            "storescp": (plain.port, lambda: site.cpu_seconds(plain.pid)),
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for number in range(options.rounds + 1):
            for name, (server_port, cpu) in servers.items():
                result = one_round(server_port, cpu, options, home)
                if number:  # the first warms up
                    results[name].append(result)
                    print(f"  {name:9} {result[0]:6.0f} objects/s, {result[1]:5.2f} ms CPU per object", flush=True)
        rates = {name: statistics.median(rate for rate, _ in found) for name, found in results.items()}
        costs = {name: statistics.median(cost for _, cost in found) for name, found in results.items()}
        for name in servers:
            print(
                f"{name:9} median {rates[name]:6.0f} objects/s, {costs[name]:5.2f} ms CPU per object;"
                f" against Orthanc: rate {rates[name] / rates['orthanc']:.2f}, CPU {costs[name] / costs['orthanc']:.2f}"
            )
        print(f"memory of the receiver (PSS): {site.memory(receiver) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
