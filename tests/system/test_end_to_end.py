"""A study pushed over DICOM comes back as SEG and SR, judged by other people's programs; and what goes wrong is told apart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pydicom
import pytest

from tests import doubles
from tests.site import Sent, bone_ml, phantom
from tests.system.running import Running
from tests.system.site import LocalSite
from tests.tools import need_program

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def site(platform_up: Running) -> LocalSite:
    """The running platform, with the phantom's rule in force."""
    need_program("storescu", "dcmtk")
    site = LocalSite(platform_up)
    site.ensure_project("trial")
    site.rules(
        {
            "name": "trial-ct",
            "when": {"all": [{"called_ae": "TRIAL"}, {"Modality": "CT"}]},
            "then": {"project": "trial", "algorithms": [{"name": "ct-tissue"}], "again": True},
        }
    )
    return site


@pytest.fixture(scope="module")
def installed(site: LocalSite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The misbehaving packages, installed: kind to name."""
    names = {}
    for kind, changes in {
        "well": {},
        "exit_1": {},
        "silent": {},
        "geometry": {},
        "hang": {"resources": {"memory": "512Mi", "seconds": 3, "cpu": 1}},
        "memory": {"resources": {"memory": "200Mi", "seconds": 120, "cpu": 1}},
    }.items():
        package = doubles.build(kind, tmp_path_factory.mktemp(kind), **changes)
        done = site.insitu("algorithm", "install", str(package))
        assert done.returncode == 0, done.stderr
        names[kind] = doubles.manifest(kind)["name"]
    return names


@pytest.fixture(scope="module")
def archived(site: LocalSite, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """A phantom in the archive that no rule runs on."""
    sent = phantom(tmp_path_factory.mktemp("archived"))
    site.send(sent)
    site.complete(sent.series)
    return sent


@pytest.fixture(scope="module")
def round_trip(
    site: LocalSite, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Sent, dict[str, Any], dict[str, Path]]:
    """A phantom that was pushed, its finished run, and the results as files."""
    sent = phantom(tmp_path_factory.mktemp("pushed"))
    site.send(sent, "TRIAL")
    site.complete(sent.series)
    runs = site.until("a run by the rule", lambda: site.runs_of(sent.series), bool)
    run = site.finished(runs[0]["execution"])
    assert run["state"] == "succeeded", (run["reason"], site.http.get(f"/api/v1/runs/{run['execution']}/log").text)
    return sent, run, site.retrieve(run, tmp_path_factory.mktemp("results"))


def test_a_pushed_study_comes_back_as_seg_and_sr_with_the_right_volume(
    round_trip: tuple[Sent, dict[str, Any], dict[str, Path]],
) -> None:
    _, run, files = round_trip
    assert set(files) == {"SEG", "SR"}
    segments = {item["label"]: item for item in run["results"][0]["summary"]["segments"]}
    bone = next(item for name, item in segments.items() if "bone" in name.lower())
    volume = next(m["value"] for m in bone["measurements"] if m["name"] == "Volume")
    assert volume == pytest.approx(bone_ml(), rel=0.02)
    assert [bar["stage"] for bar in run["waterfall"]][:3] == ["acknowledged", "complete", "requested"]


def test_results_say_who_made_them_and_belong_to_their_source(
    round_trip: tuple[Sent, dict[str, Any], dict[str, Path]],
) -> None:
    sent, run, files = round_trip
    source = pydicom.dcmread(sent.files[0])
    for kind, file in files.items():
        result = pydicom.dcmread(file)
        assert result.StudyInstanceUID == sent.study
        assert (result.PatientID, result.PatientName) == (source.PatientID, source.PatientName)
        text = str(result).lower()
        assert "ct-tissue" in text, kind
        assert run["digest"].removeprefix("sha256:")[:16] in text, kind
        assert "physician" in text, kind
    assert pydicom.dcmread(files["SR"]).VerificationFlag == "UNVERIFIED"
    assert sent.series in str(pydicom.dcmread(files["SEG"]))


def test_independent_programs_accept_the_results(
    round_trip: tuple[Sent, dict[str, Any], dict[str, Path]], tmp_path: Path
) -> None:
    _, _, files = round_trip
    for name, package in (("dciodvfy", "dicom3tools"), ("dsrdump", "dcmtk")):
        need_program(name, package)
    for file in files.values():
        said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        errors = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]
        assert errors == []
    dumped = subprocess.run(["dsrdump", str(files["SR"])], capture_output=True, text=True, check=False)
    assert dumped.returncode == 0, dumped.stderr
    assert "Volume" in dumped.stdout

    import dcmqi

    programs = Path(dcmqi.__file__).parent
    segments, report = find_program(programs, "segimage2itkimage"), find_program(programs, "tid1500reader")
    read = subprocess.run(
        [segments, "--inputDICOM", str(files["SEG"]), "--outputDirectory", str(tmp_path), "-t", "nifti"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    assert list(tmp_path.glob("*.nii*"))
    target = tmp_path / "report.json"
    read = subprocess.run(
        [report, "--inputDICOM", str(files["SR"]), "--outputMetadata", str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    assert any(group.get("measurementItems") for group in json.loads(target.read_text())["Measurements"])


def find_program(package: Path, name: str) -> str:
    """A program of the dcmqi wheel."""
    import sys

    for folder in (package, package / "bin", Path(sys.executable).parent):
        for candidate in (folder / name, *folder.glob(f"**/bin/{name}")):
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return str(candidate)
    raise AssertionError(f"{name} is not in the dcmqi package")


def test_sending_the_same_study_again_runs_nothing_again(
    site: LocalSite, round_trip: tuple[Sent, dict[str, Any], dict[str, Path]]
) -> None:
    sent, _, _ = round_trip
    site.send(sent, "TRIAL")
    time.sleep(3)
    assert len(site.runs_of(sent.series)) == 1
    assert site.get(f"/api/v1/series/{sent.series}")["revision"] == 1


def test_a_late_object_makes_a_new_revision_and_supersedes_the_earlier_results(site: LocalSite, tmp_path: Path) -> None:
    sent = phantom(tmp_path)
    site.send(sent, "TRIAL", files=sent.files[:-1])
    first = site.until("the first run", lambda: site.runs_of(sent.series), bool)[0]["execution"]
    assert site.finished(first)["state"] == "succeeded"
    site.send(sent, "TRIAL", files=sent.files[-1:])
    runs = site.until("the second run", lambda: site.runs_of(sent.series), lambda runs: len(runs) == 2)
    second = next(run["execution"] for run in runs if run["execution"] != first)
    assert site.finished(second)["state"] == "succeeded"
    assert site.get(f"/api/v1/series/{sent.series}")["revision"] == 2
    earlier = site.get(f"/api/v1/runs/{first}")["results"]
    assert earlier
    assert {result["superseded_by"] for result in earlier} == {second}


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("exit_1", "algorithm-failed"),
        ("silent", "output-missing"),
        ("geometry", "output-geometry"),
        ("hang", "deadline-exceeded"),
        ("memory", "out-of-memory"),
    ],
)
def test_each_way_to_fail_is_told_apart_in_a_sentence_with_its_log(
    site: LocalSite, installed: dict[str, str], archived: Sent, kind: str, failure: str
) -> None:
    execution = site.start(installed[kind], archived.series)
    run = site.finished(execution)
    assert (run["state"], run["failure"]) == ("failed", failure), run["reason"]
    assert run["reason"]
    assert run["results"] == []
    shown = site.insitu("run", "show", execution)
    assert run["reason"][:40] in " ".join(shown.stdout.split())
    assert "algorithm" in site.insitu("run", "log", execution).stdout


def test_the_same_run_again_is_a_no_op_and_a_forced_one_a_new_execution(
    site: LocalSite, installed: dict[str, str], archived: Sent
) -> None:
    first = site.start(installed["well"], archived.series)
    assert site.finished(first)["state"] == "succeeded"
    assert site.start(installed["well"], archived.series) == first
    second = site.start(installed["well"], archived.series, force=True)
    assert second != first
    assert site.finished(second)["state"] == "succeeded"


def test_a_cancelled_run_ends_and_says_so(site: LocalSite, installed: dict[str, str], tmp_path: Path) -> None:
    package = doubles.build(
        "hang", tmp_path, name="double-patient", resources={"memory": "512Mi", "seconds": 600, "cpu": 1}
    )
    assert site.insitu("algorithm", "install", str(package)).returncode == 0
    sent = phantom(tmp_path / "images")
    site.send(sent)
    site.complete(sent.series)
    execution = site.start("double-patient", sent.series)
    reached(site, execution, "algorithm")
    assert site.insitu("run", "cancel", execution).returncode == 0
    assert site.finished(execution)["state"] == "cancelled"


def reached(site: LocalSite, execution: str, stage: str) -> None:
    """Wait until a run has reached a stage."""
    site.until(
        f"{stage} of {execution}",
        lambda: [event["stage"] for event in site.get(f"/api/v1/runs/{execution}")["history"]],
        lambda stages: stage in stages,
    )


def test_a_run_survives_the_death_of_the_scheduler_and_the_algorithm_runs_once(site: LocalSite, tmp_path: Path) -> None:
    package = doubles.build("slow", tmp_path, resources={"memory": "512Mi", "seconds": 120, "cpu": 1})
    assert site.insitu("algorithm", "install", str(package)).returncode == 0
    sent = phantom(tmp_path / "images")
    site.send(sent)
    site.complete(sent.series)
    execution = site.start("double-slow", sent.series)
    reached(site, execution, "algorithm")
    site.signal("airflow-scheduler", signal.SIGKILL)
    run = site.finished(execution)
    assert run["state"] == "succeeded", run["reason"]
    log = site.http.get(f"/api/v1/runs/{execution}/log", params={"step": "algorithm"}).text
    assert log.count("started") == 1


def test_a_run_that_airflow_gave_up_is_found_and_ends_with_a_sentence(site: LocalSite, tmp_path: Path) -> None:
    limits = {"memory": "512Mi", "seconds": 300, "cpu": 1}
    package = doubles.build("hang", tmp_path, name="double-given-up", resources=limits)
    assert site.insitu("algorithm", "install", str(package)).returncode == 0
    sent = phantom(tmp_path / "images")
    site.send(sent)
    site.complete(sent.series)
    execution = site.start("double-given-up", sent.series)
    reached(site, execution, "algorithm")
    settings = site.running.settings
    airflow = httpx.Client(base_url=f"http://{site.running.state.airflow_http}", timeout=60, trust_env=False)
    login = {"username": "insitu", "password": (settings.secrets / "airflow-password").read_text().strip()}
    token = airflow.post("/auth/token", json=login).json()["access_token"]
    answer = airflow.patch(
        f"/api/v2/dags/algorithm_run/dagRuns/{execution}",
        json={"state": "failed"},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 200, answer.text
    run = site.finished(execution)
    assert (run["state"], run["failure"]) == ("failed", "engine-lost")
    assert "Airflow" in run["reason"]
    runner = json.loads((settings.jobs / f"run-{execution}-1" / "status.json").read_text())["pid"]
    site.until("the end of its job", lambda: psutil.pid_exists(runner), lambda alive: not alive)


def test_a_dispatcher_killed_again_and_again_leaves_every_series_with_exactly_one_run(
    site: LocalSite, tmp_path: Path
) -> None:
    series = [phantom(tmp_path / str(number), slices=10) for number in range(3)]
    for sent in series:
        site.send(sent, "TRIAL")
        site.signal("dispatcher", signal.SIGKILL)
    for sent in series:
        runs = site.until(f"a run on {sent.series}", lambda uid=sent.series: site.runs_of(uid), bool)
        assert site.finished(runs[0]["execution"])["state"] == "succeeded"
        assert len(site.runs_of(sent.series)) == 1


def test_the_demonstration_shows_every_stage_and_what_came_back(site: LocalSite) -> None:
    before = site.get("/api/v1/rules")["rule_set"]["rules"]
    done = site.insitu("demo", "--image", "mr", "--json")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout.splitlines()[-1])
    assert (run["state"], run["project"]) == ("succeeded", "demo")
    assert {result["kind"] for result in run["results"]} == {"SEG", "SR"}
    for stage in (
        "averaged brain",
        "acknowledged",
        "archived",
        "complete",
        "rule 'demo' matched",
        "Grey matter",
        "/viewer/",
    ):
        assert stage in done.stderr, stage
    after = {rule["name"] for rule in site.get("/api/v1/rules")["rule_set"]["rules"]}
    assert after == {rule["name"] for rule in before} | {"demo"}


def test_afterwards_the_audit_chain_holds_and_index_and_blobs_agree(site: LocalSite) -> None:
    listed = json.loads(site.insitu("audit", "list", "--json", "--limit", "5000").stdout)
    entries = listed["events"] if isinstance(listed, dict) else listed
    assert {"run", "rule-change"} <= {entry["action"] for entry in entries}
    assert any(entry["actor"].startswith("rule ") for entry in entries)
    verified = site.insitu("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    scrubbed = site.insitu("scrub", "--json")
    assert scrubbed.returncode == 0, scrubbed.stdout + scrubbed.stderr
