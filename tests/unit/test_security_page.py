"""docs/security.md names tests for what it says is tested: they are there, and no test of the red team is forgotten."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def functions_of(path: Path) -> set[str]:
    """Names of a file's test functions."""
    return {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", PAGE)
    assert len(named) > 12
    missing = [(path, name) for path, name in named if name and name not in functions_of(ROOT / path)]
    assert missing == []
    assert all((ROOT / path).is_file() for path, _ in named)


def test_the_page_names_every_attempt_of_the_red_team() -> None:
    about_the_tests = {"test_the_red_team_tried_everything", "test_each_attempt_succeeds_where_nothing_forbids_it"}
    told = functions_of(ROOT / "tests" / "cluster" / "test_isolation.py") - about_the_tests
    assert {name for name in told if name not in PAGE} == set()
