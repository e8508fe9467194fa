"""A visit to the platform that runs: a pod of the doctor's in its namespace, where the policies of `helm test` let it reach the doors.

Not here: the program in that pod (programs.visit).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from insitu.runs.launch.kubernetes.api import ApiRefused

from . import programs
from .cluster import Cluster, NoRight
from .finding import BAD, NOTE, OK, Finding
from .trial import Trial, ended, homeless, pull_failure
from .values import SiteValues

SECONDS = 400.0
RUN_SECONDS = 900.0
TOKEN = "INSITU_TOKEN"  # noqa: S105  # the name of the variable
STATES = {"ok": OK, "degraded": NOTE, "away": BAD}


def check(
    cluster: Cluster, values: SiteValues, image: str, *, token: str | None, calling: str, run: str | None
) -> Iterator[Finding]:
    """Make the pod, in the platform's image as it runs, and tell what it found.

    Parameters
    ----------
    cluster : Cluster
    values : SiteValues
    image : str
    token : str, optional
        Of an account that may send to, read and delete from the default project.
    calling : str
        AE title to call the receiver with.
    run : str, optional
        Algorithm to run on a phantom.
    """
    if values["networkPolicy.create"] and not values["tests.enabled"]:
        yield Finding(
            "visit", NOTE, "not checked: tests.enabled is false, so that no policy lets a visitor in",
            "Set tests.enabled: true, or look with `curl` and `echoscu` from the outside",
        )  # fmt: skip
        return
    with Trial(cluster, instead=values.namespace, only=values.namespace) as trial:
        volumes = []
        try:
            if token:
                secret = {"token": base64.b64encode(token.encode()).decode()}
                name = trial.name("token")
                trial.make(
                    "/api/v1/secrets",
                    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": secret},
                )
                volumes.append(({"secret": {"secretName": name, "defaultMode": 0o440}}, "/token"))
            trial.start(
                "visit", image, ["python", "-c", programs.text("visit")], asked=questions(values, calling, run),
                pull_policy=values["images.pullPolicy"], pull_secrets=values["global.imagePullSecrets"],
                scheduling=values["api.scheduling"], labels=values.selector("test"), volumes=volumes,
            )  # fmt: skip
        except (NoRight, ApiRefused) as error:
            yield Finding(
                "visit", NOTE, f"not checked: {error}", "Let somebody look who may create pods and secrets there"
            )
            return
        pod = trial.until(lambda pods: ended(pods.get("visit")), RUN_SECONDS if run else SECONDS).get("visit")
        found = trial.said("visit")
    if found is None:
        why = pull_failure(pod) or homeless(pod) or "it said nothing"
        yield Finding("visit", NOTE, f"not checked: the doctor's pod did not come to its end: {why}", "Try again")
        return
    yield from judge(found, token=bool(token), run=run)


def questions(values: SiteValues, calling: str, run: str | None) -> dict[str, Any]:
    """What the program in the pod needs to know. Pure."""
    name = values.name
    database = values["networkPolicy.create"] and values["database.bundled.enabled"]
    return {
        "api": f"http://{name}-api:{values['api.service.port']}",
        "gateway": f"http://{name}-gateway:8090/gateway/v1/executions/none/manifest",
        "receiver": [f"{name}-receiver", int(values["receiver.service.port"])],
        "called": values["settings"].get("ae_title") or "INSITU",
        "calling": calling,
        "denied": [f"{name}-database", 5432] if database else None,
        "run": run,
        "project": values["settings"].get("default_project") or "inbox",
    }


def judge(found: Mapping[str, Any], *, token: bool, run: str | None) -> Iterator[Finding]:
    """What the pod found. Pure."""
    ready = found["ready"]
    if "failed" in ready:
        yield Finding("readyz", BAD, ready["failed"], "Look at its pods: kubectl logs deployment/insitu-api")
    else:
        for name, component in (ready["found"].get("components") or {}).items():
            state = STATES[component["state"]]
            yield Finding(f"running {name}", state, component["says"], "" if state == OK else "See docs/operations.md")
    yield _step(
        found["echo"], "c-echo", "the receiver answers a C-ECHO",
        "Look at kubectl logs deployment/insitu-receiver; calling_ae_allowed must let the title of --calling in",
    )  # fmt: skip
    yield _step(
        found["gateway"],
        "run gateway",
        "the run gateway lets nobody in without a token",
        "kubectl logs deployment/insitu-gateway",
    )
    if "denied" in found:
        yield _step(
            found["denied"], "network policies", "policies keep this visitor from the database",
            "The network plugin does not enforce NetworkPolicies, or somebody has added one that lets everybody in",
        )  # fmt: skip
    if not token:
        yield Finding(
            "round trip", NOTE, "not checked: there is no token",
            f"Set {TOKEN} to a token of an account that may send to and delete from the default project, as"
            " `insitu token create doctor --days 1` makes one",
        )  # fmt: skip
        return
    refused = found["token"].get("failed") or found["token"]["found"]
    if refused:
        yield Finding(
            "round trip", NOTE, f"not checked: {refused}",
            f"Set {TOKEN} to another one, as `insitu token create doctor --days 1` makes it",
        )  # fmt: skip
        return
    trip = found["round trip"]
    if "failed" in trip:
        yield Finding(
            "round trip", BAD, trip["failed"],
            "Look at /readyz and the logs of receiver and api; a study of PatientID INSITU-DOCTOR that is left can be deleted by hand",
        )  # fmt: skip
    else:
        seconds = ", ".join(f"{step} {number:.1f} s" for step, number in trip["found"].items())
        yield Finding(
            "round trip",
            OK,
            f"a study came in by C-STORE and back byte for byte by WADO-RS, and is removed ({seconds})",
        )
    if run and "run" in found:
        if "failed" in found["run"]:
            yield Finding(
                "run",
                BAD,
                f"{run}: {found['run']['failed']}",
                "insitu run show EXECUTION; kubectl logs deployment/insitu-airflow-scheduler",
            )
        else:
            ran = found["run"]["found"]
            yield Finding(
                "run",
                OK,
                f"{run} ran on a phantom: {ran['results']} results after {ran['seconds']:.0f} s; all of it is removed",
            )


def _step(found: Mapping[str, Any], check: str, well: str, remedy: str) -> Finding:
    return Finding(check, BAD, found["failed"], remedy) if "failed" in found else Finding(check, OK, well)
