"""The whole local platform with a real Airflow, started once for all system tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.running import Running, platform

SECONDS = 1500  # of a test; the first one also waits for the start with everything to be made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give system tests the time they may need on a busy machine."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(scope="session")
def platform_up() -> Iterator[Running]:
    """A platform that is ready. Tests share it: they bring their own projects and series, and kill nothing for good."""
    with platform(quiet_time="1") as running:
        running.start()
        running.wait_ready()
        yield running
