"""A platform of which a part is stopped, killed or replaced: images go on coming in, it is told, and it heals (OPS-6)."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from insitu.processes import ProcessRecord
from tests.site import PATIENCE, Sent, phantom
from tests.system.running import Running
from tests.system.site import LocalSite
from tests.tools import need_program

pytestmark = pytest.mark.system

AIRFLOW = ("airflow-api", "airflow-scheduler", "airflow-dag-processor")


@pytest.fixture(scope="module")
def site(platform_up: Running) -> LocalSite:
    """The running platform, with a rule that runs an algorithm on what is sent to HARD."""
    need_program("storescu", "dcmtk")
    site = LocalSite(platform_up)
    site.ensure_project("hard")
    site.rules(
        {"name": "hard-ct", "when": {"called_ae": "HARD"}, "then": {"project": "hard", "algorithms": [{"name": "ct-tissue"}]}}
    )  # fmt: skip
    return site


def told(site: LocalSite, component: str) -> str:
    """What `insitu status` says of a component; metrics and doctor must agree."""
    shown = json.loads(site.insitu("status", "--json").stdout)["components"][component]
    value = {"ok": "1.0", "degraded": "0.5", "away": "0.0"}[shown["state"]]
    metrics = site.http.get("/metrics").text
    assert f'insitu_component_up{{component="{component}"}} {value}' in metrics
    found = {each["check"]: each["state"] for each in json.loads(site.insitu("doctor", "--json").stdout)}
    assert found[f"running {component}"] == {"ok": "ok", "degraded": "note", "away": "bad"}[shown["state"]]
    for text in (metrics, json.dumps(shown), site.http.get("/readyz").text):
        assert "PHANTOM-1" not in text
        assert "Cube" not in text
    state: str = shown["state"]
    return state


def receiver_of(site: LocalSite) -> ProcessRecord:
    """What the supervisor knows of the receiver."""
    return next(record for record in site.running.state.processes if record.name == "receiver")


def run_on(site: LocalSite, sent: Sent) -> dict[str, Any]:
    """The only run on a series, once there is one."""
    (run,) = site.until(f"a run on {sent.series}", lambda: site.runs_of(sent.series), bool)
    found: dict[str, Any] = run
    return found


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_without_airflow_images_are_received_and_each_run_starts_once_when_it_is_back(
    site: LocalSite, tmp_path: Path, how: signal.Signals
) -> None:
    for name in AIRFLOW:
        site.signal(name, how)
    try:
        series = [phantom(tmp_path / str(number)) for number in range(2)]
        for sent in series:
            site.send(sent, "HARD")
            site.complete(sent.series)
        if how is signal.SIGSTOP:
            site.until("health", lambda: site.component("airflow"), lambda state: state == "degraded")
            assert site.http.get("/readyz").status_code == 200
            assert told(site, "airflow") == "degraded"
            assert {run_on(site, sent)["state"] for sent in series} <= {"requested", "submitted"}
    finally:
        if how is signal.SIGSTOP:
            for name in AIRFLOW:
                site.signal(name, signal.SIGCONT)
    for sent in series:
        run = site.finished(run_on(site, sent)["execution"])
        assert run["state"] == "succeeded", run["reason"]
        assert [event["stage"] for event in run["history"]].count("algorithm") == 1
        assert len(run["results"]) == 2
        assert len(site.runs_of(sent.series)) == 1
    site.until("health", lambda: site.component("airflow"), lambda state: state == "ok")


def test_with_a_stopped_dispatcher_images_are_received_and_their_series_complete_afterwards(
    site: LocalSite, tmp_path: Path
) -> None:
    sent = phantom(tmp_path)
    site.signal("dispatcher", signal.SIGSTOP)
    try:
        site.send(sent, "HARD")
        site.until("health", lambda: site.component("dispatcher"), lambda state: state == "degraded")
        assert site.http.get("/readyz").status_code == 200
        assert told(site, "dispatcher") == "degraded"
        assert site.get(f"/api/v1/series/{sent.series}")["state"] != "complete"
    finally:
        site.signal("dispatcher", signal.SIGCONT)
    site.complete(sent.series)
    assert site.finished(run_on(site, sent)["execution"])["state"] == "succeeded"
    site.until("health", lambda: site.component("dispatcher"), lambda state: state == "ok")


def test_without_the_api_images_are_received_and_it_comes_back(site: LocalSite, tmp_path: Path) -> None:
    sent = phantom(tmp_path)
    site.signal("api", signal.SIGKILL)
    site.send(sent)
    site.complete(sent.series)
    site.until("health", lambda: site.http.get("/readyz").json()["status"], lambda status: status == "ok")


def test_a_killed_database_comes_back_and_everything_with_it(site: LocalSite, tmp_path: Path) -> None:
    before, sent = phantom(tmp_path / "before"), phantom(tmp_path / "after")
    site.send(before, "HARD")
    site.signal("postgres", signal.SIGKILL)
    began = time.monotonic()

    def sends() -> bool:
        site.send(sent, "HARD")
        return True

    site.until("the sender's success", sends, bool)
    print(f"objects were taken again after {time.monotonic() - began:.1f} s")
    site.until("health", lambda: site.component("database"), lambda state: state == "ok")
    for each in (before, sent):
        site.complete(each.series)
        assert site.finished(run_on(site, each)["execution"])["state"] == "succeeded"
    assert told(site, "database") == "ok"


def test_a_process_that_a_dead_database_leaves_does_not_keep_the_next_from_starting(
    site: LocalSite, tmp_path: Path
) -> None:
    first = psutil.Process(next(record.pid for record in site.running.state.processes if record.name == "postgres"))
    left = first.children()[0]
    left.suspend()  # as one that waits for ever for what a dead one held; it keeps the shared memory in use
    first.kill()
    sent = phantom(tmp_path)

    def sends() -> bool:
        site.send(sent, "HARD")
        return True

    site.until("the sender's success", sends, bool)
    assert not left.is_running()
    site.until("health", lambda: site.component("database"), lambda state: state == "ok")
    site.complete(sent.series)
    assert site.finished(run_on(site, sent)["execution"])["state"] == "succeeded"


def test_the_receivers_processes_are_replaced_under_a_stream_of_senders_without_a_failure(
    site: LocalSite, tmp_path: Path
) -> None:
    entity = AE(ae_title="LONG")
    entity.add_requested_context(Verification)
    long = entity.associate("127.0.0.1", site.dicom[1])
    assert long.is_established
    sent = phantom(tmp_path)
    ended = threading.Event()
    failures: list[str] = []
    count = 0

    def stream() -> None:
        nonlocal count
        while not ended.is_set():
            line = ["storescu", "-aet", "STREAM", "127.0.0.1", str(site.dicom[1]), str(sent.files[0])]
            done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
            count += 1
            if done.returncode != 0:
                failures.append(done.stderr)

    def keep() -> None:
        while not ended.wait(1):
            if not long.is_established or long.send_c_echo().Status != 0:
                failures.append("the long association has ended")
                return

    settings = site.running.home / "insitu.yaml"
    threads = [threading.Thread(target=target) for target in (stream, stream, keep)]
    for thread in threads:
        thread.start()
    try:
        before = receiver_of(site)
        settings.write_text("receiver_processes: 3\n")
        done = site.insitu("receiver", "restart")
        assert done.returncode == 0, done.stderr
        site.until(
            "the new ones", lambda: site.http.get("/metrics").text, lambda text: "insitu_receiver_processes 4.0" in text
        )  # the three new ones and the earlier one that serves the long association
        settings.write_text("peers_allowed: [nonsense]\n")
        refused = site.insitu("receiver", "restart")
        assert refused.returncode == 1
        assert "goes on as before" in refused.stderr
        settings.unlink()
        assert site.insitu("receiver", "restart").returncode == 0
        assert receiver_of(site) == before  # for the supervisor it is the same process
    finally:
        settings.unlink(missing_ok=True)
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert failures == []
    assert long.send_c_echo().Status == 0
    long.release()
    assert count > 10
