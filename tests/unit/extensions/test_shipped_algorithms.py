"""The shipped packages do what their manifests say, on their golden cases and on real images."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from insitu import demo_images
from insitu.algorithms import package as packages
from insitu.algorithms.manifest import Manifest
from insitu.dicom.measurements import Measurements, read_measurements

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("ct-tissue", "mr-tissue")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


phantoms = _load(Path(__file__).with_name("phantoms.py"))


def run(folder: Path, manifest: Manifest, image: nibabel.Nifti1Image, parameters: dict[str, Any] | None = None) -> Any:
    """Run a package's entry point as the launcher does, and return the ended process; its output lies in `folder`/out."""
    source, output = folder / "in" / manifest.inputs[0].name, folder / "out"
    source.mkdir(parents=True)
    output.mkdir()
    nibabel.save(image, source / "image.nii.gz")
    (folder / "parameters.json").write_text(json.dumps(manifest.check_parameters(parameters or {})))
    environment = {
        "PATH": os.environ["PATH"],
        "INSITU_INPUT": str(folder / "in"),
        "INSITU_OUTPUT": str(output),
        "INSITU_PARAMETERS": str(folder / "parameters.json"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *manifest.entrypoint[1:]]
    where = ROOT / "extensions" / manifest.name
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=280)


def labels_of(folder: Path) -> NDArray[np.uint8]:
    return np.asanyarray(nibabel.load(folder / "out" / "labels.nii.gz").dataobj)


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def numbers(measurements: Measurements) -> dict[tuple[int, str], float]:
    return {(item.segment, m.name): m.value for item in measurements.segments for m in item.measurements}


@pytest.mark.parametrize("name", NAMES)
def test_the_package_is_complete_and_its_lock_has_hashes(name: str) -> None:
    folder = ROOT / "extensions" / name
    manifest = packages.check(folder)
    assert manifest.name == name
    lock = (folder / manifest.environment.lock).read_text()
    pinned = [line for line in lock.splitlines() if "==" in line and not line.startswith("#")]
    assert len(pinned) >= 3
    assert lock.count("--hash=sha256:") >= len(pinned)
    wanted = {
        line.split(">")[0] for line in (folder / "requirements.in").read_text().splitlines() if not line.startswith("#")
    }
    assert wanted <= {line.split("==")[0] for line in pinned}


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_case_comes_out_within_its_tolerances(name: str, tmp_path: Path) -> None:
    folder = ROOT / "extensions" / name
    manifest = packages.check(folder)
    golden = manifest.golden
    assert golden is not None
    assert golden.measurements is not None
    ended = run(tmp_path, manifest, nibabel.load(folder / golden.inputs[manifest.inputs[0].name]))
    assert ended.returncode == 0, ended.stderr
    expected = np.asanyarray(nibabel.load(folder / golden.segmentations["tissue"]).dataobj)
    found = labels_of(tmp_path)
    for segment in manifest.outputs.segmentations[0].segments:
        assert dice(found == segment.label, expected == segment.label) >= golden.dice, segment.name
    wanted = numbers(read_measurements(folder / golden.measurements))
    got = numbers(read_measurements(tmp_path / "out" / "measurements.json"))
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert got[key] == pytest.approx(value, rel=golden.relative), key


@pytest.mark.parametrize(
    ("name", "build", "file"), [("ct-tissue", phantoms.ct_head, "ct"), ("mr-tissue", phantoms.mr_brain, "brain")]
)
def test_the_golden_case_is_the_phantom_that_the_repository_describes(name: str, build: Any, file: str) -> None:
    image, labels, affine = build()
    for stem, array in ((file, image), ("labels", labels)):
        stored = nibabel.load(ROOT / "extensions" / name / "golden" / f"{stem}.nii.gz")
        assert np.allclose(stored.affine, affine)
        # Random numbers and their rounding may differ in a voxel between versions of numpy.
        assert np.abs(np.asanyarray(stored.dataobj).astype(int) - array).max() <= 1


def test_the_averaged_brain_is_divided_as_its_own_tissue_maps_say(tmp_path: Path) -> None:
    data = ROOT / "build" / "demo-data"
    if not data.is_dir():
        pytest.skip("needs the averaged brain (make setup)")
    brain = demo_images.averaged_brain(data)
    ended = run(
        tmp_path, packages.check(ROOT / "extensions" / "mr-tissue"), nibabel.Nifti1Image(brain.array, brain.affine)
    )
    assert ended.returncode == 0, ended.stderr
    grey, white = demo_images.averaged_brain_tissues(data)
    found = labels_of(tmp_path)
    assert dice(found == 2, grey) >= 0.9
    assert dice(found == 3, white) >= 0.9


def test_the_head_ct_gives_a_skull_and_air_spaces_of_human_size(tmp_path: Path) -> None:
    if not demo_images.HEAD_CT_FILE.is_file():
        pytest.skip("needs the head CT (Debian package invesalius-examples)")
    head = demo_images.head_ct()
    ended = run(
        tmp_path, packages.check(ROOT / "extensions" / "ct-tissue"), nibabel.Nifti1Image(head.array, head.affine)
    )
    assert ended.returncode == 0, ended.stderr
    measured = numbers(read_measurements(tmp_path / "out" / "measurements.json"))
    assert 400 < measured[1, "Volume"] < 900
    assert 1800 < measured[2, "Volume"] < 4000
    assert 20 < measured[3, "Volume"] < 200
    assert 600 < measured[1, "Mean"] < 1200
    # Bone is nowhere in the lowest rows, where the head rest lies: the table is not part of the head.
    found = labels_of(tmp_path)
    assert not (found[:, -5:, :] > 0).any()


def test_a_head_with_its_skull_is_refused_with_a_sentence(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.full((20, 20, 20), 100, np.int16), np.eye(4))
    ended = run(tmp_path, packages.check(ROOT / "extensions" / "mr-tissue"), image)
    assert ended.returncode == 1
    assert "skull has not been removed" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("value", "sentence"), [(50, "no air"), (-1000, "Nothing in the image is a body")])
def test_values_that_are_no_ct_are_refused_with_a_sentence(value: int, sentence: str, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.full((20, 20, 20), value, np.int16), np.eye(4))
    ended = run(tmp_path, packages.check(ROOT / "extensions" / "ct-tissue"), image)
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_higher_bone_threshold_gives_less_bone(tmp_path: Path) -> None:
    manifest = packages.check(ROOT / "extensions" / "ct-tissue")
    image, _, affine = phantoms.ct_head()
    ended = run(tmp_path, manifest, nibabel.Nifti1Image(image, affine), {"bone_from": 1500})
    assert ended.returncode == 0, ended.stderr
    measured = numbers(read_measurements(tmp_path / "out" / "measurements.json"))
    assert measured[1, "Volume"] == 0
    assert (1, "Mean") not in measured
