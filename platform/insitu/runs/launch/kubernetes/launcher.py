"""The launcher of a cluster: one Job per attempt, made in steps that any launcher can complete, followed by watches.

A Job is made suspended, then the Secret of its tokens, which it owns, then it is released. To end one, the verdict is
written into it first and then its pod is given a deadline: so the kubelet stops the containers and keeps their logs, and
every launcher tells the same outcome. Not here: what the API's facts mean (outcome).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from insitu.errors import Conflict, Invalid, NotFound, Unavailable
from insitu.runs.outcomes import Failure, Verdict

from ..specification import ATTEMPTS, STEPS, JobOutcome, JobSpecification, OnStage, job_name
from . import manifest, outcome
from .api import Access, Api, ApiRefused
from .configuration import LauncherConfiguration
from .watching import Watch

LATE_SECONDS = 10.0  # after the Job has ended, for its pod's last state
MAKE_SECONDS = 30.0  # for a Secret of an earlier Job of this name to vanish
ACT_PATIENCE = 5.0  # seconds for a request while somebody waits for a sign of life
TAIL_BYTES = 16_384  # end of the log that is always kept
NO_POD_SECONDS = 2.0  # a Job without a pod for so long is asked for its events
LOOK_SECONDS = 0.5  # a limit may be passed although nothing changes
CONFLICTS = 10


@dataclass
class _Followed:
    """A job that somebody waits for."""

    jobs: Watch
    pods: Watch
    events: Watch | None = None
    reported: int = 0
    seen_without_pod: float | None = None
    pull_failing_since: float | None = None
    over_since: float | None = None
    ending: bool = False
    ended: JobOutcome | None = None
    watches: list[Watch] = field(default_factory=list)

    @property
    def listed(self) -> bool:
        """Whether there is a first answer."""
        return self.jobs.listed and self.pods.listed


class KubernetesLauncher:
    """Carries jobs out as Jobs of a cluster. See `Launcher` for the contract.

    Parameters
    ----------
    configuration : LauncherConfiguration
    access : Access, optional
        Of the API server; by default as the configuration says.
    """

    def __init__(self, configuration: LauncherConfiguration, access: Access | None = None) -> None:
        self._configuration = configuration
        self._access = access
        self._api_made: Api | None = None
        self._changed = threading.Condition()
        self._followed: dict[str, _Followed] = {}
        self._refused: dict[str, JobOutcome] = {}

    @property
    def _api(self) -> Api:
        if self._api_made is None:
            kubeconfig = self._configuration.kubeconfig
            access = self._access or (Access.of_pod() if kubeconfig is None else Access.of_kubeconfig(kubeconfig))
            self._api_made = Api(access)
        return self._api_made

    def launch(self, specification: JobSpecification) -> None:
        """Start the job, unless it was started before; complete what a launcher that was killed here left half done.

        Raises
        ------
        Invalid
            The algorithm has no image.
        Unavailable
            The API server stays away, or this launcher may not do what it has to.
        """
        name = specification.name
        job = self._get_job(name) or self._create(specification)
        if job is None or not job["spec"].get("suspend") or outcome.given_verdict(job) is not None:
            return
        self._give_tokens(specification, job["metadata"]["uid"])
        self._permitted(lambda: self._api.patch(self._job_path(name), {"spec": {"suspend": False}}))

    def _create(self, specification: JobSpecification) -> dict[str, Any] | None:
        """Make the Job; None where the cluster refuses it, which is its outcome then."""
        body = manifest.job(specification, self._configuration, self._gateway_address(specification))
        try:
            return self._api.create(self._jobs_path(), body)
        except ApiRefused as error:
            if error.status == 409:
                return self._get_job(specification.name)
            if error.status == 422 or outcome.POLICY in error.message or "admission webhook" in error.message:
                verdict = outcome.refused(error.message, str(specification.algorithm.image))
                self._refused[specification.name] = JobOutcome(
                    state="failed", failure=str(verdict.failure), reason=verdict.reason
                )
                return None
            raise _not_permitted(error) from error

    def _gateway_address(self, specification: JobSpecification) -> str | None:
        configuration = self._configuration
        if manifest.gateway_host(specification.gateway_url) is None:
            return None
        if configuration.gateway_service is None:
            return configuration.gateway_address
        service = configuration.gateway_service
        found = self._permitted(
            lambda: self._api.get(f"/api/v1/namespaces/{service.namespace}/services/{service.name}")
        )
        address: str | None = found["spec"].get("clusterIP")
        if address in (None, "", "None"):
            raise Unavailable("The run gateway's Service has no address of its own", value=service.name)
        return address

    def _give_tokens(self, specification: JobSpecification, uid: str) -> None:
        path = f"/api/v1/namespaces/{self._configuration.namespace}/secrets"
        deadline = time.monotonic() + MAKE_SECONDS
        while True:
            try:
                self._api.create(path, manifest.secret(specification, self._configuration, uid))
                return
            except ApiRefused as error:
                if error.status != 409:
                    raise _not_permitted(error) from error
            try:
                known = self._api.get(f"{path}/{specification.name}")
                owners = [owner["uid"] for owner in known["metadata"].get("ownerReferences") or []]
                if uid in owners:
                    return
                # Of an earlier Job of this name, which the cluster is about to remove.
                self._api.delete(f"{path}/{specification.name}")
            except ApiRefused as error:
                if error.status != 404:
                    raise _not_permitted(error) from error
            if time.monotonic() > deadline:
                raise Unavailable("A Secret of another Job is in the way of this one's", value=specification.name)
            time.sleep(0.2)

    def next_attempt(self, specification: JobSpecification, outcome: JobOutcome) -> JobSpecification | None:
        """Once: with twice the memory, up to the site's cap, after running out of it; the same again off a lost node.

        A training that had to make room does not count: the same job again, whose pod waits for room.
        """
        if outcome.failure == Failure.PREEMPTED and specification.algorithm.purpose == "training":
            return specification
        if specification.name == job_name(specification.execution, ATTEMPTS):
            return None
        name = job_name(specification.execution, ATTEMPTS)
        if outcome.failure in (Failure.EVICTED, Failure.PREEMPTED, Failure.NODE_LOST):
            return specification.model_copy(update={"name": name})
        cap, limits = self._configuration.memory_cap, specification.limits
        if outcome.failure != Failure.OUT_OF_MEMORY or cap is None or cap <= limits.memory_bytes:
            return None
        more = limits.model_copy(update={"memory_bytes": min(cap, 2 * limits.memory_bytes)})
        return specification.model_copy(update={"name": name, "limits": more})

    def wait(self, name: str, timeout: float, on_stage: OnStage | None = None) -> JobOutcome | None:
        """The outcome, or None if the job still runs after `timeout` seconds, or the API server is away for so long.

        Raises
        ------
        NotFound
            There is no such job, or it was removed.
        Unavailable
            This launcher may not look at jobs.
        """
        if name in self._refused:
            return self._refused[name]
        deadline = time.monotonic() + timeout
        followed = self._follow(name)
        first_look = time.monotonic() + ACT_PATIENCE
        while True:
            with self._changed:
                listed = followed.listed
                job, pod = self._state(followed, name)
                stages = outcome.records(pod)[followed.reported :]
                followed.reported += len(stages)
            if on_stage is not None:
                for record in stages:
                    on_stage(record.name)
            if job is not None:
                found = followed.ended or self._look(followed, name, job, pod)
                if found is not None:
                    self._unfollow(followed)
                    followed.ended = found
                    return found
            elif listed:
                return self._vanished(followed, name)
            left = deadline - time.monotonic()
            if not listed:
                self._raise_refusal(followed)
                left = max(left, first_look - time.monotonic())  # a first answer is worth a moment, also with timeout 0
            if left <= 0:
                return None
            with self._changed:
                if (followed.listed, self._state(followed, name)) == (listed, (job, pod)):
                    self._changed.wait(min(left, LOOK_SECONDS))

    def _state(self, followed: _Followed, name: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The Job, and its pod as it was seen last; from under the condition."""
        job = followed.jobs.objects.get(name)
        if job is None or not followed.pods.listed:
            return None, None
        mine = [
            pod
            for pod in (*followed.pods.gone.values(), *followed.pods.objects.values())
            if any(owner["uid"] == job["metadata"]["uid"] for owner in pod["metadata"].get("ownerReferences") or [])
        ]
        return job, mine[-1] if mine else None

    def _look(
        self, followed: _Followed, name: str, job: dict[str, Any], pod: dict[str, Any] | None
    ) -> JobOutcome | None:
        now = time.monotonic()
        over = outcome.condition(job, "Failed") or outcome.condition(job, "FailureTarget")
        if over and followed.over_since is None:
            followed.over_since = now
        with self._changed:
            gone = pod is not None and pod["metadata"]["name"] in followed.pods.gone
        late = followed.over_since is not None and (gone or now - followed.over_since > LATE_SECONDS)
        found = outcome.ended(job, pod, late=late)
        if found is not None:
            return found
        if job["spec"].get("suspend") and outcome.given_verdict(job) is None:
            return None  # a launcher is at work, or the next one will complete it
        verdict = outcome.given_verdict(job) or outcome.overdue(
            job,
            pod,
            self._configuration,
            now=time.time(),
            pull_failing_seconds=self._pull_failing(followed, pod, now),
            refusals=self._refusals(followed, job, pod, now),
        )
        if verdict is not None and not followed.ending:
            try:
                self._end(name, verdict)
                followed.ending = True
            except Unavailable:
                return None  # the next look tries again
        return None

    def _pull_failing(self, followed: _Followed, pod: dict[str, Any] | None, now: float) -> float:
        if pod is None or outcome.pull_problem(pod) is None:
            followed.pull_failing_since = None
            return 0.0
        if followed.pull_failing_since is None:
            followed.pull_failing_since = now
        return now - followed.pull_failing_since

    def _refusals(self, followed: _Followed, job: dict[str, Any], pod: dict[str, Any] | None, now: float) -> list[str]:
        """Why the cluster makes no pod, by the Job's events; they are watched only while there is none."""
        if pod is not None:
            if followed.events is not None:
                followed.events.stop()
                followed.events = None
            return []
        if followed.seen_without_pod is None:
            followed.seen_without_pod = now
        if followed.events is None and now - followed.seen_without_pod >= NO_POD_SECONDS:
            followed.events = self._watch(
                followed, "/api/v1", "events", fieldSelector=f"involvedObject.uid={job['metadata']['uid']}"
            )
        if followed.events is None:
            return []
        with self._changed:
            events = list(followed.events.objects.values())
        return [str(event.get("message") or "") for event in events if event.get("reason") == "FailedCreate"]

    def _vanished(self, followed: _Followed, name: str) -> JobOutcome:
        """The outcome of a job that somebody removed while it was followed.

        Raises
        ------
        NotFound
            It was not there in the first place.
        """
        with self._changed:
            seen = followed.jobs.gone.get(name)
        self._unfollow(followed)
        del self._followed[name]
        if seen is None:
            raise NotFound("There is no such job", value=name, remedy="Launch it first")
        return JobOutcome(
            state="failed",
            failure=str(Failure.RUNNER_LOST),
            reason="The Job of this run was deleted from the cluster before it ended",
            isolation="container",
        )

    def _follow(self, name: str) -> _Followed:
        known = self._followed.get(name)
        if known is not None:
            return known
        batch = "/apis/batch/v1"
        followed = _Followed(
            jobs=Watch(self._api, self._path(batch, "jobs"), self._changed, fieldSelector=f"metadata.name={name}"),
            pods=Watch(self._api, self._path("/api/v1", "pods"), self._changed, labelSelector=f"job-name={name}"),
        )
        followed.watches = [followed.jobs, followed.pods]
        for watch in followed.watches:
            watch.start()
        self._followed[name] = followed
        return followed

    def _watch(self, followed: _Followed, group: str, kind: str, **selectors: str) -> Watch:
        watch = Watch(self._api, self._path(group, kind), self._changed, **selectors)
        followed.watches.append(watch)
        watch.start()
        return watch

    def _unfollow(self, followed: _Followed) -> None:
        for watch in followed.watches:
            watch.stop()

    def _raise_refusal(self, followed: _Followed) -> None:
        for watch in (followed.jobs, followed.pods):
            if watch.refusal is not None and watch.refusal.status in (401, 403, 404):
                raise _not_permitted(watch.refusal)

    def cancel(self, name: str) -> None:
        """Ask the job to end. No-op for one that has ended.

        Raises
        ------
        NotFound
            There is no such job.
        """
        job = self._get_job(name)
        if job is None:
            if name in self._refused:
                return
            raise NotFound("There is no such job", value=name)
        pod = self._pod(job)
        if outcome.ended(job, pod, late=True) is not None:
            return
        begun = outcome.records(pod)
        during = "before it began" if not begun else f"during {begun[-1].name}"
        if begun and begun[-1].name == "algorithm":
            during = "while the algorithm ran"
        self._end(name, Verdict(Failure.CANCELLED, f"The run was cancelled {during}"), patience=60.0)

    def _end(self, name: str, verdict: Verdict, patience: float = ACT_PATIENCE) -> None:
        """Write the verdict into the Job, unless there is one, then end its pod; each can be done again."""
        content = json.dumps({"failure": str(verdict.failure), "reason": verdict.reason})
        for _ in range(CONFLICTS):
            job = self._get_job(name, patience)
            if job is None:
                return
            if outcome.given_verdict(job) is not None:
                break
            version = job["metadata"]["resourceVersion"]
            change = {"metadata": {"resourceVersion": version, "annotations": {manifest.VERDICT: content}}}
            try:
                job = self._api.patch(self._job_path(name), change, patience=patience)
                break
            except ApiRefused as error:
                if error.status == 404:
                    return
                if error.status != 409:  # 409: somebody changed it meanwhile
                    raise _not_permitted(error) from error
        else:
            raise Unavailable("A Job changes faster than a verdict can be written into it", value=name)
        pod = self._pod(job, patience)
        try:
            if pod is not None and outcome.bound(pod) and "deletionTimestamp" not in pod["metadata"]:
                if not outcome.finished(pod):
                    self._api.patch(
                        f"{self._path('/api/v1', 'pods')}/{pod['metadata']['name']}",
                        {"spec": {"activeDeadlineSeconds": 1}},
                        patience=patience,
                    )
                return
            if not job["spec"].get("suspend"):
                self._api.patch(self._job_path(name), {"spec": {"activeDeadlineSeconds": 1}}, patience=patience)
        except ApiRefused as error:
            if error.status != 404:
                raise _not_permitted(error) from error

    def log(self, name: str, step: str) -> str:
        """The log of a step so far, its beginning and always its end; empty where the step has not begun."""
        if step not in STEPS:
            raise Invalid("There is no such step", value=step, remedy=f"The steps are {', '.join(STEPS)}")
        job = self._get_job(name)
        pod = None if job is None else self._pod(job)
        if job is None or pod is None or all(record.name != step for record in outcome.records(pod)):
            return ""
        most = max(0, manifest.description(job).log_bytes - TAIL_BYTES)
        path = f"{self._path('/api/v1', 'pods')}/{pod['metadata']['name']}/log"
        try:
            head, tail = self._api.text(path, most=most, keep=TAIL_BYTES + 1, container=step)
        except ApiRefused as error:
            if error.status in (400, 404):
                return ""
            raise _not_permitted(error) from error
        between = b""
        if len(tail) > TAIL_BYTES:
            tail, between = tail[-TAIL_BYTES:], b"\n... bytes left out ...\n"
        return (head + between + tail).decode(errors="replace")

    def remove(self, name: str) -> None:
        """Remove the Job with its pod, Secret and logs.

        Raises
        ------
        Conflict
            The job still runs.
        """
        job = self._get_job(name)
        self._forget(name)
        if job is None:
            return
        if outcome.ended(job, self._pod(job), late=True) is None:
            raise Conflict("This job still runs", value=name, remedy="Cancel it first")
        try:
            self._api.delete(self._job_path(name), propagationPolicy="Background")
        except ApiRefused as error:
            raise _not_permitted(error) from error

    def _forget(self, name: str) -> None:
        self._refused.pop(name, None)
        followed = self._followed.pop(name, None)
        if followed is not None:
            self._unfollow(followed)

    def _get_job(self, name: str, patience: float | None = None) -> dict[str, Any] | None:
        try:
            return self._api.get(self._job_path(name), **({} if patience is None else {"patience": patience}))
        except ApiRefused as error:
            if error.status == 404:
                return None
            raise _not_permitted(error) from error

    def _pod(self, job: dict[str, Any], patience: float = 60.0) -> dict[str, Any] | None:
        found = self._permitted(
            lambda: self._api.get(
                self._path("/api/v1", "pods"), labelSelector=f"job-name={job['metadata']['name']}", patience=patience
            )
        )
        for pod in found.get("items") or []:
            if any(owner["uid"] == job["metadata"]["uid"] for owner in pod["metadata"].get("ownerReferences") or []):
                return dict(pod)
        return None

    def _permitted(self, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return action()
        except ApiRefused as error:
            raise _not_permitted(error) from error

    def _path(self, group: str, kind: str) -> str:
        return f"{group}/namespaces/{self._configuration.namespace}/{kind}"

    def _jobs_path(self) -> str:
        return self._path("/apis/batch/v1", "jobs")

    def _job_path(self, name: str) -> str:
        return f"{self._jobs_path()}/{name}"


def _not_permitted(error: ApiRefused) -> Unavailable:
    return Unavailable(
        "The Kubernetes API refuses what the launcher has to do",
        why=error.message,
        remedy="Look at the Role of the launcher's service account and at the namespace in its configuration",
    )
