"""One PostgreSQL and one spawner for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .site import Site, bench


@pytest.fixture(scope="package")
def make() -> Iterator[Callable[..., Site]]:
    """Makes sites on one PostgreSQL."""
    with bench() as maker:
        yield maker
