"""Asking for a run: which algorithm, does it take this series, with which parameters; by a person or by a rule.

Not here: states and history of what was asked for (executions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from insitu.algorithms import manifest as manifests
from insitu.algorithms import registry, selector
from insitu.archive import index
from insitu.archive.completeness import CompleteSeries
from insitu.audit import trail
from insitu.database import Connection
from insitu.errors import Conflict, InsituError, Invalid, NotFound
from insitu.routing import apply as routing
from insitu.routing.evaluate import Decision

from . import executions
from .executions import Requested
from .identity import RunInput
from .steps.version import PUBLISH_VERSION


@dataclass(frozen=True)
class Wanted:
    """A run as it is asked for: `algorithm` is NAME or NAME@VERSION, `series` a Series Instance UID."""

    project: str
    algorithm: str
    series: str
    parameters: dict[str, Any]

    @classmethod
    def of(cls, project: str | None, algorithm: str | None, series: str | None, parameters: dict[str, Any]) -> Wanted:
        """The request with these parts.

        Raises
        ------
        Invalid
            One of them is missing.
        """
        for name, value in (("project", project), ("algorithm", algorithm), ("series", series)):
            if not value:
                raise Invalid(f"The request names no {name}", remedy="Name project, algorithm and series, or `again`")
        return cls(str(project), str(algorithm), str(series), parameters)


def for_series(
    connection: Connection,
    wanted: Wanted,
    *,
    requested_by: str,
    rule: str | None = None,
    depth: int = 1,
    force: bool = False,
) -> Requested:
    """Ask for a run on one complete series.

    Raises
    ------
    NotFound
        Project, algorithm or series do not exist.
    Conflict
        The series is not complete yet.
    Invalid
        The algorithm does not take this series or these parameters; every reason is named.
    """
    if connection.execute("SELECT 1 FROM project WHERE name = %s", (wanted.project,)).fetchone() is None:
        raise NotFound("There is no such project", value=wanted.project)
    algorithm = registry.find(connection, wanted.algorithm)
    if not algorithm.enabled:
        raise Conflict("This algorithm is not enabled", value=wanted.algorithm, remedy="insitu algorithm enable NAME")
    series = index.find_series(connection, wanted.series, None)
    if series is None:
        raise NotFound("There is no such series", value=wanted.series)
    revision = connection.execute(
        "SELECT revision, content_digest FROM series_revision WHERE series = %s ORDER BY revision DESC LIMIT 1",
        (series["id"],),
    ).fetchone()
    if revision is None or series["state"] != "complete":
        raise Conflict(
            "This series is still being received",
            value=wanted.series,
            remedy="Wait for its quiet time, or declare it complete",
        )
    manifest = manifests.validate(algorithm.manifest, "the installed manifest")
    if len(manifest.inputs) != 1:
        raise Invalid("This algorithm takes several inputs, a run on one series cannot give them", value=manifest.name)
    only = manifest.inputs[0]
    reasons = selector.reasons_against(
        only.selector,
        index.series_attributes(connection, series["id"]),
        index.count_instances(connection, series["id"]),
    )
    if reasons:
        raise Invalid(
            f"{manifest.name} {manifest.version} does not take this series", value=wanted.series, why="; ".join(reasons)
        )
    return executions.request(
        connection,
        project=wanted.project,
        algorithm_digest=algorithm.digest,
        publish_version=PUBLISH_VERSION,
        inputs=[
            RunInput(
                name=only.name,
                series_instance_uid=wanted.series,
                revision=revision["revision"],
                content_digest=bytes(revision["content_digest"]).hex(),
            )
        ],
        parameters=manifest.check_parameters(wanted.parameters),
        requested_by=requested_by,
        rule=rule,
        depth=depth,
        force=force,
    )


def again(connection: Connection, execution: str, *, requested_by: str) -> Requested:
    """Ask for a new execution of the run of `execution`: same input, algorithm and parameters."""
    row = executions.get(connection, execution)
    return executions.request(
        connection,
        project=row["project"],
        algorithm_digest=row["algorithm_digest"],
        publish_version=row["publish_version"],
        inputs=[RunInput.model_validate(item) for item in row["inputs"]],
        parameters=row["parameters"],
        requested_by=requested_by,
        rule=row["rule"],
        depth=row["depth"],
        force=True,
    )


def for_decision(connection: Connection, series: CompleteSeries, decision: Decision) -> list[dict[str, Any]]:
    """Ask for every run of a routing decision, and keep with the decision what became of each.

    A run that cannot be asked for (the algorithm is not installed, does not take the series) is explained there; the
    others go on.
    """
    answers: list[dict[str, Any]] = []
    for run in decision.runs:
        name = f"{run.algorithm}@{run.version}" if run.version else run.algorithm
        answer: dict[str, Any] = {"rule": run.rule, "algorithm": name, "project": run.project}
        wanted = Wanted(run.project, name, series.series_instance_uid, run.parameters)
        try:
            with connection.transaction():
                requested = for_series(
                    connection, wanted, requested_by=f"rule {run.rule}", rule=run.rule, depth=decision.depth
                )
                if requested.created:
                    trail.record(
                        connection, f"rule {run.rule}", "run", "run", requested.execution, run.project,
                        detail={"algorithm": name, "series": series.series_instance_uid},
                    )  # fmt: skip
            answer["execution"] = requested.execution
        except InsituError as error:
            answer["refused"] = str(error)
        answers.append(answer)
    if answers:
        routing.add(connection, series, "requests", answers)
    return answers
