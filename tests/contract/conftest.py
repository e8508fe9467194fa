"""Fixtures of the contract tests of launchers: a phantom series, a gateway, jobs made of doubles."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.algorithms import manifest as manifests
from insitu.algorithms import package as packages
from insitu.dicom.wrap import wrap_volume
from insitu.runs.launch.localgateway import LocalGateway
from insitu.runs.launch.process import ProcessLauncher
from insitu.runs.launch.specification import AlgorithmPackage, JobOutcome, JobSpecification, Launcher, Limits

from .. import doubles

PATIENCE = 240.0  # seconds until a job that should have ended counts as hanging


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small CT series: a bright cube in air."""
    array = np.full((24, 20, 8), -1000, np.int16)
    array[6:16, 5:15, 2:6] = 700
    return wrap_volume(
        array,
        np.diag([1.5, 1.5, 3.0, 1.0]),
        "CT",
        tmp_path_factory.mktemp("phantom"),
        patient_id="PHANTOM-1",
        patient_name="Phantom^Cube",
        study_description="Phantom",
        series_description="Cube in air",
        body_part="HEAD",
    )


@dataclass
class Job:
    """A job that can be launched, and the gateway it talks to."""

    specification: JobSpecification
    gateway: LocalGateway
    package: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the job."""
        return self.specification.name


@dataclass(frozen=True)
class Place:
    """Where jobs are carried out: how launchers of it are made, and what a job needs to be carried out there."""

    launcher: Callable[[], Launcher]
    gateway_host: str = "127.0.0.1"
    fit: Callable[[str, JobSpecification], JobSpecification] = lambda kind, specification: specification


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """This machine. tests/cluster runs the same tests at a place of its own."""
    return Place(lambda: ProcessLauncher(tmp_path / "jobs"))


@pytest.fixture
def make_job(request: pytest.FixtureRequest, tmp_path: Path, phantom: list[Path]) -> Iterator[Callable[..., Job]]:
    """Make a job of a double: `make_job("hang", seconds=3)`; for processes of this machine unless the test has a place."""
    there: Place | None = request.getfixturevalue("place") if "place" in request.fixturenames else None
    with ExitStack() as stack:

        def make(
            kind: str,
            *,
            parameters: dict[str, Any] | None = None,
            trusted: bool = True,  # runs on every machine; isolated where that works
            manifest: dict[str, Any] | None = None,
            paths: list[Path] | None = None,
            **limits: Any,
        ) -> Job:
            identity = uuid.uuid4().hex[:12]
            package = doubles.build(kind, tmp_path / "packages" / identity, **(manifest or {}))
            described = packages.check(package)
            digest = packages.digest(package)
            algorithm = {
                "name": described.name,
                "version": described.version,
                "digest": digest,
                "manifest": manifests.dump(described),
            }
            execution = f"{identity}-1"
            gateway = stack.enter_context(
                LocalGateway(
                    execution,
                    algorithm,
                    parameters or {},
                    {"image": phantom if paths is None else paths},
                    tmp_path / "results" / identity,
                    "127.0.0.1" if there is None else there.gateway_host,
                )
            )
            specification = JobSpecification(
                name=f"run-{execution}-1",
                execution=execution,
                gateway_url=gateway.url,
                fetch_token=gateway.fetch_token,
                publish_token=gateway.publish_token,
                algorithm=AlgorithmPackage(
                    name=described.name,
                    version=described.version,
                    digest=digest,
                    location=package,
                    entrypoint=described.entrypoint,
                    trusted=trusted,
                    purpose=described.purpose,
                ),
                limits=Limits(**{"seconds": 120.0, "memory_bytes": 512 * 2**20, "log_bytes": 100_000, **limits}),
                python=Path(sys.executable),
            )
            return Job(specification if there is None else there.fit(kind, specification), gateway, package)

        yield make


@pytest.fixture
def make_launcher(place: Place) -> Callable[[], Launcher]:
    """Make launchers that share their jobs, as two processes would."""
    return place.launcher


@pytest.fixture
def launcher(make_launcher: Callable[[], Launcher]) -> Launcher:
    """One launcher."""
    return make_launcher()


def outcome_of(launcher: Launcher, job: Job, stages: list[str] | None = None) -> JobOutcome:
    """The outcome of a job, waited for with patience; a job that does not end fails the test with its logs."""
    outcome = launcher.wait(job.name, PATIENCE, None if stages is None else stages.append)
    logs = {step: launcher.log(job.name, step) for step in ("fetch", "algorithm", "publish")}
    assert outcome is not None, f"the job did not end in {PATIENCE} s: {json.dumps(logs)}"
    return outcome
