"""Nothing acknowledged is lost on a real disk that is full or read-only, and it heals without hands when it is neither."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disks import Disk, small_disk

from . import check, objects, senders
from .ledger import Ledger
from .objects import Item
from .senders import Answer, Progress
from .site import PATIENCE, Site, bench

pytestmark = [
    pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="there is no C compiler"),
    pytest.mark.timeout(600),
]
SEED = 20261128
BLOBS, DATABASE = 64, 384  # megabytes


@pytest.fixture(scope="module", autouse=True)
def _may_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    with small_disk(tmp_path_factory.mktemp("mounted"), 1):
        pass


def _series(choice: random.Random, count: int, side: int = 600) -> list[Item]:
    study, series = objects.uid(choice), objects.uid(choice)
    return [objects.image(choice, study, series, number, side=side) for number in range(1, count + 1)]


def _send(
    site: Site, ledger: Ledger, parts: list[list[Item]], request: list[Item], progress: Progress
) -> list[threading.Thread]:
    """Send objects over an association each and by one request, in threads."""
    ledger.will_send([item for part in (*parts, request) for item in part])
    threads = [
        threading.Thread(target=senders.store, args=(site.dicom_port, part, ledger.report, progress.tick))
        for part in parts
    ]
    threads.append(
        threading.Thread(target=senders.stow, args=(site.url, site.token, request, ledger.report, progress.tick))
    )
    for thread in threads:
        thread.start()
    return threads


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a sender has neither answer nor end"


def _again(site: Site, ledger: Ledger) -> None:
    """Everything that was refused can be sent now, with nobody having touched the platform."""
    for tries in (False, False, True):
        left = [item for item in ledger.sent.values() if not ledger.settled(item)]
        senders.store(site.dicom_port, left, ledger.report)
        if tries:
            assert all(ledger.settled(item) for item in left)
    assert check.acknowledged(site, ledger, fetched=5) == []


def test_a_full_disk_of_the_blobs_refuses_objects_and_heals_with_the_space(make: Callable[..., Site]) -> None:
    choice, ledger = random.Random(SEED), Ledger()
    site = make(disk_reserve="0")
    with Disk(site.settings.blobs, BLOBS) as disk, site:
        known = _series(choice, 2)
        ledger.will_send(known)
        senders.store(site.dicom_port, known, ledger.report)
        assert ledger.answers == {Answer.ACKNOWLEDGED: 2}
        for leave in (0, 200_000, 2_000_000):  # nothing, a receipt, some of the objects
            refused = ledger.answers[Answer.REFUSED]
            disk.fill(leave)
            _join(_send(site, ledger, [_series(choice, 3) for _ in range(3)], _series(choice, 3), Progress(1)))
            assert ledger.answers[Answer.REFUSED] > refused + 5
            assert ledger.answers[Answer.UNKNOWN] == ledger.answers[Answer.ASIDE] == 0, "senders are told, not cut off"
            assert check.acknowledged(site, ledger, fetched=2) == []
            disk.free()
            _again(site, ledger)
        assert check.everything(site, ledger) == []


def test_a_disk_that_becomes_read_only_refuses_objects_and_heals_with_it(make: Callable[..., Site]) -> None:
    choice, ledger = random.Random(SEED), Ledger()
    site = make()
    with Disk(site.settings.blobs, 700) as disk, site:
        progress = Progress(30)
        threads = _send(site, ledger, [_series(choice, 12, 300) for _ in range(3)], _series(choice, 2), progress)
        progress.reached.wait(PATIENCE)
        disk.read_only()
        _join(threads)
        assert ledger.answers[Answer.REFUSED] > 5
        assert ledger.answers[Answer.UNKNOWN] == ledger.answers[Answer.ASIDE] == 0, "senders are told, not cut off"
        assert check.acknowledged(site, ledger, fetched=2) == [], "what is there can be read"
        disk.writable()
        _again(site, ledger)
        assert check.everything(site, ledger) == []


def test_a_full_disk_of_the_database_loses_nothing_also_where_all_is_killed_on_it() -> None:
    choice, ledger, disks = random.Random(SEED), Ledger(), []

    def mount(folder: Path) -> None:
        disks.append(Disk(folder / "database", DATABASE, 0o700))

    with bench(before=mount) as make, disks[0] as disk, make() as site:
        disk.fill()
        for _ in range(60):
            _join(_send(site, ledger, [_series(choice, 5, 16) for _ in range(2)], _series(choice, 2, 16), Progress(1)))
            if ledger.answers[Answer.REFUSED]:
                break
        assert ledger.answers[Answer.REFUSED] > 0
        site.kill(*site.processes)
        site.server.kill(children=True)
        disk.fill()
        site.server.try_to_start()
        time.sleep(2)
        disk.free()
        site.start()
        assert check.acknowledged(site, ledger) == []
        _again(site, ledger)
        assert check.everything(site, ledger) == []
