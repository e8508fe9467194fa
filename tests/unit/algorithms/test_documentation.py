"""docs/algorithm-yaml.md tells what is true: its example is a valid manifest that shows every field, its failures are all."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import BaseModel

from insitu.algorithms import manifest as manifests
from insitu.dicom.measurements import parse_measurements
from insitu.runs.outcomes import Failure

PAGE = (Path(__file__).parents[3] / "docs" / "algorithm-yaml.md").read_text()


def blocks(language: str) -> list[str]:
    """The code blocks of the page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def unset_fields(model: BaseModel, path: str = "") -> list[str]:
    """Fields that a document did not give, at any depth."""
    missing = [path + name for name in type(model).model_fields if name not in model.model_fields_set]
    for name in type(model).model_fields:
        value = getattr(model, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, BaseModel):
                missing += unset_fields(item, f"{path}{name}.")
    return missing


def test_the_example_is_valid_and_shows_every_field() -> None:
    (example,) = blocks("yaml")
    manifest = manifests.validate(yaml.safe_load(example), "the example")
    assert unset_fields(manifest) == []


def test_the_example_of_measurements_is_valid() -> None:
    (example,) = blocks("json")
    assert len(parse_measurements(example).segments[0].measurements) == 3


def test_every_kind_of_failure_is_described() -> None:
    assert set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)) == set(Failure)
