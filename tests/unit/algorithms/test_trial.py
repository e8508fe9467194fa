"""`insitu algorithm validate|run` as the author of a package uses them, without a platform."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ... import doubles
from ...contract.conftest import phantom

__all__ = ["phantom"]  # fixtures


def insitu(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INSITU_")}
    return subprocess.run(
        [sys.executable, "-m", "insitu.cli", "algorithm", *arguments],
        env={**environment, "INSITU_HOME": str(home)}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_a_package_is_tried_on_files_of_this_machine(phantom: list[Path], tmp_path: Path) -> None:
    package = doubles.build("well", tmp_path / "packages")
    done = insitu(
        tmp_path / "home", "run", str(package), "--input", str(phantom[0].parent), "--output", str(tmp_path / "out"),
        "--trust", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["outcome"]["state"] == "succeeded"
    assert answer["summary"]["segments"][0]["label"] == "Bright"
    assert len(answer["files"]) == 2
    assert all(Path(file).is_file() for file in answer["files"])


@pytest.mark.timeout(600)
def test_a_failing_package_shows_its_log_and_the_reason(phantom: list[Path], tmp_path: Path) -> None:
    package = doubles.build("exit_1", tmp_path / "packages")
    done = insitu(
        tmp_path / "home", "run", str(package), "--input", str(phantom[0].parent), "--output", str(tmp_path / "out"),
        "--trust",
    )  # fmt: skip
    assert done.returncode == 1
    assert "looking for the brain" in done.stderr
    assert "The run failed (algorithm-failed)" in done.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.dcm"))


def test_a_series_that_does_not_fit_is_refused_with_the_reason(phantom: list[Path], tmp_path: Path) -> None:
    package = doubles.build("well", tmp_path, inputs=[{"name": "image", "selector": {"modality": ["MR"]}}])
    done = insitu(tmp_path, "run", str(package), "--input", str(phantom[0].parent), "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "Modality is CT, wanted is MR" in done.stderr


def test_validate_tells_the_digest_or_every_mistake(tmp_path: Path) -> None:
    good = insitu(tmp_path, "validate", str(doubles.build("well", tmp_path / "good")), "--json")
    assert json.loads(good.stdout)["digest"].startswith("sha256:")
    bad = insitu(tmp_path, "validate", str(doubles.build("well", tmp_path / "bad", version="one", licence="")))
    assert bad.returncode == 1
    assert "version:" in bad.stderr
    assert "licence:" in bad.stderr
    assert "Traceback" not in bad.stderr
