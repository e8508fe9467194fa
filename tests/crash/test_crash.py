"""Nothing acknowledged is lost: the short run. The long one is `make soak`."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from . import check, deletions, objects, power, senders
from .faults import SYNC, Entry, Operation
from .ledger import Ledger
from .rounds import Tally, play
from .senders import Answer
from .site import ROOT, Service, Site, until
from .sweep import WAYS, sweep

pytestmark = [
    pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="there is no C compiler"),
    pytest.mark.timeout(1200),
]

SEED = 20261128
SHORT = (
    "worker killed",
    "PostgreSQL backend killed",
    "all killed",
    "power lost",
    "receiver's parent killed",
    "disk full",
    "fsync fails (receiver)",
    "PostgreSQL stopped",
    "postmaster killed",
    "api killed",
    "PostgreSQL's fsync fails",
    "dispatcher killed at a call",
    "api killed at a call",
    "PostgreSQL's disk full",
    "naming fails (receiver)",
    "power lost",
)


def test_a_fault_at_any_call_of_the_write_path_loses_nothing(make: Callable[..., Site]) -> None:
    with make() as site:
        ledger = Ledger()
        done = sweep(site, ledger, random.Random(SEED))
        assert done.wrong == []
        assert len(done.calls) == 2 * len(WAYS)
        assert ledger.answers[Answer.REFUSED] > 20
        assert ledger.answers[Answer.UNKNOWN] > 20
        assert check.everything(site, ledger) == []


def test_faults_at_random_moments_lose_nothing(make: Callable[..., Site]) -> None:
    with make(nameless=False) as site:
        ledger, tally, choice = Ledger(), Tally(), random.Random(SEED)
        for kind in SHORT:
            play(site, ledger, choice, kind, tally)
            assert tally.wrong == []
        assert check.everything(site, ledger) == []
        assert tally.rounds.total() == len(SHORT)
        assert len(ledger.acknowledged) > 50
        assert ledger.answers[Answer.REFUSED] > 0
        assert ledger.answers[Answer.UNKNOWN] > 0


def test_a_deletion_killed_or_failing_at_any_call_happens_as_a_whole_or_not_at_all(make: Callable[..., Site]) -> None:
    with make() as site:
        ledger = Ledger()
        done = deletions.sweep(site, ledger, random.Random(SEED), ("instance",), sends=False)
        assert done.wrong == []
        assert check.everything(site, ledger) == []


def test_the_check_sees_a_loss(make: Callable[..., Site]) -> None:
    choice = random.Random(SEED)
    with make() as site:
        ledger = Ledger()
        study, series = objects.uid(choice), objects.uid(choice)
        items = [objects.image(choice, study, series, number) for number in range(1, 6)]
        ledger.will_send(items)
        senders.store(site.dicom_port, items, ledger.report)
        assert check.completes(site, patient=False) == []
        assert check.acknowledged(site, ledger, fetched=5) == []
        with site.server.connect(site.name) as connection:
            rows = connection.execute("SELECT blob_key FROM instance ORDER BY instance_number").fetchall()
            paths = [site.settings.blobs / row["blob_key"] for row in rows]
            connection.execute("DELETE FROM instance_metadata")
            connection.execute("DELETE FROM instance WHERE sop_instance_uid = %s", (items[0].sop,))
        paths[1].unlink()
        content = paths[2].read_bytes()
        paths[2].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        paths[3].write_bytes(paths[3].read_bytes()[:-2])
        ledger.sent.pop(items[4].key)
        wrong = check.acknowledged(site, ledger)
        for item in items[:4]:
            assert any("LOST" in one and item.sop in one for one in wrong), item.sop
        assert any("nobody sent" in one and items[4].sop in one for one in wrong)
        assert any("does not contain all" in one for one in check.events(site))


def test_a_forgotten_fsync_is_seen_when_the_power_is_lost(make: Callable[..., Site]) -> None:
    choice = random.Random(SEED)
    for forgotten in (True, False):
        with make() as site:
            ledger = Ledger()
            items = [objects.image(choice, objects.uid(choice), objects.uid(choice), 1)]
            site.faults["receiver"].record()
            ledger.will_send(items)
            senders.store(site.dicom_port, items, ledger.report)
            assert ledger.answers == {Answer.ACKNOWLEDGED: 1}
            site.kill("receiver")
            entries = site.faults["receiver"].recorded()
            power.lose([one for one in entries if not (forgotten and one.operation in SYNC)])
            wrong = check.acknowledged(site, ledger)
            assert any("LOST" in one for one in wrong) == forgotten, wrong


def test_only_what_was_written_while_it_was_noted_is_lost_with_the_power(tmp_path: Path) -> None:
    file = tmp_path / "entry"
    file.write_bytes(b"content")
    inode = file.stat().st_ino
    wrote = Entry(Operation.WRITE, inode, 7, str(file))
    safe = Entry(Operation.FSYNC, inode, 7, str(file))
    named = [
        Entry(Operation.LINK, inode, 7, str(file)),
        Entry(Operation.FSYNC, tmp_path.stat().st_ino, 0, str(tmp_path)),
    ]
    assert power.lose(named) == []  # it may have been made durable before the record began
    assert power.lose([wrote, safe, *named]) == []
    assert file.read_bytes() == b"content"
    assert power.lose([wrote, *named]) == [str(file)]
    assert file.read_bytes() == b""


def test_a_folder_whose_fsync_failed_is_made_durable_before_the_next_success(make: Callable[..., Site]) -> None:
    choice = random.Random(SEED)
    with make() as site:
        ledger, faults = Ledger(), site.faults["receiver"]
        series, study = objects.uid(choice), objects.uid(choice)
        items = [objects.image(choice, study, series, number) for number in (1, 2)]
        ledger.will_send(items)
        faults.record()
        faults.fail(1, SYNC, below=site.settings.blobs / "objects")
        senders.store(site.dicom_port, items, ledger.report)
        faults.off()
        assert faults.fired == 1
        assert ledger.answers == {Answer.REFUSED: 1, Answer.ACKNOWLEDGED: 1}
        site.kill("receiver")
        power.lose(faults.recorded())
        assert check.acknowledged(site, ledger) == []


def test_a_database_whose_recovery_fails_on_the_full_disk_ends_and_heals_when_it_is_started_again(
    make: Callable[..., Site],
) -> None:
    choice = random.Random(SEED)
    with make() as site:
        ledger, server = Ledger(), site.server
        items = [objects.image(choice, objects.uid(choice), objects.uid(choice), 1)]
        ledger.will_send(items)
        server.faults.fail(1, (Operation.WRITE,), errno.ENOSPC, on=True)
        sender = threading.Thread(target=senders.store, args=(site.dicom_port, items, ledger.report))
        sender.start()
        # Left alone it would stay "in recovery mode" for ever, also when there is space again.
        until("PostgreSQL ends where it cannot recover", lambda: server.gone, seconds=60)
        server.faults.off()
        site.start()
        sender.join()
        assert check.acknowledged(site, ledger) == []
        senders.store(site.dicom_port, items, ledger.report)
        assert ledger.answers[Answer.ACKNOWLEDGED] >= 1
        assert check.acknowledged(site, ledger, fetched=1) == []


# All of PostgreSQL stands still, so that it cannot see that its parent is gone.
HARNESS = """
import json, signal, time
from tests.crash.site import bench
with bench() as make, make() as site:
    database = [site.server.postmaster, *site.server.postmaster.children()]
    for one in database:
        one.signal(signal.SIGSTOP)
    started = [*database, *(one for name in site.processes for one in site.tree(name))]
    print(json.dumps({"folder": str(site.server.folder), "started": [one.pid for one in started]}), flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_where_the_harness_itself_is_killed() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-c", HARNESS], stdout=subprocess.PIPE, text=True, env=environment
    ) as harness:
        assert harness.stdout is not None
        told = json.loads(harness.stdout.readline())
        started = [Service(pid) for pid in told["started"]]
        assert len(started) > 10
        assert all(one.alive for one in started)
        harness.kill()
        until("all that it started has ended", lambda: not any(one.alive for one in started))
    until("its folder is removed", lambda: not Path(told["folder"]).exists())
