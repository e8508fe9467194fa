"""Receiver processes are replaced without an association being lost, refused or hurried (OPS-6)."""

from __future__ import annotations

import concurrent.futures
import signal
from collections.abc import Callable
from pathlib import Path

from pydicom.data import get_testdata_file
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from tests.tools import needs_program

from .conftest import Receiver

OBJECT = str(get_testdata_file("CT_small.dcm"))

pytestmark = needs_program("echoscu", "dcmtk")


def replaced(receiver: Receiver, before: set[int]) -> Callable[[], bool]:
    """Whether new workers are there and none of the earlier ones."""
    return lambda: bool(receiver.workers()) and not before & {worker.pid for worker in receiver.workers()}


def test_a_restart_loses_no_association_neither_open_nor_coming(receiver: Receiver) -> None:
    entity = AE(ae_title="LONG")
    entity.add_requested_context(Verification)
    long = entity.associate("127.0.0.1", receiver.port)
    assert long.is_established
    restarts = 2
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(restarts):
            before = {worker.pid for worker in receiver.workers()}
            said = receiver.log.read_text().count('"replaced"')
            receiver.process.send_signal(signal.SIGHUP)
            going = True
            while going:
                going = receiver.log.read_text().count('"replaced"') == said
                calls = [pool.submit(receiver.storescu, "-aet", "SHORT", OBJECT) for _ in range(2)]
                assert all(call.result().returncode == 0 for call in calls), receiver.log.read_text()
                assert long.send_c_echo().Status == 0
            assert before != {worker.pid for worker in receiver.workers()}
    receiver.until("the workers that serve nobody any more have ended", lambda: len(receiver.workers()) == 3)
    assert long.send_c_echo().Status == 0  # by the third, which stays for it beside two new ones
    long.release()
    receiver.until("the earlier worker has ended", lambda: len(receiver.workers()) == 2)
    assert receiver.stop() == 0


def test_what_stays_open_beyond_the_limit_is_aborted(start: Callable[..., Receiver]) -> None:
    receiver = start(drain_seconds="0.5")
    entity = AE(ae_title="IDLE")
    entity.add_requested_context(Verification)
    idle = entity.associate("127.0.0.1", receiver.port)
    assert idle.is_established
    before = {worker.pid for worker in receiver.workers()}
    receiver.process.send_signal(signal.SIGHUP)
    receiver.until("all are replaced", replaced(receiver, before))
    receiver.until("the idle association is aborted", lambda: idle.is_aborted)


def test_new_settings_are_taken_and_unusable_ones_change_nothing(receiver: Receiver) -> None:
    file = Path(receiver.home, "insitu.yaml")
    before = {worker.pid for worker in receiver.workers()}
    file.write_text("receiver_processes: none\n")
    receiver.process.send_signal(signal.SIGHUP)
    receiver.until("it says so", lambda: "the receiver is not replaced" in receiver.log.read_text())
    assert {worker.pid for worker in receiver.workers()} == before
    file.write_text("receiver_processes: 3\n")
    receiver.process.send_signal(signal.SIGHUP)
    receiver.until("all are replaced", replaced(receiver, before))
    receiver.until("there are three", lambda: len(receiver.workers()) == 3)
    assert receiver.storescu(OBJECT).returncode == 0


def test_a_killed_worker_is_replaced_also_after_a_restart(receiver: Receiver) -> None:
    before = {worker.pid for worker in receiver.workers()}
    receiver.process.send_signal(signal.SIGHUP)
    receiver.until("all are replaced", replaced(receiver, before))
    receiver.until("both are there", lambda: len(receiver.workers()) == 2)
    victim = receiver.workers()[0]
    victim.kill()
    receiver.until("it is replaced", lambda: len(receiver.workers()) == 2 and not victim.is_running())
    assert receiver.storescu(OBJECT).returncode == 0
