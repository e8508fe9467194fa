"""Fixtures of the tests on a cluster: the cluster, the images in it, and a namespace per test; a failed test shows what happened there."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..contract.conftest import Place, launcher, make_job, make_launcher, phantom
from . import launching
from .cluster import Cluster, Namespace, find_cluster
from .images import Images
from .launching import Ground
from .replicas import ReplicatedSite, replicated
from .site import ClusterSite
from .site import site as installed

__all__ = ["launcher", "make_job", "make_launcher", "phantom"]


SECONDS = 2400  # of a test: with nothing cached, the first ones also build the cluster and the images


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests on a cluster the time that they may need on a new machine."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(SECONDS), append=False)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """A running cluster; without one the test is skipped."""
    return find_cluster()


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> Images:
    """Images by name, built and loaded when first asked for: `images["platform"]`, `images.by_digest("ct-tissue")`."""
    return Images(cluster)


@pytest.fixture(scope="session")
def site(cluster: Cluster, images: Images) -> Iterator[ClusterSite]:
    """A platform in the cluster. Tests share it: they bring their own projects and series, and break nothing for good."""
    with installed(cluster, images) as site:
        yield site


@pytest.fixture(scope="session")
def replicas(cluster: Cluster, images: Images) -> Iterator[ReplicatedSite]:
    """A platform with two of each process. Tests upgrade it and kill parts of it, and leave it whole."""
    with replicated(cluster, images) as site:
        yield site


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's own under Pod Security `restricted`."""
    module = re.sub(r"[^a-z0-9]+", "-", request.module.__name__.rpartition(".")[2].lower())
    with cluster.namespace(module[:40].strip("-")) as namespace:
        yield namespace


@pytest.fixture
def ground() -> Iterator[Ground]:
    """A namespace for algorithm pods."""
    with launching.ground() as made:
        yield made


@pytest.fixture
def place(ground: Ground) -> Place:
    """Where the jobs of a test are carried out."""
    return Place(ground.launcher, ground.address, launching.fit)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Put events and logs of a failed test's namespaces into its report, while they still exist."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            used = value.namespace if isinstance(value, Ground | ClusterSite) else value
            if isinstance(used, Namespace):
                report.sections.append((f"namespace {used.name}", used.trouble()))
