"""What the API's facts about a job mean, each kind of end told apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from insitu.runs.launch.kubernetes import manifest, outcome

from .facts import BEGUN, DONE, IMAGE, NOW, RUNNING, configuration, ended, failed, job, pod, taken_away, waiting

REPORT = json.dumps({"failure": "input-unusable", "reason": "The series is not evenly spaced"})
OVERCROWDED = "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 Insufficient memory. preemption: 0/3 nodes are available."


@pytest.mark.parametrize(
    ("the_pod", "failure", "said"),
    [
        (pod(fetch=DONE, algorithm=ended(137, "OOMKilled")), "out-of-memory", "its limit of 200 MiB"),
        (
            pod(fetch=DONE, algorithm=ended(3, message="no brain here")),
            "algorithm-failed",
            "status 3; its log ends: no brain",
        ),
        (pod(fetch=DONE, algorithm=ended(139)), "algorithm-failed", "SIGSEGV"),
        (pod(fetch=ended(1, message=REPORT)), "input-unusable", "not evenly spaced"),
        (pod(fetch=ended(1, message="Traceback")), "fetch-failed", "Traceback"),
        (pod(fetch=ended(137, "OOMKilled")), "fetch-failed", "more memory than the site allows"),
        (
            pod(fetch=DONE, algorithm=DONE, publish=ended(1, message="x")),
            "publish-failed",
            "publish ended with status 1",
        ),
        (
            pod(fetch=DONE, algorithm=ended(128, "StartError", "exec: no such file")),
            "environment-missing",
            "no such file",
        ),
        (
            pod(
                fetch=DONE, algorithm=ended(137), reason="Evicted", message='Usage of EmptyDir volume "output" exceeds'
            ),
            "output-too-large",
            "19 MiB",
        ),
        (
            pod(algorithm=ended(137), reason="Evicted", message="The node was low on memory."),
            "evicted",
            "low on memory",
        ),
        (
            pod(algorithm=ended(143), conditions=taken_away("PreemptionByScheduler", "preempted by pod y")),
            "preempted",
            "make room for one of higher priority (preempted by pod y)",
        ),
        (pod(reason="OutOfcpu", message="Node didn't have enough resource"), "evicted", "OutOfcpu"),
    ],
)
def test_ends_of_a_pod_are_told_apart(the_pod: dict[str, Any], failure: str, said: str) -> None:
    found = outcome.ended(failed("PodFailurePolicy"), the_pod)
    assert found is not None
    assert (found.state, found.failure) == ("failed", failure), found.reason
    assert said in str(found.reason)


def test_a_node_that_is_gone_ends_the_run_although_its_pod_cannot_tell() -> None:
    stuck = pod(phase="Running", fetch=DONE, algorithm=RUNNING, conditions=taken_away("DeletionByTaintManager"))
    found = outcome.ended(job(), stuck)
    assert found is not None
    assert (found.failure, "node-1" in str(found.reason)) == ("node-lost", True)


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        ("Pod algorithms/x has condition DisruptionTarget matching FailJob rule at index 0", "evicted"),
        ("Container algorithm for pod algorithms/x failed with exit code 3 matching FailJob rule", "algorithm-failed"),
        ("Container publish for pod algorithms/x failed with exit code 1 matching FailJob rule", "publish-failed"),
        ("Job has reached the specified backoff limit", "runner-lost"),
    ],
)
def test_a_job_whose_pod_nobody_saw_end_still_has_an_outcome(message: str, failure: str) -> None:
    found = outcome.ended(failed("PodFailurePolicy", message), None)
    assert found is not None
    assert found.failure == failure


def test_the_last_state_of_the_pod_is_waited_for_but_not_for_ever() -> None:
    running = pod(phase="Running", fetch=DONE, algorithm=RUNNING)
    assert outcome.ended(failed("DeadlineExceeded"), running) is None
    found = outcome.ended(failed("DeadlineExceeded"), running, late=True)
    assert found is not None
    assert found.failure == "deadline-exceeded"


def test_a_run_that_goes_on_has_no_outcome() -> None:
    assert outcome.ended(job(), None) is None
    assert outcome.ended(job(), pod(phase="Pending", fetch=RUNNING)) is None


def test_success_needs_no_look_at_the_job_and_outweighs_a_late_wish_to_cancel() -> None:
    done = pod(phase="Succeeded", fetch=DONE, algorithm=DONE, publish=DONE)
    asked = job()
    asked["metadata"]["annotations"][manifest.VERDICT] = json.dumps({"failure": "cancelled", "reason": "asked"})
    for each in (job(), asked):
        found = outcome.ended(each, done)
        assert found is not None
        assert found.state == "succeeded"
        assert [step.exit_code for step in found.steps] == [0, 0, 0]


def test_the_verdict_in_a_job_is_what_every_launcher_tells() -> None:
    given = job()
    given["metadata"]["annotations"][manifest.VERDICT] = json.dumps({"failure": "cancelled", "reason": "asked"})
    stopped = pod(fetch=DONE, algorithm=ended(137), reason="DeadlineExceeded")
    assert outcome.ended(given, pod(phase="Running", fetch=DONE, algorithm=RUNNING)) is None
    for each in (stopped, None):
        found = outcome.ended(given, each)
        assert found is not None
        assert (found.state, found.reason) == ("cancelled", "asked")


def test_an_algorithm_whose_child_was_killed_for_memory_and_that_hung_then_ran_out_of_memory() -> None:
    given = job()
    given["metadata"]["annotations"][manifest.VERDICT] = json.dumps({"failure": "deadline-exceeded", "reason": "slow"})
    found = outcome.ended(given, pod(fetch=DONE, algorithm=ended(137, "OOMKilled"), reason="DeadlineExceeded"))
    assert found is not None
    assert found.failure == "out-of-memory"


def overdue(the_pod: dict[str, Any] | None, after: float, **facts: Any) -> tuple[str, str] | None:
    """Kind and sentence of why a job has to be ended so many seconds after it began."""
    facts = {"pull_failing_seconds": 0.0, "refusals": [], **facts}
    found = outcome.overdue(
        job(), the_pod, configuration(unschedulable_seconds=30, image_seconds=20), now=NOW + after, **facts
    )
    return None if found is None else (str(found.failure), found.reason)


def test_the_algorithm_has_its_own_seconds_and_no_more() -> None:
    running = pod(phase="Pending", fetch=DONE, algorithm=RUNNING)
    assert overdue(running, 60.5) is None
    found = overdue(running, 61.5)
    assert found is not None
    assert found[0] == "deadline-exceeded"
    assert "within its limit of 60 s" in found[1]
    assert overdue(pod(phase="Pending", fetch=RUNNING), 890) is None
    assert overdue(pod(phase="Pending", fetch=RUNNING), 902) is not None


def test_an_image_that_cannot_be_pulled_is_given_some_time_and_one_that_cannot_exist_none() -> None:
    failing = pod(phase="Pending", fetch=DONE, algorithm=waiting("ImagePullBackOff", "not found"))
    assert overdue(failing, 100, pull_failing_seconds=19.0) is None
    found = overdue(failing, 100, pull_failing_seconds=21.0)
    assert found is not None
    assert found[0] == "image-not-found"
    assert IMAGE in found[1]
    assert overdue(pod(phase="Pending", fetch=DONE, algorithm=waiting("InvalidImageName")), 1) is not None
    assert overdue(pod(phase="Pending", fetch=DONE, algorithm=waiting("PodInitializing")), 600) is None


def test_what_the_cluster_lacks_is_named() -> None:
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": OVERCROWDED}]
    unbound = pod(phase="Pending", node=None, conditions=conditions)
    assert overdue(unbound, 29) is None
    found = overdue(unbound, 31)
    assert found is not None
    assert found[0] == "unschedulable"
    assert "not enough nvidia.com/gpu, memory" in found[1]
    assert "preemption" not in found[1]


def test_a_training_waits_longer_for_room() -> None:
    unbound = pod(phase="Pending", node=None)
    site = configuration(unschedulable_seconds=30, training_unschedulable_seconds=300)

    def found(after: float) -> Any:
        return outcome.overdue(
            job(purpose="training"), unbound, site, now=NOW + after, pull_failing_seconds=0.0, refusals=[]
        )

    assert found(299) is None
    assert "within 300 s" in found(301).reason


def test_a_node_selector_that_no_node_has_is_told_in_the_schedulers_words() -> None:
    assert "affinity/selector" in outcome.lacking(
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    )
    assert outcome.lacking("") == "its scheduler said nothing"


DENIED = (
    "Error creating: pods \"run-abc-1-1-x\" is forbidden: ValidatingAdmissionPolicy 'images' with binding 'images'"
    " denied request: its image is not on the list"
)


@pytest.mark.parametrize(
    ("message", "failure", "said"),
    [
        (DENIED, "image-not-allowed", "its image is not on the list"),
        (
            'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest"',
            "pod-refused",
            "PodSecurity",
        ),
    ],
)
def test_a_pod_that_the_cluster_refuses_ends_the_run_at_once(message: str, failure: str, said: str) -> None:
    found = overdue(None, 1, refusals=[message])
    assert found is not None
    assert found[0] == failure
    assert said in found[1]


def test_a_used_up_quota_is_waited_for() -> None:
    message = 'Error creating: pods "x" is forbidden: exceeded quota: most, requested: memory=2Gi, used: memory=3Gi'
    assert overdue(None, 29, refusals=[message]) is None
    found = overdue(None, 31, refusals=[message])
    assert found is not None
    assert found[0] == "unschedulable"
    assert "memory=2Gi" in found[1]


def test_steps_that_began_are_told_with_their_times() -> None:
    begun = outcome.records(pod(phase="Pending", fetch=DONE, algorithm=RUNNING, publish=waiting("PodInitializing")))
    assert [step.name for step in begun] == ["fetch", "algorithm"]
    assert begun[0].started_at == NOW
    assert (begun[0].finished_at, begun[1].finished_at) == (NOW + 5, None)
    assert outcome.seconds(BEGUN) == NOW
