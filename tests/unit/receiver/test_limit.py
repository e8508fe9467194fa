"""The limit of open associations holds over all workers, whatever becomes of one of them (OPS-6)."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable

import psutil

from .conftest import Receiver
from .test_hostile_pdus import answered
from .test_receiver import rq

MOST = 6
REFUSED = "reject 2 3 2"  # transient, by the presentation service: local limit exceeded


def attempt(receiver: Receiver) -> tuple[socket.socket, str]:
    """A connection on which an association was asked for, and the answer."""
    connection = receiver.connect()
    connection.sendall(rq())
    return connection, answered(connection)


def filled(receiver: Receiver, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Associations until one is refused; the open ones."""
    accepted = []
    while True:
        connection, answer = attempt(receiver)
        stack.enter_context(connection)
        if answer == REFUSED:
            return accepted
        assert answer == "accept"
        accepted.append(connection)


def served_by(worker: psutil.Process, connections: list[socket.socket]) -> list[socket.socket]:
    """Those that a worker serves."""
    ports = {each.raddr.port for each in worker.net_connections("tcp") if each.raddr}
    return [connection for connection in connections if connection.getsockname()[1] in ports]


def test_a_killed_worker_leaves_no_association_counted(start: Callable[..., Receiver]) -> None:
    receiver = start(associations_at_once=str(MOST), receiver_processes="3", idle_timeout="600")
    with contextlib.ExitStack() as stack:
        accepted = filled(receiver, stack)
        assert len(accepted) == MOST
        victim = max(receiver.workers(), key=lambda worker: len(served_by(worker, accepted)))
        lost = served_by(victim, accepted)
        victim.kill()
        receiver.until("it is replaced", lambda: victim not in receiver.workers() and len(receiver.workers()) == 3)
        assert len(filled(receiver, stack)) == len(lost)


def test_associations_of_workers_that_were_replaced_count_until_they_end(start: Callable[..., Receiver]) -> None:
    receiver = start(associations_at_once=str(MOST), idle_timeout="600")
    with contextlib.ExitStack() as stack:
        accepted = filled(receiver, stack)
        receiver.process.send_signal(signal.SIGHUP)
        receiver.until("all are replaced", lambda: '"replaced"' in receiver.log.read_text())
        assert filled(receiver, stack) == []
        accepted[0].close()
        receiver.until("one has gone", lambda: "connection lost" in receiver.log.read_text())
        assert len(filled(receiver, stack)) == 1
