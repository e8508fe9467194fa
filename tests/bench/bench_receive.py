"""How many objects a second the receiver takes over the network: four associations, 512 kB each, everything durable.

Run with `python -m tests.bench.bench_receive [--objects N] [--associations N] [--pdu BYTES] [--home DIR]`. Receiver and PostgreSQL
are real processes with the settings of the product; the senders are raw sockets, so that they cost next to nothing.
Not here: the archive alone (bench_store).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import struct
import time
import uuid
from pathlib import Path

from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

from insitu_services.receiver import command, pdu

from . import site
from .bench_store import CT, EXPLICIT, data_set


def request() -> bytes:
    """An A-ASSOCIATE-RQ for CT images."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "BENCH", "INSITU"
    context = build_context(CT, EXPLICIT)
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16_384
    implementation.implementation_class_uid = "1.2.3"
    primitive.user_information = [length, implementation]
    encoder = A_ASSOCIATE_RQ()
    encoder.from_primitive(primitive)
    encoded: bytes = encoder.encode()
    return encoded


def store_command(sop_instance: str, message: int) -> bytes:
    """The command set of a C-STORE-RQ."""

    def element(number: int, raw: bytes) -> bytes:
        raw += b"\0" * (len(raw) % 2)
        return struct.pack("<HHI", 0, number, len(raw)) + raw

    body = b"".join(
        (
            element(command.AFFECTED_SOP_CLASS, CT.encode()),
            element(command.COMMAND_FIELD, struct.pack("<H", command.C_STORE_RQ)),
            element(command.MESSAGE_ID, struct.pack("<H", message & 0xFFFF)),
            element(0x0700, b"\0\0"),
            element(command.DATA_SET_TYPE, b"\0\0"),
            element(command.AFFECTED_SOP_INSTANCE, sop_instance.encode()),
        )
    )
    return element(0, struct.pack("<I", len(body))) + body


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Type and body of the next PDU."""

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = connection.recv(count - len(data))
            if not piece:
                raise SystemExit("the receiver closed the connection")
            data += piece
        return data

    kind, length = struct.unpack(">BxI", exactly(6))
    return kind, exactly(length)


def send(port: int, objects: int, largest: int, start: float, done: multiprocessing.Queue[float]) -> None:
    """One association's objects; reports when the last was acknowledged."""
    study, series = f"2.25.{uuid.uuid4().int}", f"2.25.{uuid.uuid4().int}"
    placeholder = "1." + "2" * 40
    template = data_set(placeholder, series, study, 1)
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request())
        if answer(connection)[0] != pdu.ASSOCIATE_AC:
            raise SystemExit("the receiver refused the association")
        time.sleep(max(0.0, start - time.monotonic()))
        for number in range(objects):
            sop = f"1.{uuid.uuid4().int:039d}9"[:42]
            data = template.replace(placeholder.encode(), sop.encode(), 1)
            command_set = store_command(sop, number)
            connection.sendall(pdu.p_data(1, command_set, largest))
            step = largest - 6
            for at in range(0, len(data), step):
                piece = memoryview(data)[at : at + step]
                control = 2 if at + step >= len(data) else 0
                header = struct.pack(">BxIIBB", pdu.P_DATA_TF, len(piece) + 6, len(piece) + 2, 1, control)
                connection.sendall(header)
                connection.sendall(piece)
            kind, body = answer(connection)
            status = command.decode(body[6:]).number(command.STATUS) if kind == pdu.P_DATA_TF else None
            if status != 0:
                raise SystemExit(f"not stored: PDU type {kind}, status {status}")
        done.put(time.monotonic())
        connection.sendall(bytes([pdu.RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
        answer(connection)


def measure(dsn: str, home: Path, postgres_pid: int, options: argparse.Namespace) -> str:
    """Start a receiver, send to it, say what it took."""
    with site.receiver(home, dsn, processes=options.processes) as (receiver, port):
        context = multiprocessing.get_context("spawn")
        done: multiprocessing.Queue[float] = context.Queue()
        start = time.monotonic() + 10
        senders = [
            context.Process(target=send, args=(port, options.objects, options.pdu, start, done))
            for _ in range(options.associations)
        ]
        for sender in senders:
            sender.start()
        time.sleep(max(0.0, start - time.monotonic()))
        before = site.cpu_seconds(receiver), site.cpu_seconds(postgres_pid)
        ends = []
        for sender in senders:
            sender.join()
            if sender.exitcode:
                raise SystemExit("a sender failed")
            ends.append(done.get())
        after = site.cpu_seconds(receiver), site.cpu_seconds(postgres_pid)
    objects = options.objects * options.associations
    ours, database = ((late - early) / objects * 1000 for early, late in zip(before, after, strict=True))
    return (
        f"{objects / (max(ends) - start):.0f} objects/s of 512 kB, {options.associations} associations,"
        f" {options.processes} processes, PDUs of {options.pdu} bytes, {os.cpu_count()} cores;"
        f" CPU per object: receiver {ours:.2f} ms, PostgreSQL {database:.2f} ms"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=300, help="per association")
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2, help="of the receiver")
    parser.add_argument("--pdu", type=int, default=131_072, help="largest PDU the senders make, in bytes")
    parser.add_argument("--home", type=Path, help="folder on the disk to measure")
    options = parser.parse_args()
    with site.folder(options.home) as home, site.database(home) as postgres:
        print(measure(postgres.dsn, home, postgres.pid, options))


if __name__ == "__main__":
    main()
