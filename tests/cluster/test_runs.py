"""A study pushed to the cluster comes back as SEG and SR, by way of Airflow and a Job; and an Airflow that dies loses no run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pydicom
import pytest

from insitu.runs.launch.kubernetes.manifest import EXECUTION
from tests.site import Sent, bone_ml, phantom
from tests.tools import need_program

from .site import ClusterSite


@pytest.fixture(scope="module")
def ready(site: ClusterSite) -> ClusterSite:
    """The platform with a rule that runs ct-tissue on what is sent to TRIAL."""
    need_program("storescu", "dcmtk")
    site.ensure_project("trial")
    site.rules(
        {
            "name": "trial-ct",
            "when": {"all": [{"called_ae": "TRIAL"}, {"Modality": "CT"}]},
            "then": {"project": "trial", "algorithms": [{"name": "ct-tissue"}]},
        }
    )
    return site


@pytest.fixture(scope="module")
def archived(ready: ClusterSite, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """A phantom in the archive that no rule runs on."""
    sent = phantom(tmp_path_factory.mktemp("archived"))
    ready.send(sent)
    ready.complete(sent.series)
    return sent


def test_a_pushed_study_comes_back_as_seg_and_sr_with_the_right_volume(ready: ClusterSite, tmp_path: Path) -> None:
    sent = phantom(tmp_path / "sent")
    ready.send(sent, "TRIAL")
    run = ready.finished(ready.until("a run by the rule", lambda: ready.runs_of(sent.series), bool)[0]["execution"])
    assert run["state"] == "succeeded", (run["reason"], ready.http.get(f"/api/v1/runs/{run['execution']}/log").text)
    segments = {item["label"]: item for item in run["results"][0]["summary"]["segments"]}
    bone = next(item for name, item in segments.items() if "bone" in name.lower())
    volume = next(m["value"] for m in bone["measurements"] if m["name"] == "Volume")
    assert volume == pytest.approx(bone_ml(), rel=0.02)
    files = ready.retrieve(run, tmp_path)
    assert set(files) == {"SEG", "SR"}
    for file in files.values():
        assert pydicom.dcmread(file).StudyInstanceUID == sent.study
        judged = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        assert not [line for line in (judged.stdout + judged.stderr).splitlines() if line.startswith("Error")]
    # The launcher removes the Job; Kubernetes must be let tidy up after it, as its Job controller changes pods that it has counted.
    chosen = ("-l", f"{EXECUTION}={run['execution']}")
    ready.until(
        "the end of Job and pod", lambda: ready.algorithms.get("jobs,pods", *chosen)["items"], lambda left: not left
    )
    print(json.dumps(run["waterfall"]))


def test_a_run_survives_the_death_of_the_scheduler_and_the_same_job_is_followed_to_its_end(
    ready: ClusterSite, archived: Sent, tmp_path: Path
) -> None:
    name = ready.install_double("slow", tmp_path)
    execution = ready.start(name, archived.series)

    def algorithm_runs() -> bool:
        pods = ready.algorithms.get("pods", "-l", f"{EXECUTION}={execution}")["items"]
        states = [state for pod in pods for state in pod["status"].get("initContainerStatuses", ())]
        return any(state["name"] == "algorithm" and "running" in state["state"] for state in states)

    ready.until("the algorithm's start", algorithm_runs, bool)
    (job,) = ready.jobs(execution)
    (scheduler,) = ready.pods("airflow-scheduler")
    ready.namespace.kubectl("delete", "pod", scheduler["metadata"]["name"], "--grace-period=0", "--force")
    seen = set()

    def ended() -> bool:
        seen.update(item["metadata"]["uid"] for item in ready.jobs(execution))
        return str(ready.get(f"/api/v1/runs/{execution}")["state"]) in ("succeeded", "failed")

    ready.until("the end of the run", ended, bool)
    run = ready.finished(execution)
    assert run["state"] == "succeeded", run["reason"]
    assert seen == {job["metadata"]["uid"]}
    log = ready.http.get(f"/api/v1/runs/{execution}/log", params={"step": "algorithm"}).text
    assert log.count("started") == 1
    assert [result["kind"] for result in run["results"]].count("SEG") == 1
    (another,) = ready.pods("airflow-scheduler")
    assert another["metadata"]["uid"] != scheduler["metadata"]["uid"]


@pytest.mark.parametrize(("kind", "failure"), [("exit_1", "algorithm-failed"), ("silent", "output-missing")])
def test_a_failed_algorithm_is_told_in_a_sentence_with_its_log(
    ready: ClusterSite, archived: Sent, tmp_path: Path, kind: str, failure: str
) -> None:
    execution = ready.start(ready.install_double(kind, tmp_path), archived.series)
    run = ready.finished(execution)
    assert (run["state"], run["failure"]) == ("failed", failure), run["reason"]
    assert run["reason"]
    assert "algorithm" in ready.insitu("run", "log", execution).stdout
