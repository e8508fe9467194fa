"""How many objects a second the archive takes: four processes, a CT slice each time, everything durable.

Run with `python -m tests.bench.bench_store [--objects N] [--processes N] [--home DIR]`. A PostgreSQL of its own is started with
the safe settings of the product. Not here: the network (the receiver's benchmark).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import struct
import time
import uuid
from pathlib import Path

from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive, Outcome
from insitu.database import Database
from insitu.settings import Settings

from . import site

EXPLICIT = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
PDU = 1 << 17  # bytes handed over at a time


def data_set(sop: str, series: str, study: str, number: int) -> bytes:
    """A CT slice of 512 x 512 in explicit VR little endian, as the network brings it."""

    def element(tag: int, vr: bytes, value: bytes) -> bytes:
        value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
        return head + (struct.pack("<HI", 0, len(value)) if vr == b"OW" else struct.pack("<H", len(value))) + value

    elements = [
        (0x00080005, b"CS", b"ISO_IR 100"), (0x00080016, b"UI", CT.encode()), (0x00080018, b"UI", sop.encode()),
        (0x00080020, b"DA", b"20240131"), (0x00080060, b"CS", b"CT"), (0x0008103E, b"LO", b"Head"),
        (0x00100010, b"PN", b"Doe^Jane"), (0x00100020, b"LO", b"4711"),
        *((0x00180000 + tag, b"DS", b"1.25") for tag in range(0x50, 0x90, 2)),
        (0x0020000D, b"UI", study.encode()), (0x0020000E, b"UI", series.encode()), (0x00200013, b"IS", str(number).encode()),
        (0x00280010, b"US", struct.pack("<H", 512)), (0x00280011, b"US", struct.pack("<H", 512)),
        (0x7FE00010, b"OW", os.urandom(512 * 512 * 2)),
    ]  # fmt: skip
    return b"".join(element(*one) for one in elements)


def work(dsn: str, home: Path, objects: int, start: float, done: multiprocessing.Queue[tuple[float, float]]) -> None:
    """One receiver's worth of objects; reports when it was finished and the CPU seconds it took."""
    settings = Settings(home=home)
    database = Database(dsn, maximum=2)
    archive = Archive(database, FileBlobStore(settings.blobs), settings)
    receipt = archive.open_receipt(channel="dimse", calling_ae="BENCH")
    study, series = f"2.25.{uuid.uuid4().int}", f"2.25.{uuid.uuid4().int}"
    template_uid = "1." + "2" * 40
    template = data_set(template_uid, series, study, 1)
    time.sleep(max(0.0, start - time.monotonic()))
    before = time.process_time()
    for number in range(objects):
        sop = f"1.{number:040d}"[:20] + uuid.uuid4().hex.translate(str.maketrans("abcdef", "123456"))[:22]
        data = memoryview(template.replace(template_uid.encode(), sop.encode(), 1))
        incoming = archive.begin(receipt, transfer_syntax_uid=EXPLICIT, sop_class_uid=CT, sop_instance_uid=sop)
        for at in range(0, len(data), PDU):
            incoming.write(data[at : at + PDU])
        stored = incoming.commit()
        if stored.outcome is not Outcome.STORED:
            raise SystemExit(f"not stored: {stored}")
    done.put((time.monotonic(), time.process_time() - before))
    archive.close()
    database.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=300, help="per process")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--home", type=Path, help="folder on the disk to measure")
    options = parser.parse_args()
    with site.folder(options.home) as home, site.database(home) as postgres:
        context = multiprocessing.get_context("spawn")
        done = context.Queue()
        start = time.monotonic() + 10
        processes = [
            context.Process(target=work, args=(postgres.dsn, home, options.objects, start, done))
            for _ in range(options.processes)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                raise SystemExit("a process failed")
        results = [done.get() for _ in processes]
    seconds = max(end for end, _ in results) - start
    objects = options.objects * options.processes
    cpu = sum(used for _, used in results) / objects * 1000
    print(
        f"{objects / seconds:.0f} objects/s of 512 kB, {options.processes} processes, {os.cpu_count()} cores,"
        f" {cpu:.2f} ms CPU per object in the archive's processes"
    )


if __name__ == "__main__":
    main()
