"""The systematic pass: one object, and a fault at every single call that changes a file on its way into the archive.

Each kind of object takes another way: new, the same again, another under its UID, unfit. At every call the call fails, or the
receiver's process is killed before it. Not here: random moments and several senders (rounds).
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field

from . import check, objects, senders
from .ledger import Ledger
from .objects import Item
from .site import Site, until

WAYS = ("new", "again", "another", "unfit")
FEWEST = 8  # calls that every way takes at least: receipt and object are written, synchronised and named
MOST = 200


@dataclass
class Sweep:
    """What a pass did.

    Attributes
    ----------
    calls : dict of str to int
        Number of calls that were made to fail, by way and fault.
    wrong : list of str
        What is not as it must be.
    """

    calls: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def _item(choice: random.Random, way: str, first: Item) -> Item:
    if way == "again":
        return first
    if way == "another":
        return objects.another(choice, first)
    return objects.image(choice, objects.uid(choice), objects.uid(choice), 1, fit=way != "unfit")


def sweep(site: Site, ledger: Ledger, choice: random.Random, ways: tuple[str, ...] = WAYS) -> Sweep:
    """Break every call of every way, one after the other; check after each."""
    found = Sweep()
    first = objects.image(choice, objects.uid(choice), objects.uid(choice), 1)
    _send(site, ledger, first)
    for way in ways:
        for lethal in (False, True):
            name = f"{way}, {'killed' if lethal else 'failed'}"
            found.calls[name] = _calls(site, ledger, choice, way, first, lethal, found.wrong)
            found.wrong += check.events(site)
    return found


def _calls(
    site: Site, ledger: Ledger, choice: random.Random, way: str, first: Item, lethal: bool, wrong: list[str]
) -> int:
    """Break call 1, 2, 3 and so on, until the object needs no more; how many there were."""
    faults = site.faults["receiver"]
    for at in range(1, MOST):
        item = _item(choice, way, first)
        if lethal:
            faults.kill(at)
        else:
            faults.fail(at, error=errno.ENOSPC if at % 2 else errno.EIO)
        _send(site, ledger, item)
        faults.off()
        if not faults.fired:
            assert at > FEWEST, f"only {at - 1} calls were seen: the library does not see the write path"
            return at - 1
        if lethal:
            until("the killed worker is gone", lambda: faults.pid not in {worker.pid for worker in site.workers()})
            site.kill("receiver")
            site.start()
        problems = check.acknowledged(site, ledger, [item])
        if not ledger.settled(item):
            _send(site, ledger, item)
            problems += check.acknowledged(site, ledger, [item])
            if not ledger.settled(item):
                problems.append(f"object {item.sop} cannot be sent again")
        wrong += [
            f"{way}, {'killed before' if lethal else 'failed at'} call {at} ({faults.where}): {one}" for one in problems
        ]
    raise AssertionError(f"one object took {MOST} calls")


def _send(site: Site, ledger: Ledger, item: Item) -> None:
    ledger.will_send([item])
    senders.store(site.dicom_port, [item], ledger.report)
