"""The contract of launchers (tests/contract), held by the cluster's: its fixture `place` stands in conftest."""

from ..contract.test_launcher import *  # noqa: F403  # the tests themselves
from ..contract.test_launcher import pytestmark

__all__ = ["pytestmark"]
