"""Random rounds: several senders at work, one fault at a random moment, mending, every invariant, then what is left is sent again.

All choices come from the seed; the moment within the processes is the machine's. Not here: the invariants (check).
"""

from __future__ import annotations

import errno
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import check, objects, power, senders
from .faults import GROWING, NAMING, SYNC, Faults, Operation
from .ledger import Ledger
from .objects import Load
from .senders import FRAGMENT, Progress
from .site import PATIENCE, Service, Site, kill, until

TRIES = 5  # of what was not acknowledged


@dataclass
class Fault:
    """One fault of one round.

    Attributes
    ----------
    before : callable
        Sets what waits for its moment, before anything is sent.
    strike : callable
        Does it, in the middle of sending.
    after : callable
        When all senders have ended: waits for what needs no sender, and sees that it did happen.
    """

    before: Callable[[], None] = lambda: None
    strike: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None


Make = Callable[[Site, random.Random, Load, float], Fault]


def _killed(*names: str) -> Make:
    """Processes are killed with all below them."""

    def make(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
        def strike() -> None:
            assert len(site.kill(*names)) >= len(names)

        return Fault(strike=strike)

    return make


def _worker(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
    """One of the receiver's workers is killed."""

    def strike() -> None:
        kill([choice.choice(sorted(site.workers(), key=lambda worker: worker.pid))])

    return Fault(strike=strike)


def _parent(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
    """The receiver's parent is killed alone; its workers must not stay."""

    def strike() -> None:
        workers = site.workers()
        kill([site.processes["receiver"]])
        until("the workers have ended", lambda: not any(worker.alive for worker in workers))

    return Fault(strike=strike)


def _backend(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
    """One process of PostgreSQL that serves a connection is killed; the server starts itself again."""

    def strike() -> None:
        backends = site.server.backends(site.name)
        assert backends, "nobody is connected"
        killed = choice.choice(backends)
        others = [service for service in site.server.postmaster.children() if service.pid != killed.pid]
        kill([killed])
        # The server notices in its own time; until then it answers as if nothing had happened.
        until("PostgreSQL ends its other processes", lambda: not all(service.alive for service in others))

    return Fault(strike=strike)


def _postgres(*, children: bool) -> Make:
    """PostgreSQL is killed."""

    def make(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
        return Fault(strike=lambda: site.server.kill(children=children))

    return make


def _everything(site: Site) -> None:
    first = site.server.postmaster
    ours = [member for name in site.processes for member in site.tree(name)]
    kill([*ours, first, *first.children()])
    site.kill(*site.processes)
    site.server.kill(children=True)  # sees that PostgreSQL has ended


def _all(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
    """Everything is killed at once."""
    return Fault(strike=lambda: _everything(site))


def _power(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
    """Everything is killed, and of the blobs all is taken away that was not synchronised."""

    def before() -> None:
        for faults in site.faults.values():
            faults.record()

    def strike() -> None:
        _everything(site)
        recorded = [faults.recorded() for faults in site.faults.values()]
        assert any(recorded), "nothing was written"
        for entries in recorded:
            power.lose(entries)

    return Fault(before, strike)


def _stopped(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
    """All of PostgreSQL stands still for a while."""

    def strike() -> None:
        first = site.server.postmaster
        stopped: dict[int, Service] = {}
        first.signal(signal.SIGSTOP)  # so that it makes no new ones
        for service in [first, *first.children()]:
            service.signal(signal.SIGSTOP)
            stopped[service.pid] = service
        time.sleep(stop)
        states = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in stopped}
        for service in stopped.values():
            service.signal(signal.SIGCONT)
        assert states == {"T"}, f"PostgreSQL did not stand still: {states}"

    return Fault(strike=strike)


def _fired(faults: Faults) -> Callable[[], None]:
    def after() -> None:
        until("the fault happens", lambda: faults.fired)
        faults.off()

    return after


def _at_call(name: str) -> Make:
    """A process of ours ends itself by SIGKILL before a call that changes blobs."""

    def make(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
        faults = site.faults[name]
        at = choice.randint(1, _calls(load, name, 5))
        there: list[Service] = []
        fired = _fired(faults)

        def before() -> None:
            there.extend(site.tree(name))
            faults.kill(at)

        def after() -> None:
            fired()
            # It says that it will, and then needs a moment; who looked too soon would not start it again.
            until("the process has ended", lambda: any(not process.alive for process in there))

        return Fault(before=before, after=after)

    return make


def _calls(load: Load, name: str, each: int) -> int:
    """Calls that are made at least: `each` for every new object that comes this way."""
    parts = {"receiver": load.associations, "api": load.requests}.get(name)
    return 2 if parts is None else max(1, each * sum(len(part) for part in parts))


def _failing(name: str, operations: tuple[Operation, ...], error: int, each: int, below: str = "") -> Make:
    """A call that changes blobs fails once."""

    def make(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
        faults = site.faults[name]
        at = 1 if name == "dispatcher" else choice.randint(1, _calls(load, name, each))
        folder = faults.prefix / below if below else None
        return Fault(before=lambda: faults.fail(at, operations, error, below=folder), after=_fired(faults))

    return make


def _disk_full(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
    """The disk of the blobs is full from a moment on, for everyone, until the senders have ended."""
    at = choice.randint(1, _calls(load, "receiver", 3))

    def before() -> None:
        for name, faults in site.faults.items():
            faults.fail(at if name == "receiver" else 1 + at // 4, GROWING, errno.ENOSPC, on=True)

    def after() -> None:
        until("the disk is full", lambda: site.faults["receiver"].fired)
        for faults in site.faults.values():
            faults.off()

    return Fault(before=before, after=after)


def _database_at_call(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
    """A process of PostgreSQL ends itself by SIGKILL before it writes or synchronises its log."""
    faults = site.server.faults
    at = choice.randint(1, 2 + len(load.items) // 4)
    operations = (Operation.WRITE, *SYNC)
    return Fault(before=lambda: faults.kill(at, operations, below=faults.prefix / "pg_wal"), after=_fired(faults))


def _database_failing(operations: tuple[Operation, ...], error: int, below: str, *, on: bool = False) -> Make:
    """A call of PostgreSQL fails; where it is its log, the server stops in a panic and recovers."""

    def make(site: Site, choice: random.Random, load: Load, stop: float) -> Fault:
        faults = site.server.faults
        at = choice.randint(1, 1 + len(load.items) // 6)
        return Fault(
            before=lambda: faults.fail(at, operations, error, on=on, below=faults.prefix / below if below else None),
            after=_fired(faults),
        )

    return make


KINDS: dict[str, Make] = {
    "worker killed": _worker,
    "receiver killed": _killed("receiver"),
    "receiver's parent killed": _parent,
    "api killed": _killed("api"),
    "dispatcher killed": _killed("dispatcher"),
    "PostgreSQL backend killed": _backend,
    "postmaster killed": _postgres(children=False),
    "PostgreSQL killed": _postgres(children=True),
    "all killed": _all,
    "power lost": _power,
    "PostgreSQL stopped": _stopped,
    "receiver killed at a call": _at_call("receiver"),
    "api killed at a call": _at_call("api"),
    "dispatcher killed at a call": _at_call("dispatcher"),
    "PostgreSQL killed at a call": _database_at_call,
    "fsync fails (receiver)": _failing("receiver", SYNC, errno.EIO, 1),
    "fsync fails (api)": _failing("api", SYNC, errno.EIO, 1),
    "write fails (receiver)": _failing("receiver", (Operation.WRITE,), errno.EIO, 1),
    "write fails (api)": _failing("api", (Operation.WRITE,), errno.ENOSPC, 1),
    "open fails (receiver)": _failing("receiver", (Operation.OPEN,), errno.EIO, 1),
    "naming fails (receiver)": _failing("receiver", NAMING, errno.EIO, 1),
    "journal fails (dispatcher)": _failing("dispatcher", (Operation.WRITE, *SYNC, *NAMING), errno.EIO, 1),
    "disk full": _disk_full,
    "PostgreSQL's fsync fails": _database_failing(SYNC, errno.EIO, "pg_wal"),
    "PostgreSQL's write fails": _database_failing((Operation.WRITE,), errno.EIO, "pg_wal"),
    "PostgreSQL's disk full": _database_failing((Operation.WRITE,), errno.ENOSPC, "", on=True),
}


@dataclass
class Tally:
    """What rounds did.

    Attributes
    ----------
    rounds : Counter
        By kind of fault.
    wrong : list of str
        What is not as it must be.
    again : int
        Objects that were sent again.
    seconds : dict of str to float
        Where the time went, by phase.
    """

    rounds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    again: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def play(
    site: Site, ledger: Ledger, choice: random.Random, kind: str, tally: Tally, *, stop: float = 3.0, wide: int = 1
) -> None:
    """One round of a kind of fault.

    Parameters
    ----------
    stop : float
        Seconds PostgreSQL is stopped where that is the fault.
    wide : int
        So many times more objects.
    """
    associations = choice.randint(1, 4)
    requests = choice.randint(1, 2) if "api" in kind else choice.randint(0, 1)
    load = objects.load(choice, ledger.known(), associations, requests, choice.randint(3, 6) * wide)
    steps = sum(2 + len(item.data) // FRAGMENT for item in load.items)
    progress = Progress(choice.randint(1, max(1, steps * 3 // 4)))
    delay, pause = choice.random() * 0.02, choice.random() * 0.2
    fault = KINDS[kind](site, choice, load, stop)
    ledger.will_send(load.items)
    fault.before()
    threads = [
        *(
            threading.Thread(target=senders.store, args=(site.dicom_port, part, ledger.report, progress.tick))
            for part in load.associations
        ),
        *(
            threading.Thread(target=senders.stow, args=(site.url, site.token, part, ledger.report, progress.tick))
            for part in load.requests
        ),
    ]
    with tally.phase("send"):
        for thread in threads:
            thread.start()
        while not progress.reached.wait(0.01) and any(thread.is_alive() for thread in threads):
            if site.server.gone:  # by a fault that was set before
                break
        time.sleep(delay)  # so that the moment falls between the steps of a sender, too
    try:
        with tally.phase("strike"):
            fault.strike()
        with tally.phase("mend"):
            time.sleep(pause)
            _mend_database(site)
        with tally.phase("senders end"):
            for thread in threads:
                thread.join(PATIENCE + stop)
                assert not thread.is_alive(), "a sender has neither answer nor end"
        with tally.phase("fault happens"):
            fault.after()
    finally:
        for faults in (*site.faults.values(), site.server.faults):
            faults.off()
    with tally.phase("start"):
        site.start()
    tally.rounds[kind] += 1
    with tally.phase("check"):
        wrong = check.acknowledged(site, ledger, load.items) + check.events(site)
    left = [item for item in load.items if not ledger.settled(item)]
    tally.again += len(left)
    with tally.phase("send again"):
        for _ in range(TRIES):  # as a sender does that is told to try again later
            site.server.start()
            senders.store(site.dicom_port, [item for item in left if not ledger.settled(item)], ledger.report)
            if all(ledger.settled(item) for item in left):
                break
    wrong += [f"object {item.sop} cannot be sent again" for item in left if not ledger.settled(item)]
    with tally.phase("check and fetch"):
        wrong += check.acknowledged(site, ledger, load.items, fetched=3)
    tally.wrong += [f"{kind}: {one}" for one in wrong]


def _mend_database(site: Site) -> None:
    """Start PostgreSQL again where it is gone, as the supervisor does; a fault on its disk may keep it down until that is over."""
    faults = site.server.faults
    if not faults.active:
        site.server.start()
        return
    deadline = time.monotonic() + PATIENCE
    while not faults.fired and time.monotonic() < deadline and not site.server.gone:
        time.sleep(0.01)
    time.sleep(0.3)
    faults.off()
    site.server.start()
