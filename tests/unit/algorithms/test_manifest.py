"""The manifest of a package: what is refused, and how."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from insitu.algorithms import manifest as manifests
from insitu.errors import Invalid

from ... import doubles


def changed(path: str, value: Any) -> dict[str, Any]:
    """A good manifest with one field changed."""
    document = copy.deepcopy(doubles.manifest("well"))
    place: Any = document
    *parents, last = path.split(".")
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[int(last) if last.isdigit() else last] = value
    return document


def test_a_manifest_reads_back_as_it_was_stored() -> None:
    manifest = manifests.validate(doubles.manifest("well"), "algorithm.yaml")
    assert manifests.validate(json.loads(json.dumps(manifests.dump(manifest))), "stored") == manifest
    assert manifest.resources.memory == 512 * 2**20


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("insitu", 2, "format is not known"),
        ("colour", "red", "colour: Extra inputs are not permitted"),
        ("name", "CT Tissue", "name: String should match pattern"),
        ("version", 1.0, "version: Input should be a valid string"),
        ("entrypoint", [], "entrypoint:"),
        ("resources.memory", "lots", "expected a number of bytes such as 500M or 4Gi"),
        ("resources.seconds", 0, "resources.seconds:"),
        ("outputs.segmentations.0.file", "../mask.nii.gz", "outputs.segmentations.0.file:"),
        ("outputs.segmentations.0.file", "mask.png", "outputs.segmentations.0.file:"),
        ("outputs.segmentations.0.input", "other", "'other' is no input"),
        ("outputs.segmentations.0.segments.0.label", 0, "segments.0.label:"),
        ("outputs.segmentations.0.segments.0.type", {"scheme": "SCT", "value": "1"}, "type.meaning: Field required"),
        ("outputs.measurements.0.segmentation", "other", "'other' is no segmentation"),
        ("inputs.0.selector", {}, "inputs.0.selector.modality: Field required"),
        ("parameters", {"type": "array"}, "the schema must be one of an object"),
        ("parameters", {"type": "nonsense"}, "not a JSON Schema"),
    ],
)
def test_a_mistake_is_told_with_its_path(path: str, value: Any, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        manifests.validate(changed(path, value), "algorithm.yaml")
    assert said in str(caught.value)


def test_every_mistake_is_told_at_once() -> None:
    document = changed("name", "CT Tissue")
    document["licence"] = ""
    document["colour"] = "red"
    with pytest.raises(Invalid) as caught:
        manifests.validate(document, "algorithm.yaml")
    assert all(part in str(caught.value) for part in ("name:", "licence:", "colour:"))


def test_doubled_labels_and_names_are_refused() -> None:
    document = doubles.manifest("well")
    segments = document["outputs"]["segmentations"][0]["segments"]
    segments.append(copy.deepcopy(segments[0]))
    with pytest.raises(Invalid, match="label 1 stands more than once"):
        manifests.validate(document, "algorithm.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "\x00"])
def test_what_is_no_yaml_mapping_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "algorithm.yaml").write_text(text)
    with pytest.raises(Invalid):
        manifests.read(tmp_path)


def test_parameters_are_checked_and_defaults_filled_in() -> None:
    schema = {
        "type": "object",
        "properties": {"threshold": {"type": "number", "minimum": 0, "default": 100}, "fast": {"type": "boolean"}},
    }
    manifest = manifests.validate(doubles.manifest("well", parameters=schema), "algorithm.yaml")
    assert manifest.check_parameters({}) == {"threshold": 100}
    assert manifest.check_parameters({"threshold": 7, "fast": True}) == {"threshold": 7, "fast": True}
    with pytest.raises(Invalid) as caught:
        manifest.check_parameters({"threshold": -1, "slow": True})
    assert "threshold: -1 is less than the minimum of 0" in str(caught.value)
    assert "slow: double-well has no such parameter" in str(caught.value)
