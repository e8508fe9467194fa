"""A receiver that is asked to end takes nothing new, lets the open associations end, and ends with the last."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE, Association
from pynetdicom.sop_class import CTImageStorage, Verification

from .conftest import Receiver


def association(receiver: Receiver) -> Association:
    """An open association of a peer that takes its time."""
    entity = AE(ae_title="LONG")
    entity.add_requested_context(Verification)
    entity.add_requested_context(CTImageStorage)
    opened = entity.associate("127.0.0.1", receiver.port)
    assert opened.is_established
    return opened


def refused(receiver: Receiver) -> bool:
    """Whether nobody listens on the port any more."""
    try:
        socket.create_connection(("127.0.0.1", receiver.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("settings", [{"launcher": "kubernetes"}, {"stop_seconds": "600"}])
def test_pod_that_is_replaced_closes_its_port_and_cuts_nobody_off(
    start: Callable[..., Receiver], settings: dict[str, str]
) -> None:
    receiver = start(**settings)
    long = association(receiver)
    receiver.process.send_signal(signal.SIGTERM)
    receiver.until("the port is closed", lambda: refused(receiver))
    time.sleep(4)  # longer than a hurried end takes
    assert receiver.process.poll() is None
    assert long.send_c_store(dcmread(get_testdata_file("CT_small.dcm"))).Status == 0
    assert receiver.count("instance") == 1
    began = time.monotonic()
    long.release()
    assert receiver.process.wait(timeout=60) == 0
    assert time.monotonic() - began < 10, "it waits although nobody is left"


def test_second_request_ends_the_wait(start: Callable[..., Receiver]) -> None:
    receiver = start(stop_seconds="600")
    idle = association(receiver)
    receiver.process.send_signal(signal.SIGTERM)
    receiver.until("the port is closed", lambda: refused(receiver))
    receiver.process.send_signal(signal.SIGTERM)
    assert receiver.process.wait(timeout=30) == 0
    idle.abort()


def test_wait_has_an_end(start: Callable[..., Receiver]) -> None:
    receiver = start(launcher="kubernetes", drain_seconds="1")
    idle = association(receiver)
    began = time.monotonic()
    assert receiver.stop() == 0
    assert time.monotonic() - began < 20
    idle.abort()


def test_probe_of_the_port_is_no_association_and_no_warning(receiver: Receiver) -> None:
    for _ in range(5):
        socket.create_connection(("127.0.0.1", receiver.port), timeout=5).close()
    long = association(receiver)
    assert long.send_c_echo().Status == 0
    long.release()
    assert receiver.stop() == 0
    assert [line for line in receiver.log.read_text().splitlines() if '"level": "info"' not in line] == []
