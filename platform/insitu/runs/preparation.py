"""Between the workflow engine and the run table: what job an execution is, and what its outcome means for it.

Not here: how a job is carried out (insitu.runs.launch).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import sys
from pathlib import Path

from insitu.algorithms import manifest as manifests
from insitu.algorithms.package import environment_folder
from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, Unavailable
from insitu.settings import Settings

from .executions import ACTIVE, advance, finish, get, record, save_log
from .launch.specification import ATTEMPTS, AlgorithmPackage, JobOutcome, JobSpecification, Limits, job_name

# The tokens of an execution outlive its deadline by this time, for fetch, publish and a platform that is away for a while.
TOKEN_EXTRA_SECONDS = 6 * 3600


def step_token(settings: Settings, execution: str, step: str) -> str:
    """Token of one step of one execution: derived from a secret of the installation, so that a repeat gives the same.

    Raises
    ------
    Unavailable
        The secret is not there.
    """
    secret = settings.secrets / "step-key"
    try:
        key = secret.read_bytes().strip()
    except OSError as error:
        raise Unavailable(
            "The key of the step tokens cannot be read", value=str(secret), why=str(error.strerror)
        ) from error
    digest = hmac.new(key, f"{execution}:{step}".encode(), hashlib.sha256).digest()
    return "insitu_step_" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def specification(connection: Connection, settings: Settings, row: Row) -> JobSpecification:
    """The job of an execution (a locked row of executions.get); the same at every call. Moves it to `running`.

    Raises
    ------
    Conflict
        The execution has ended.
    Invalid
        The algorithm has no image, and this is a cluster.
    """
    execution = row["id"]
    if row["state"] not in ACTIVE:
        raise Conflict("This execution has ended", value=execution, why=f"its state is {row['state']}")
    manifest = manifests.validate(row["manifest"], "the installed manifest")
    image = row["image"] if settings.in_cluster else None
    if settings.in_cluster and image is None:
        raise Invalid(
            "This algorithm has no image, by which a cluster runs it",
            value=f"{row['algorithm']}@{row['algorithm_version']}",
            remedy="Install its package again, with one: insitu algorithm install PACKAGE --image REGISTRY/NAME@sha256:DIGEST",
        )
    tokens = {step: step_token(settings, execution, step) for step in ("fetch", "publish")}
    for step, token in tokens.items():
        connection.execute(
            "INSERT INTO execution_token (token_hash, execution, step, expires_at)"
            " VALUES (%s, %s, %s, now() + make_interval(secs => %s))"
            " ON CONFLICT (token_hash) DO UPDATE SET expires_at = excluded.expires_at",
            (
                hashlib.sha256(token.encode()).digest(),
                execution,
                step,
                ATTEMPTS * manifest.resources.seconds + TOKEN_EXTRA_SECONDS,
            ),
        )
    detail = None if image is None else {"image": image}  # which may be another for the next run of the same package
    if not advance(
        connection, execution, "running", allowed=("requested", "submitted"), stage="prepared", detail=detail
    ):
        record(connection, execution, "attached")
    return JobSpecification(
        name=job_name(execution),
        execution=execution,
        gateway_url=settings.run_gateway_url,
        fetch_token=tokens["fetch"],
        publish_token=tokens["publish"],
        algorithm=AlgorithmPackage(
            name=row["algorithm"],
            version=row["algorithm_version"],
            digest=row["algorithm_digest"],
            location=Path(row["location"]),
            entrypoint=manifest.entrypoint,
            environment=None if image else environment_folder(settings, Path(row["location"]), manifest),
            trusted=row["trusted"],
            image=image,
            purpose=manifest.purpose,
        ),
        limits=Limits(
            seconds=manifest.resources.seconds,
            memory_bytes=manifest.resources.memory,
            cpu=manifest.resources.cpu,
            gpu=manifest.resources.gpu,
            log_bytes=settings.algorithm_log_bytes,
            output_bytes=settings.result_bytes,
        ),
        python=Path(sys.executable),
    )


def conclude(connection: Connection, execution: str, outcome: JobOutcome, logs: dict[str, str]) -> bool:
    """End an execution with the outcome of its job and keep the logs; False if it had already ended."""
    for step, text in logs.items():
        save_log(connection, execution, step, text)
    if get(connection, execution)["state"] in ACTIVE:
        record(connection, execution, "ended", {"steps": [step.model_dump(mode="json") for step in outcome.steps]})
    if outcome.state == "succeeded":
        stored = connection.execute(
            "SELECT 1 FROM execution_result WHERE execution = %s LIMIT 1", (execution,)
        ).fetchone()
        if stored is None:
            return finish(
                connection, execution, "failed", failure="output-missing",
                reason="The job ended well, but none of its results is in the archive; look at the log of its publish step",
            )  # fmt: skip
        return finish(connection, execution, "succeeded")
    return finish(connection, execution, outcome.state, failure=outcome.failure or outcome.state, reason=outcome.reason)
