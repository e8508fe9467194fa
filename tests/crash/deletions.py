"""The systematic pass over deletion: the api is killed before every call that a deletion makes, or the call fails.

A deletion has then not happened, or is finished by whoever finishes what the killed began; nothing else is touched. Not here: that a
rebuild does not bring back what was deleted, which the check at the end of a site sees (check.rebuilds).
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass

import httpx

from insitu.archive import deletion, journal
from insitu.archive.blobs import FileBlobStore
from insitu.database import Database

from . import check, objects, senders
from .faults import ALL, Operation
from .ledger import Ledger
from .objects import Item
from .senders import CONTEXT, Answer
from .site import PATIENCE, Site, until
from .sweep import MOST, Sweep

LEVELS = ("study", "series", "instance")
FEWEST = 6  # calls at least: the entry of the journal and the blobs
REASON = "the crash harness deletes this"


@dataclass
class Case:
    """A study of two series, what is to be deleted of it, and the keys of its blobs."""

    level: str
    going: list[Item]
    staying: list[Item]
    keys: list[str]

    @property
    def uid(self) -> str:
        """What is to be deleted."""
        first = self.going[0]
        return {"study": first.study, "series": first.series, "instance": first.sop}[self.level]


def sweep(
    site: Site, ledger: Ledger, choice: random.Random, levels: tuple[str, ...] = LEVELS, *, sends: bool = True
) -> Sweep:
    """Break every call of a deletion on each level, one after the other; check after each. What stays is noted in `ledger`.

    With `sends` the api is also killed before everything that it asks of PostgreSQL or answers.
    """
    found = Sweep()
    for level in levels:
        for lethal in (False, True):
            name = f"{level} deleted, {'killed' if lethal else 'failed'}"
            found.calls[name] = _calls(site, ledger, choice, level, lethal, sends, found.wrong)
    return found


def _calls(
    site: Site, ledger: Ledger, choice: random.Random, level: str, lethal: bool, sends: bool, wrong: list[str]
) -> int:
    faults = site.faults["api"]
    for at in range(1, MOST):
        case = _case(site, ledger, choice, level)
        if lethal:
            faults.kill(at, (*ALL, Operation.SEND) if sends else ALL)
        else:
            faults.fail(at, error=errno.ENOSPC if at % 2 else errno.EIO)
        status = _delete(site, case)
        faults.off()
        fired, where = faults.fired, faults.where
        if fired and lethal:
            until("the api is killed", lambda: not site.processes["api"].alive)
            site.start()
        problems = _judge(site, case, status)
        wrong += [
            f"{level} deleted, {'killed before' if lethal else 'failed at'} call {at} ({where}): {one}"
            for one in problems
        ]
        if not fired:
            assert at > FEWEST, f"only {at - 1} calls were seen: the library does not see the deletion"
            return at - 1
    raise AssertionError(f"one deletion took {MOST} calls")


def _case(site: Site, ledger: Ledger, choice: random.Random, level: str) -> Case:
    """Put a study into the archive: two objects and another under the UID of one in a series, one object in a second series."""
    study, series, other = (objects.uid(choice) for _ in range(3))
    first, second = (objects.image(choice, study, series, number, side=16) for number in (1, 2))
    items = [first, objects.another(choice, first), second, objects.image(choice, study, other, 1, side=16)]
    sent = Ledger()
    sent.will_send(items)
    senders.store(site.dicom_port, items, sent.report)
    assert sent.answers == {Answer.ACKNOWLEDGED: len(items)}, sent.answers
    going = items[: {"study": 4, "series": 3, "instance": 2}[level]]
    staying = items[len(going) :]
    ledger.will_send(staying)
    for item in staying:
        ledger.report(item, Answer.ACKNOWLEDGED)
    with site.server.connect(site.name) as connection:
        rows = connection.execute(
            "SELECT blob_key FROM instance WHERE sop_instance_uid = ANY(%(uids)s)"
            " UNION ALL SELECT blob_key FROM conflict WHERE sop_instance_uid = ANY(%(uids)s)",
            {"uids": [item.sop for item in going]},
        ).fetchall()
    keys = [row["blob_key"] for row in rows]
    assert len(keys) == len(going)
    return Case(level, going, staying, keys)


def _delete(site: Site, case: Case) -> int | None:
    """Ask for the deletion; the status of the answer, None where there is none."""
    try:
        answer = httpx.post(
            f"{site.url}/api/v1/archive/deletions", json={case.level: case.uid, "reason": REASON},
            headers={"Authorization": f"Bearer {site.token}"}, timeout=PATIENCE, trust_env=False, verify=CONTEXT,
        )  # fmt: skip
    except httpx.HTTPError:
        return None
    return answer.status_code


def _judge(site: Site, case: Case, status: int | None) -> list[str]:
    """What is wrong after a deletion that was broken, or was not; in the end it has happened."""
    wrong = []
    if 0 < _visible(site, case) < len(case.going):
        wrong.append("a part of what was to go together is visible")
    if status == 200 and _visible(site, case):
        wrong.append("the caller was told that it is gone, and it is visible")
    if status not in (None, 200, 503):
        wrong.append(f"the caller was answered {status}")
    _finish(site)
    if _visible(site, case):
        wrong += _intact(site, case)
        if _delete(site, case) != 200:
            wrong.append("the deletion did not happen, and cannot be asked for again")
    left = _visible(site, case)
    blobs = [key for key in case.keys if (site.settings.blobs / key).exists()]
    if left or blobs:
        wrong.append(f"the deletion is not finished: {left} objects in the index, blobs {blobs}")
    with site.server.connect(site.name) as connection:
        waiting = connection.execute("SELECT count(*) AS n FROM deletion WHERE keys IS NOT NULL").fetchone()
        done = connection.execute(
            "SELECT count(*) AS n FROM deletion WHERE study_instance_uid = %s", (case.going[0].study,)
        ).fetchone()
    if waiting != {"n": 0}:
        wrong.append(f"{waiting} deletions are left in the middle")
    if done != {"n": 1} or _entries(site, case) != 1:
        wrong.append(
            f"it is written down {done} times in the index and {_entries(site, case)} times in the journal, not once"
        )
    kept = Ledger()
    kept.will_send(case.staying)
    for item in case.staying:
        kept.report(item, Answer.ACKNOWLEDGED)
    return wrong + check.acknowledged(site, kept, case.staying) + check.events(site)


def _finish(site: Site) -> None:
    """What the dispatcher does a minute later."""
    database = Database(site.dsn)
    try:
        deletion.finish(database, FileBlobStore(site.settings.blobs), older_than=0)
    finally:
        database.close()


def _visible(site: Site, case: Case) -> int:
    """How many of the objects that go are in the index."""
    with site.server.connect(site.name) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM instance WHERE blob_key = ANY(%(keys)s))"
            " + (SELECT count(*) FROM conflict WHERE blob_key = ANY(%(keys)s)) AS n",
            {"keys": case.keys},
        ).fetchone()
    assert row is not None
    return int(row["n"])


def _intact(site: Site, case: Case) -> list[str]:
    """Whether a deletion that did not happen left everything as it was."""
    all_of_it = Ledger()
    items = case.going + case.staying
    all_of_it.will_send(items)
    for item in items:
        all_of_it.report(item, Answer.ACKNOWLEDGED)
    wrong = check.acknowledged(site, all_of_it, items)
    if _entries(site, case):
        wrong.append("the deletion did not happen, and the journal says that it did")
    return wrong


def _entries(site: Site, case: Case) -> int:
    """Entries of the journal about the deletion."""
    study = case.going[0].study
    folder = site.settings.blobs / journal.PREFIX
    entries = [path.read_bytes() for path in folder.rglob("*.json")]
    return sum(study.encode() in entry and b'"event":"deletion"' in entry for entry in entries)
