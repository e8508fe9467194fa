"""The contract of launchers (tests/contract), held by the cluster's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..contract.conftest import Place, launcher, make_job, make_launcher, phantom
from ..contract.test_launcher import *  # noqa: F403  # the tests themselves
from ..contract.test_launcher import pytestmark
from . import launching

__all__ = ["launcher", "make_job", "make_launcher", "phantom", "pytestmark"]


@pytest.fixture
def place() -> Iterator[Place]:
    """A namespace of the cluster."""
    with launching.ground() as ground:
        yield Place(ground.launcher, ground.address, launching.fit)
