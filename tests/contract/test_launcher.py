"""The contract of a launcher: what every implementation does with a job, and how each failure is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from insitu.errors import NotFound
from insitu.runs.launch.specification import Launcher

from .conftest import PATIENCE, Job, outcome_of

pytestmark = pytest.mark.timeout(600)
MakeJob = Callable[..., Job]


def wait_for_log(launcher: Launcher, job: Job, text: str) -> None:
    """Return when the algorithm has said `text`."""
    deadline = time.monotonic() + PATIENCE
    while text not in launcher.log(job.name, "algorithm"):
        assert time.monotonic() < deadline, f"the algorithm never said {text!r}"
        assert launcher.wait(job.name, 0.05) is None, "the job ended early"


def test_a_job_delivers_segmentation_and_report(launcher: Launcher, make_job: MakeJob) -> None:
    job = make_job("well")
    launcher.launch(job.specification)
    stages: list[str] = []
    outcome = outcome_of(launcher, job, stages)
    assert (outcome.state, outcome.failure, outcome.reason) == ("succeeded", None, None)
    assert stages == ["fetch", "algorithm", "publish"]
    assert [step.exit_code for step in outcome.steps] == [0, 0, 0]
    files = sorted(job.gateway.results.glob("*.dcm"))
    assert [pydicom.dcmread(file).Modality for file in files] == ["SEG", "SR"]
    assert job.gateway.summary is not None
    (segment,) = job.gateway.summary["segments"]
    assert segment["label"] == "Bright"
    (volume,) = segment["measurements"]
    assert volume["name"] == "Volume"
    assert volume["value"] == pytest.approx(10 * 10 * 4 * 1.5 * 1.5 * 3 / 1000)
    assert "segmented" in launcher.log(job.name, "algorithm")


def test_two_runs_of_the_same_execution_give_the_same_bytes(make_launcher: Any, make_job: MakeJob) -> None:
    job = make_job("well")
    first, second = job.specification, job.specification.model_copy(update={"name": job.name[:-1] + "2"})
    contents = []
    for specification in (first, second):
        launcher = make_launcher()
        launcher.launch(specification)
        assert launcher.wait(specification.name, PATIENCE).state == "succeeded"
        contents.append([file.read_bytes() for file in sorted(job.gateway.results.glob("*.dcm"))])
        for file in job.gateway.results.glob("*.dcm"):
            file.unlink()
    assert len(contents[0]) == 2
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("kind", "limits", "failure", "said"),
    [
        ("exit_1", {}, "algorithm-failed", "there is no brain in this image"),
        ("hang", {"seconds": 2.0}, "deadline-exceeded", "within its limit of 2 s"),
        ("silent", {}, "output-missing", "mask.nii.gz"),
        ("garbage", {}, "output-malformed", "mask.nii.gz"),
        ("geometry", {}, "output-geometry", "(24, 20, 7)"),
        # Where the kernel kills only the process that asked for more, the rest of the algorithm hangs to its deadline.
        ("memory", {"memory_bytes": 200 * 2**20, "seconds": 60.0}, "out-of-memory", "200 MiB"),
        # A kubelet measures folders once a minute.
        ("disk", {"output_bytes": 20_000_000, "seconds": 220.0}, "output-too-large", "19 MiB"),
        ("link", {}, "output-malformed", "mask.nii.gz"),
    ],
)
def test_each_misbehaviour_is_told_apart(
    launcher: Launcher, make_job: MakeJob, kind: str, limits: dict[str, Any], failure: str, said: str
) -> None:
    job = make_job(kind, **limits)
    launcher.launch(job.specification)
    outcome = outcome_of(launcher, job)
    assert (outcome.state, outcome.failure) == ("failed", failure), outcome.reason
    assert outcome.reason is not None
    assert said in outcome.reason
    assert job.gateway.posts == 0, "results of a failed run were delivered"


def test_the_log_is_there_when_the_algorithm_failed(launcher: Launcher, make_job: MakeJob) -> None:
    job = make_job("exit_1")
    launcher.launch(job.specification)
    outcome_of(launcher, job)
    assert "looking for the brain" in launcher.log(job.name, "algorithm")
    assert "there is no brain" in launcher.log(job.name, "algorithm")


def test_a_noisy_algorithm_is_not_blocked_and_its_last_words_are_kept(launcher: Launcher, make_job: MakeJob) -> None:
    job = make_job("noisy")
    launcher.launch(job.specification)
    assert outcome_of(launcher, job).state == "succeeded"
    log = launcher.log(job.name, "algorithm")
    assert len(log) < 110_000
    assert log.startswith("line 0 ")
    assert "the last line" in log


def test_a_cancelled_job_ends_and_says_so(launcher: Launcher, make_job: MakeJob) -> None:
    job = make_job("hang")
    launcher.launch(job.specification)
    wait_for_log(launcher, job, "hanging")
    launcher.cancel(job.name)
    outcome = outcome_of(launcher, job)
    assert (outcome.state, outcome.failure) == ("cancelled", "cancelled")
    launcher.cancel(job.name)
    assert outcome_of(launcher, job).state == "cancelled"


def test_launching_twice_starts_one_job(make_launcher: Callable[[], Launcher], make_job: MakeJob) -> None:
    job = make_job("well")
    for _ in range(3):
        make_launcher().launch(job.specification)
    assert outcome_of(make_launcher(), job).state == "succeeded"
    make_launcher().launch(job.specification)
    assert outcome_of(make_launcher(), job).state == "succeeded"
    assert job.gateway.posts == 1


def test_another_launcher_attaches_to_a_running_job(make_launcher: Callable[[], Launcher], make_job: MakeJob) -> None:
    job = make_job("hang")
    first = make_launcher()
    first.launch(job.specification)
    wait_for_log(first, job, "hanging")
    second = make_launcher()
    stages: list[str] = []
    assert second.wait(job.name, 0.2, stages.append) is None
    assert stages == ["fetch", "algorithm"]
    second.cancel(job.name)
    assert outcome_of(second, job).state == "cancelled"
    assert outcome_of(first, job).state == "cancelled"


def test_labels_that_the_manifest_does_not_describe_are_not_delivered(launcher: Launcher, make_job: MakeJob) -> None:
    wrong = {"scheme": "SCT", "value": "85756007", "meaning": "Tissue"}
    outputs = {
        "segmentations": [
            {
                "name": "mask",
                "file": "mask.nii.gz",
                "segments": [{"label": 7, "name": "Another label", "category": wrong, "type": wrong}],
            }
        ]
    }
    job = make_job("well", manifest={"outputs": outputs})
    launcher.launch(job.specification)
    outcome = outcome_of(launcher, job)
    assert outcome.failure == "output-malformed"
    assert outcome.reason is not None
    assert "labels that its manifest does not describe" in outcome.reason
    assert job.gateway.posts == 0


def test_results_that_fail_their_check_are_kept_aside_with_the_reason(
    launcher: Launcher, make_job: MakeJob, tmp_path: Path
) -> None:
    # One code that DICOM reads as two: the backslash separates values.
    wrong = {"scheme": "SCT", "value": "8575\\6007", "meaning": "Tissue"}
    segment = {"label": 1, "name": "Bright", "category": wrong, "type": wrong}
    outputs = {"segmentations": [{"name": "mask", "file": "mask.nii.gz", "segments": [segment]}]}
    job = make_job("well", manifest={"outputs": outputs})
    launcher.launch(job.specification)
    outcome = outcome_of(launcher, job)
    assert outcome.failure == "result-check-failed", outcome.reason
    assert outcome.reason is not None
    assert job.gateway.posts == 0
    if job.specification.algorithm.image is not None:
        assert "CodeValue" in launcher.log(job.name, "publish"), "the log says what is wrong"
        return  # a pod keeps nothing; its log does
    assert "kept aside" in outcome.reason
    launcher.remove(job.name)
    kept = {path.name for path in tmp_path.rglob("rejected/*")}
    assert "reasons.json" in kept, kept


def test_an_unusable_series_fails_before_the_algorithm_starts(
    launcher: Launcher, make_job: MakeJob, phantom: list[Any]
) -> None:
    job = make_job("well", paths=[*phantom[:3], *phantom[5:]])
    launcher.launch(job.specification)
    stages: list[str] = []
    outcome = outcome_of(launcher, job, stages)
    assert outcome.failure == "input-unusable"
    assert stages == ["fetch"]
    assert outcome.reason is not None
    assert "not evenly spaced" in outcome.reason


def test_a_series_without_images_is_told(launcher: Launcher, make_job: MakeJob) -> None:
    job = make_job("well", paths=[])
    launcher.launch(job.specification)
    outcome = outcome_of(launcher, job)
    assert outcome.failure == "input-unusable"
    assert outcome.reason is not None
    assert "has no images" in outcome.reason


def test_a_removed_job_leaves_nothing(launcher: Launcher, make_job: MakeJob) -> None:
    job = make_job("exit_1")
    launcher.launch(job.specification)
    outcome_of(launcher, job)
    launcher.remove(job.name)
    assert launcher.log(job.name, "algorithm") == ""
    with pytest.raises(NotFound):
        launcher.wait(job.name, 0)


def test_an_unknown_job_is_not_waited_for(launcher: Launcher) -> None:
    with pytest.raises(NotFound):
        launcher.wait("run-never-launched-1", 1)
