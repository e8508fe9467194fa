"""What the API's own facts about a job mean: whether it has ended and how, and whether it must be ended. Pure.

    ended     the outcome of a job by its Job and its pod
    overdue   why a job that goes on has to be ended now

Not here: asking the API (launcher), the sentences of the algorithm's own end (insitu.runs.outcomes).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from insitu.runs.outcomes import Ended, Failure, Verdict, judge_algorithm, judge_step, last_lines, megabytes

from ..specification import STEPS, JobOutcome, StepRecord
from .configuration import LauncherConfiguration
from .manifest import TAKEN_AWAY, VERDICT, Description, description

Item = dict[str, Any]
PULL_FAILS = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError")
NO_IMAGE = ("InvalidImageName", "ErrImageNeverPull")  # trying again does not change these
NOT_STARTED = ("StartError", "ContainerCannotRun", "RunContainerError", "CreateContainerError", "ContainerCannotStart")
NODE_GONE = ("DeletionByTaintManager", "DeletionByPodGC")
WROTE_TOO_MUCH = re.compile(r'EmptyDir volume "(output|scratch|tmp)"|[Ee]phemeral local storage')
PREEMPTED = "PreemptionByScheduler"
POLICY = "ValidatingAdmissionPolicy"
NOT_SCHEDULED = "The cluster had no room for the run within {seconds:g} s: {why}"


def step_states(pod: Item) -> dict[str, Item]:
    """State of each step's container, where the kubelet told one."""
    status = pod.get("status") or {}
    every = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return {item["name"]: item.get("state") or {} for item in every if item["name"] in STEPS}


def records(pod: Item | None) -> list[StepRecord]:
    """The steps that began, in their order."""
    found = []
    states = {} if pod is None else step_states(pod)
    for step in STEPS:
        state = states.get(step, {})
        running, ended = state.get("running"), state.get("terminated")
        if running is not None and running.get("startedAt"):
            found.append(StepRecord(name=step, started_at=seconds(running["startedAt"])))
        elif ended is not None and ended.get("startedAt"):
            found.append(
                StepRecord(
                    name=step,
                    started_at=seconds(ended["startedAt"]),
                    finished_at=None if not ended.get("finishedAt") else seconds(ended["finishedAt"]),
                    exit_code=ended.get("exitCode"),
                )
            )
    return found


def seconds(text: str) -> float:
    """Seconds since the epoch of a time as the API writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def condition(item: Item | None, kind: str) -> Item | None:
    """A condition of an object that holds."""
    for one in ((item or {}).get("status") or {}).get("conditions") or []:
        if one.get("type") == kind and one.get("status") == "True":
            return dict(one)
    return None


def finished(pod: Item) -> bool:
    """Whether nothing of a pod runs any more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def bound(pod: Item) -> bool:
    """Whether a pod has got its node."""
    return bool((pod.get("spec") or {}).get("nodeName"))


def given_verdict(job: Item) -> Verdict | None:
    """The verdict by which a launcher ended a job."""
    text = (job["metadata"].get("annotations") or {}).get(VERDICT)
    if text is None:
        return None
    content = json.loads(text)
    return Verdict(Failure(content["failure"]), content["reason"])


def ended(job: Item, pod: Item | None, *, late: bool = False) -> JobOutcome | None:
    """The outcome of a job, or None where it has not ended.

    Parameters
    ----------
    job : dict
        The Job.
    pod : dict or None
        Its pod, as it was seen last, also where it is gone since.
    late : bool
        The Job ended, or its pod was to be ended, a while ago: what the pod still tells will not change.
    """
    described = description(job)
    failed = condition(job, "Failed") or condition(job, "FailureTarget")
    if condition(job, "Complete") or (pod is not None and pod.get("status", {}).get("phase") == "Succeeded"):
        return JobOutcome(state="succeeded", steps=records(pod), isolation="container")
    given = given_verdict(job)
    lost = None if pod is None else _node_gone(pod)
    if pod is not None and not finished(pod) and lost is None:
        if not (failed and late):
            return None
    elif pod is None and failed is None and given is None:
        return None
    verdict = _verdict(described, job, pod, failed, given)
    return JobOutcome(
        state="cancelled" if verdict.failure is Failure.CANCELLED else "failed",
        failure=str(verdict.failure),
        reason=verdict.reason,
        steps=records(pod),
        isolation="container",
    )


def _verdict(
    described: Description, job: Item, pod: Item | None, failed: Item | None, given: Verdict | None
) -> Verdict:
    for found in _verdicts(described, job, pod, failed, given):
        if found is not None:
            return found
    return Verdict(Failure.RUNNER_LOST, "The pod of this run was deleted before it ended, and nobody said why")


def _verdicts(
    described: Description, job: Item, pod: Item | None, failed: Item | None, given: Verdict | None
) -> Iterator[Verdict | None]:
    """What can be said about an end, what says most first."""
    if given is not None and given.failure is Failure.CANCELLED:
        yield given
    if pod is not None:
        yield _out_of_memory(described, step_states(pod))
    yield given
    if failed is not None and failed.get("reason") == "DeadlineExceeded":
        yield Verdict(Failure.DEADLINE_EXCEEDED, _too_long(job, pod))
    if pod is not None:
        yield _node_gone(pod)
        yield _taken_away(described, pod)
        yield _deleted(pod)
        yield _by_containers(described, step_states(pod))
    if failed is not None:
        yield _by_job(str(failed.get("message") or ""))


def _out_of_memory(described: Description, states: dict[str, Item]) -> Verdict | None:
    for step, state in states.items():
        end = state.get("terminated")
        if end is None or end.get("reason") != "OOMKilled" or not end.get("exitCode"):
            continue
        if step == "algorithm":
            return Verdict(
                Failure.OUT_OF_MEMORY,
                f"The algorithm used more memory than its limit of {megabytes(described.memory_bytes)} and was stopped",
            )
        other = Failure.FETCH_FAILED if step == "fetch" else Failure.PUBLISH_FAILED
        return Verdict(other, f"The step {step} used more memory than the site allows it and was stopped")
    return None


def _node_gone(pod: Item) -> Verdict | None:
    taken = condition(pod, TAKEN_AWAY)
    reason = "" if taken is None else str(taken.get("reason"))
    status = pod.get("status") or {}
    told = str(status.get("reason") or "")
    if reason in NODE_GONE or told in ("NodeLost", "NodeShutdown", "Terminated", "Shutdown"):
        node = (pod.get("spec") or {}).get("nodeName") or "its node"
        return Verdict(Failure.NODE_LOST, f"The node {node} that carried out the run is gone or does not answer")
    return None


def _taken_away(described: Description, pod: Item) -> Verdict | None:
    status = pod.get("status") or {}
    taken = condition(pod, TAKEN_AWAY)
    told, message = str(status.get("reason") or ""), str(status.get("message") or "")
    if told == "Evicted" and WROTE_TOO_MUCH.search(message):
        return Verdict(
            Failure.OUTPUT_TOO_LARGE,
            f"The algorithm wrote more than its limit of {megabytes(described.output_bytes)} and was stopped"
            f" ({message.strip().rstrip('.')})",
        )
    if told.startswith("OutOf") or told in ("NodeAffinity", "UnexpectedAdmissionError"):
        return Verdict(Failure.EVICTED, f"The node refused the run ({told}: {message.strip().rstrip('.')})")
    if taken is not None and taken.get("reason") == PREEMPTED:
        why = str(taken.get("message") or "").strip().rstrip(".")
        return Verdict(Failure.PREEMPTED, f"The run had to make room for one of higher priority ({why})")
    if told == "Evicted" or taken is not None:
        why = message or str((taken or {}).get("message") or "")
        named = "" if taken is None else f"{taken.get('reason')}: "
        return Verdict(Failure.EVICTED, f"The cluster took the run off its node ({named}{why.strip().rstrip('.')})")
    return None


def _deleted(pod: Item) -> Verdict | None:
    ends = [state["terminated"].get("exitCode") for state in step_states(pod).values() if "terminated" in state]
    if "deletionTimestamp" not in pod["metadata"] or any(code not in (0, 137, 143) for code in ends):
        return None
    return Verdict(Failure.RUNNER_LOST, "The pod of this run was deleted from the cluster before it ended")


def _by_containers(described: Description, states: dict[str, Item]) -> Verdict | None:
    for step in STEPS:
        end = states.get(step, {}).get("terminated")
        if end is None or end.get("exitCode") == 0:
            continue
        message, code = str(end.get("message") or ""), int(end.get("exitCode") or 0)
        if end.get("reason") in NOT_STARTED:
            return Verdict(
                Failure.ENVIRONMENT_MISSING,
                f"The command of the step {step} cannot be started in its image ({last_lines(message)})",
            )
        if step == "algorithm":
            return judge_algorithm(
                Ended.BY_ITSELF,
                code,
                seconds=described.seconds,
                memory_bytes=described.memory_bytes,
                output_bytes=described.output_bytes,
                peak_memory_bytes=0,
                log_tail=message,
            )
        return judge_step(step, Ended.BY_ITSELF, code, _report(message), message)
    return None


def _report(message: str) -> dict[str, object] | None:
    try:
        content = json.loads(message)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _by_job(message: str) -> Verdict | None:
    """What the Job remembers of a pod that nobody saw end."""
    if f"condition {TAKEN_AWAY}" in message:
        return Verdict(
            Failure.EVICTED, "The cluster took the run off its node; its pod is gone, so it is not known why"
        )
    found = re.search(r"Container (\w+) for pod \S+ failed with exit code (\d+)", message)
    if found is None:
        return None
    step, code = found[1], int(found[2])
    failure = {"fetch": Failure.FETCH_FAILED, "publish": Failure.PUBLISH_FAILED}.get(step, Failure.ALGORITHM_FAILED)
    what = "The algorithm" if step == "algorithm" else f"The step {step}"
    return Verdict(failure, f"{what} ended with status {code}; its pod is gone, and its log with it")


def _too_long(job: Item, pod: Item | None) -> str:
    waiting = [] if pod is None else [
        f"{step} waited: {state['waiting'].get('reason')} {state['waiting'].get('message') or ''}".strip()
        for step, state in step_states(pod).items()
        if state.get("waiting", {}).get("reason") not in (None, "PodInitializing")
    ]  # fmt: skip
    limit = job["spec"].get("activeDeadlineSeconds")
    return f"The run did not end within {limit} s in all and was stopped" + (
        f" ({'; '.join(waiting)})" if waiting else ""
    )


def pull_problem(pod: Item) -> tuple[str, str, str] | None:
    """The step whose image does not come, why by one word, and the message of the container runtime."""
    for step, state in step_states(pod).items():
        waiting = state.get("waiting") or {}
        if waiting.get("reason") in (*PULL_FAILS, *NO_IMAGE):
            return step, str(waiting["reason"]), str(waiting.get("message") or "")
    return None


def overdue(
    job: Item,
    pod: Item | None,
    configuration: LauncherConfiguration,
    *,
    now: float,
    pull_failing_seconds: float,
    refusals: Sequence[str],
) -> Verdict | None:
    """Why a job that goes on has to be ended now; None where it may go on.

    Parameters
    ----------
    job, pod : dict, dict or None
    configuration : LauncherConfiguration
    now : float
        Seconds since the epoch.
    pull_failing_seconds : float
        Since when the pull of an image has failed again and again.
    refusals : sequence of str
        Messages of events that tell why the cluster made no pod.
    """
    if pod is None:
        return _no_pod(job, configuration, now, refusals)
    if finished(pod):
        return None
    described = description(job)
    problem = pull_problem(pod)
    if problem is not None and (problem[1] in NO_IMAGE or pull_failing_seconds >= configuration.image_seconds):
        step, _, message = problem
        image = described.image if step == "algorithm" else configuration.step_image
        whose = "of the algorithm" if step == "algorithm" else f"of the step {step}"
        return Verdict(
            Failure.IMAGE_NOT_FOUND, f"The image {whose} cannot be had: {image} ({last_lines(message, 1, 300)})"
        )
    for step, state in step_states(pod).items():
        waiting = state.get("waiting") or {}
        if waiting.get("reason") in NOT_STARTED:
            return Verdict(
                Failure.ENVIRONMENT_MISSING,
                f"The container of the step {step} cannot be made ({last_lines(str(waiting.get('message') or ''))})",
            )
    if not bound(pod):
        return _unschedulable(described, pod, configuration, now)
    return _over_time(described, pod, now)


def _over_time(described: Description, pod: Item, now: float) -> Verdict | None:
    for step, state in step_states(pod).items():
        begun = (state.get("running") or {}).get("startedAt")
        if begun is None:
            continue
        limit = described.seconds if step == "algorithm" else described.step_seconds
        # Whole seconds stand in the API: a step that began at the end of one is given it.
        if now < seconds(begun) + 1.0 + limit:
            continue
        if step == "algorithm":
            return judge_algorithm(
                Ended.AT_DEADLINE,
                0,
                seconds=described.seconds,
                memory_bytes=described.memory_bytes,
                output_bytes=described.output_bytes,
                peak_memory_bytes=0,
                log_tail="",
            )
        return judge_step(step, Ended.AT_DEADLINE, 0, None, "")
    return None


def _unschedulable(
    described: Description, pod: Item, configuration: LauncherConfiguration, now: float
) -> Verdict | None:
    most = configuration.seconds_for_room(described.purpose)
    if now < seconds(pod["metadata"]["creationTimestamp"]) + most:
        return None
    for one in (pod.get("status") or {}).get("conditions") or []:
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return Verdict(
                Failure.UNSCHEDULABLE,
                NOT_SCHEDULED.format(seconds=most, why=lacking(str(one.get("message") or ""))),
            )
    return Verdict(
        Failure.UNSCHEDULABLE,
        NOT_SCHEDULED.format(seconds=most, why="its scheduler said nothing"),
    )


def lacking(message: str) -> str:
    """What the scheduler says is lacking, the resources by name first."""
    resources = list(dict.fromkeys(re.findall(r"Insufficient ([\w./-]*[\w])", message)))
    said = message.partition(" preemption:")[0].strip().rstrip(".")
    if not resources:
        return said or "its scheduler said nothing"
    return f"not enough {', '.join(resources)} ({said})"


def _no_pod(job: Item, configuration: LauncherConfiguration, now: float, refusals: Sequence[str]) -> Verdict | None:
    begun = (job.get("status") or {}).get("startTime")
    most = configuration.seconds_for_room(description(job).purpose)
    for message in refusals:
        if "exceeded quota" in message:
            if begun is not None and now >= seconds(begun) + most:
                why = message.partition("exceeded quota")[2].lstrip(": ")
                return Verdict(
                    Failure.UNSCHEDULABLE,
                    NOT_SCHEDULED.format(seconds=most, why=f"the quota of its namespace is used up ({why})"),
                )
            continue
        return refused(message, description(job).image)
    return None


def refused(message: str, image: str) -> Verdict:
    """What the cluster's refusal of a Job or pod means."""
    why = message.rpartition("denied request: ")[2].strip().rstrip(".")
    if POLICY in message and "image" in why:
        return Verdict(
            Failure.IMAGE_NOT_ALLOWED,
            f"The cluster's policy does not allow the image of this run: {image} ({why[:400]})",
        )
    return Verdict(
        Failure.POD_REFUSED, f"The cluster refuses the pod of this run ({message.strip().rstrip('.')[:500]})"
    )
