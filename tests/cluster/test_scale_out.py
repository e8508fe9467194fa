"""Two of each process on one archive: a study that comes to both is one study with one run, whoever dies meanwhile."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import httpx

from tests.peers import orthanc
from tests.site import Sent, phantom
from tests.tools import need_orthanc, need_program

from .replicas import RULED, Push, ReplicatedSite, bare, retrieve, title

AWAY_SECONDS = 20


def pushes(
    site: ReplicatedSite, files: Sequence[Path], called: str, *, each: int | None = None, pause: float = 0.0
) -> tuple[str, list[Push]]:
    """Four senders that send a quarter each, begun; and their AE title."""
    calling = title()
    begun = [
        Push(site.network(), site.dicom, files[number::4], calling, called, each=each, pause=pause)
        for number in range(4)
    ]
    for push in begun:
        push.start()
    return calling, begun


def acknowledged(senders: Sequence[Push]) -> list[str]:
    """What was acknowledged to them once all have ended."""
    for push in senders:
        push.done()
    return sorted(uid for push in senders for uid in push.acknowledged)


def assert_there_once(site: ReplicatedSite, sent: Sent) -> None:
    """Every object of a series is in the archive once, byte for byte, by whichever api is asked."""
    expected = dict(bare(file.read_bytes()) for file in sent.files)
    for api in site.each_api():
        found = retrieve(api, sent)
        assert found.datasets == expected
        assert set(found.times.values()) == {1}
        counted = api.get(
            f"/dicom-web/studies/{sent.study}/series/{sent.series}/instances",
            headers={"Accept": "application/dicom+json"},
        )
        assert len(counted.json()) == len(expected)


def assert_one_run(site: ReplicatedSite, sent: Sent) -> None:
    """The rule has asked for one run on the series, and that succeeds."""
    site.complete(sent.series)
    (run,) = site.until("a run", lambda: site.runs_of(sent.series), bool)
    ended = site.finished(run["execution"])
    assert ended["state"] == "succeeded", ended["reason"]
    assert site.get(f"/api/v1/series/{sent.series}")["revision"] == 1
    assert len(site.runs_of(sent.series)) == 1


def test_a_study_over_four_associations_to_both_receivers_is_whole_and_triggers_once(
    replicas: ReplicatedSite, tmp_path: Path
) -> None:
    sent = phantom(tmp_path, slices=120)
    receivers = [pod["metadata"]["name"] for pod in replicas.pods("receiver")]
    calling, senders = pushes(replicas, sent.files, RULED, each=5)
    uids = acknowledged(senders)
    assert len(uids) == len(set(uids)) == len(sent.files)
    assert not any(push.lost or push.refused or push.unanswered for push in senders)
    got = {pod: replicas.stored_by(pod, calling) for pod in receivers}
    assert len(got) == 2
    assert all(got.values()), got
    assert sum(got.values()) == len(sent.files)
    assert_one_run(replicas, sent)
    assert_there_once(replicas, sent)


def test_who_logs_in_at_one_api_is_known_and_forgotten_by_the_other(replicas: ReplicatedSite) -> None:
    one, other = replicas.each_api()
    name, password = f"reader-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    account = {"name": name, "password": password}
    assert one.post("/api/v1/accounts", json=account).status_code == 201
    del one.headers["Authorization"], other.headers["Authorization"]
    origin = {"Origin": str(one.base_url).rstrip("/")}
    answer = one.post("/api/v1/session", json=account, headers=origin)
    assert answer.status_code == 200, answer.text
    cookie = {"Cookie": "; ".join(f"{key}={value}" for key, value in answer.cookies.items())}
    assert other.get("/api/v1/session", headers=cookie).json()["name"] == name
    made = one.post("/api/v1/tokens", json={"name": "mine"}, headers=origin).json()
    token = {"Authorization": f"Bearer {made['token']}"}
    assert other.get("/api/v1/session", headers=token).json()["name"] == name
    (listed,) = other.get("/api/v1/tokens", headers=token).json()["tokens"]
    assert other.delete(f"/api/v1/tokens/{listed['id']}", headers=token).status_code == 204
    assert one.get("/api/v1/session", headers=token).status_code == 401
    assert one.delete("/api/v1/session", headers=origin).status_code == 204
    assert other.get("/api/v1/session", headers=cookie).status_code == 401
    # What slows a guesser down is counted over both.
    for number in range(6):
        answer = (one, other)[number % 2].post("/api/v1/session", json=account | {"password": "a guess"})
        assert answer.status_code == 401
    assert other.post("/api/v1/session", json=account).status_code == 401


def test_a_receiver_and_a_dispatcher_die_during_a_push_and_what_was_acknowledged_is_there_once(
    replicas: ReplicatedSite, tmp_path: Path
) -> None:
    sent = phantom(tmp_path, slices=240)
    _, senders = pushes(replicas, sent.files, RULED, pause=0.2)
    for push in senders:
        push.until(20)
    replicas.kill_pod(replicas.busiest_receiver())
    dispatchers = [pod["metadata"]["name"] for pod in replicas.pods("dispatcher")]
    replicas.kill_pod(dispatchers[0])
    for push in senders:
        push.until(50)
    replicas.kill_children(replicas.busiest_receiver())
    uids = acknowledged(senders)
    assert len(uids) == len(set(uids)) == len(sent.files)
    assert any(push.lost for push in senders)
    assert_one_run(replicas, sent)
    assert_there_once(replicas, sent)
    replicas.whole()


def test_an_object_store_that_is_away_under_load_loses_nothing_acknowledged(
    replicas: ReplicatedSite, tmp_path: Path
) -> None:
    sent = phantom(tmp_path, slices=240)
    _, senders = pushes(replicas, sent.files, RULED, pause=0.2)
    for push in senders:
        push.until(10)
    replicas.namespace.kubectl("scale", "statefulset", "insitu-object-store", "--replicas=0")
    try:
        replicas.namespace.kubectl("wait", "--for=delete", "pod/insitu-object-store-0", "--timeout=120s")
        time.sleep(AWAY_SECONDS)
        refused = sum((push.refused for push in senders), start=type(senders[0].refused)())
        assert set(refused) == {0xA700}
        assert not any(push.lost for push in senders)
    finally:
        replicas.namespace.kubectl("scale", "statefulset", "insitu-object-store", "--replicas=1")
    uids = acknowledged(senders)
    assert len(uids) == len(set(uids)) == len(sent.files)
    assert_one_run(replicas, sent)
    assert_there_once(replicas, sent)
    replicas.whole()


def test_a_database_pod_that_is_deleted_during_a_push_loses_nothing_acknowledged(
    replicas: ReplicatedSite, tmp_path: Path
) -> None:
    sent = phantom(tmp_path, slices=200)
    _, senders = pushes(replicas, sent.files, RULED, pause=0.2)
    for push in senders:
        push.until(10)
    replicas.kill_pod("insitu-database-0")
    uids = acknowledged(senders)
    assert len(uids) == len(set(uids)) == len(sent.files)
    refused = sum((push.refused for push in senders), start=type(senders[0].refused)())
    assert set(refused) <= {0xA700}
    assert_one_run(replicas, sent)
    assert_there_once(replicas, sent)
    replicas.whole()


def test_a_pacs_outside_the_release_sends_by_orthanc_and_dcmtk(replicas: ReplicatedSite, tmp_path: Path) -> None:
    need_orthanc()
    need_program("storescu", "dcmtk")
    sent = phantom(tmp_path / "sent", slices=60)
    host, port = replicas.dicom
    node = {"DicomModalities": {"insitu": {"AET": RULED, "Host": host, "Port": port}}}
    with replicas.network(), orthanc.orthanc(tmp_path / "orthanc", extra=node) as pacs:
        for file in sent.files:
            httpx.post(f"{pacs.url}/instances", content=file.read_bytes(), trust_env=False).raise_for_status()
        job = pacs.request(
            "POST", "/modalities/insitu/store", {"Resources": pacs.request("GET", "/studies"), "Synchronous": True}
        )
    assert isinstance(job, dict)
    assert (job["InstancesCount"], job["FailedInstancesCount"]) == (len(sent.files), 0)
    assert_one_run(replicas, sent)
    assert_there_once(replicas, sent)
    other = phantom(tmp_path / "other", slices=20)
    replicas.send(other, RULED)
    assert_one_run(replicas, other)
    assert_there_once(replicas, other)
