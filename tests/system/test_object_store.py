"""The whole platform with its objects in a bucket: from C-STORE to results, while the bucket's server comes and goes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.object_store import ObjectStore
from tests.site import phantom
from tests.system.running import Running, platform
from tests.system.site import LocalSite
from tests.tools import need_program

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """The bucket's server."""
    with ObjectStore(tmp_path_factory.mktemp("object-store")) as server:
        yield server


@pytest.fixture(scope="module")
def running(server: ObjectStore) -> Iterator[Running]:
    """A platform on a bucket that is not there yet."""
    with platform(quiet_time="1", object_store=f"{server.server}/made-at-the-start", database_patience="5") as running:
        secrets = running.home / "secrets"
        secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in server.secrets.iterdir():
            shutil.copy(file, secrets)
        running.start()
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def site(running: Running) -> LocalSite:
    """With a rule that runs an algorithm on what is sent to HARD."""
    need_program("storescu", "dcmtk")
    site = LocalSite(running)
    site.ensure_project("hard")
    site.rules(
        {"name": "hard-ct", "when": {"called_ae": "HARD"}, "then": {"project": "hard", "algorithms": [{"name": "ct-tissue"}]}}
    )  # fmt: skip
    return site


def test_a_study_is_received_computed_and_fetched_from_a_bucket(
    site: LocalSite, server: ObjectStore, tmp_path: Path
) -> None:
    server.bucket = "made-at-the-start"
    sent = phantom(tmp_path)
    site.send(sent, "HARD")
    site.complete(sent.series)
    (run,) = site.until("a run", lambda: site.runs_of(sent.series), bool)
    ended = site.finished(run["execution"])
    assert ended["state"] == "succeeded", ended["reason"]
    kinds = {key.partition("/")[0] for key in server.files()}
    assert {"objects", "receipts", "journal", "health"} <= kinds
    assert not [path for path in (site.running.home / "blobs").rglob("*") if path.is_file()]
    assert list((site.running.home / "spool").iterdir()) == []
    for file in sent.files:
        original = dcmread(file)
        answer = site.http.get(
            f"/dicom-web/studies/{sent.study}/series/{sent.series}/instances/{original.SOPInstanceUID}/frames/1",
            headers={"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'},
        )
        assert answer.status_code == 200, answer.text
        assert original.PixelData in answer.content
    whole = site.http.get(
        f"/dicom-web/studies/{sent.study}", headers={"Accept": 'multipart/related; type="application/dicom"'}
    )
    assert whole.status_code == 200
    assert all(dcmread(file).PixelData in whole.content for file in sent.files)


def test_a_bucket_that_is_away_is_told_everywhere_and_heals(
    site: LocalSite, server: ObjectStore, tmp_path: Path
) -> None:
    server.stop()
    try:
        site.until("health", lambda: site.component("object store"), lambda state: state == "away")
        assert site.http.get("/readyz").status_code == 503
        assert 'insitu_component_up{component="object store"} 0.0' in site.http.get("/metrics").text
        found = {each["check"]: each for each in json.loads(site.insitu("doctor", "--json").stdout)}
        assert found["running object store"]["state"] == found["object store"]["state"] == "bad"
        sent = phantom(tmp_path)
        with pytest.raises(AssertionError):
            site.send(sent)
    finally:
        server.go_on()
    site.until("health", lambda: site.component("object store"), lambda state: state == "ok")
    site.send(sent)
    site.complete(sent.series)
    assert "insitu_object_store_write_seconds" in site.http.get("/metrics").text
    shown = json.loads(site.insitu("status", "--json").stdout)["components"]["object store"]
    assert shown["state"] == "ok"


def test_a_scrub_and_a_rebuild_go_over_the_bucket_and_no_key_stands_in_a_log(
    site: LocalSite, server: ObjectStore
) -> None:
    done = site.insitu("scrub", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["objects"] > 0
    done = site.insitu("reindex")
    assert done.returncode == 0, done.stdout + done.stderr
    access, secret = server.keys
    for file in site.running.home.rglob("*"):
        if (
            file.is_file()
            and file.parent.name != "secrets"
            and "database" not in file.relative_to(site.running.home).parts
        ):
            content = file.read_bytes()
            assert access.encode() not in content, file
            assert secret.encode() not in content, file
    assert access not in site.running.said()
    assert secret not in site.running.said()
