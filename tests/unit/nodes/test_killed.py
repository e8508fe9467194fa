"""PACS-5: a dispatcher that is killed in the middle of a transfer loses nothing, and sends nothing twice that was noted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from .conftest import PATIENCE, Scripted, Site, until

EXCHANGE = """
import sys, threading
from pathlib import Path
from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.settings import Settings
from insitu_services.dispatcher.exchange import Exchange
from insitu_services.dispatcher.transfers import TransferCarrier
settings = Settings(home=Path(sys.argv[1]), transfer_retry=0.2)
database, stopping = Database(sys.argv[2]), threading.Event()
archive = Archive(database, FileBlobStore(settings.blobs), settings)
carrier = TransferCarrier(settings, database, archive, stopping)
Exchange(settings, database, {"transfer": carrier.carry}, stopping).start()
stopping.wait()
"""


def test_a_killed_dispatcher_loses_an_object_or_sends_one_again_that_was_noted(
    site: Site, scripted: Scripted, database_dsn: str, tmp_path: Path
) -> None:
    study, uids = site.study(8)
    fourth, release = threading.Event(), threading.Event()
    asked: Counter[str] = Counter()

    def answer(uid: str) -> int:
        asked[uid] += 1
        if len(asked) == 4 and not release.is_set():
            fourth.set()
            release.wait(PATIENCE)
        return 0

    scripted.answer = answer
    scripted.start()
    site.node(ae_title="PEER", host="127.0.0.1", port=scripted.port, maximum_associations=2)
    transfer = site.send(study)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INSITU_")}
    process = subprocess.Popen([sys.executable, "-c", EXCHANGE, str(site.settings.home), database_dsn], env=environment)
    try:
        assert fourth.wait(PATIENCE), "the fourth object is on its way"
    finally:
        process.kill()
        process.wait(PATIENCE)
        release.set()
    row = site.transfer(transfer)
    noted = {uid for uid, item in row["objects"].items() if item["state"] == "sent"}
    assert (row["state"], len(noted)) == ("queued", 3)
    with site.database.transaction() as connection:  # as after the 30 seconds of the killed one's lease
        connection.execute("UPDATE transfer SET leased_until = now() WHERE leased_until > now()")
    with site.exchanging():
        row = until(lambda: (r := site.transfer(transfer))["state"] == "done" and r, "another has taken over")
    assert row["sent"] == 8
    assert set(scripted.received) == set(uids)
    assert {uid: asked[uid] for uid in noted} == dict.fromkeys(noted, 1)
    assert sum(asked.values()) <= 9, "only the object on its way at the kill may go out twice"


def test_a_dispatcher_that_stops_keeps_its_work_or_counts_the_stop_as_a_failure(site: Site, scripted: Scripted) -> None:
    study, uids = site.study(4)
    second, release = threading.Event(), threading.Event()
    asked: Counter[str] = Counter()

    def answer(uid: str) -> int:
        asked[uid] += 1
        if len(asked) == 2 and not release.is_set():
            second.set()
            release.wait(PATIENCE)
        return 0

    scripted.answer = answer
    scripted.start()
    site.node(ae_title="PEER", host="127.0.0.1", port=scripted.port)
    with site.exchanging() as exchange:
        transfer = site.send(study)
        assert second.wait(PATIENCE)
        stop = threading.Thread(target=exchange.stop)
        stop.start()
        until(exchange._stopping.is_set, "it has been told to stop")
        release.set()
        stop.join(PATIENCE)
        row = until(lambda: not (r := site.transfer(transfer))["active"] and r, "it is given back")
    assert (row["state"], row["sent"], row["waiting"], row["attempts"]) == ("queued", 2, 2, 0), row
    with site.exchanging():
        assert site.ended(transfer)["state"] == "done"
    assert asked == dict.fromkeys(uids, 1), "nothing goes twice"
