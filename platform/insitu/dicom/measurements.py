"""The file `measurements.json` that an algorithm writes: numbers per segment, each with its unit.

    {"version": 1,
     "segments": [{"segment": 1,
                   "measurements": [{"name": "Volume", "value": 812.4, "unit": "ml"},
                                    {"name": "Mean", "value": 640.1, "unit": "[hnsf'U]"},
                                    {"name": "Standard deviation", "value": 310.7, "unit": "[hnsf'U]"}]}]}

`segment` is the label in the segmentation. Units are UCUM; `1` means no unit (MR intensity).
Not here: how the numbers become a structured report (report).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from insitu.errors import Invalid

LARGEST_FILE = 16_000_000  # bytes

INTENSITY_UNITS = ("[hnsf'U]", "1")


class Measurement(BaseModel):
    """One number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["Volume", "Mean", "Standard deviation"]
    value: FiniteFloat
    unit: Literal["ml", "[hnsf'U]", "1"]

    @model_validator(mode="after")
    def _unit_fits(self) -> Self:
        allowed = ("ml",) if self.name == "Volume" else INTENSITY_UNITS
        if self.unit not in allowed:
            raise ValueError(f"{self.name} is given in {' or '.join(allowed)}, not in {self.unit}")
        if self.name != "Mean" and self.value < 0:
            raise ValueError(f"{self.name} cannot be negative")
        return self


class SegmentMeasurements(BaseModel):
    """The numbers of one segment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segment: int = Field(ge=1, le=65535)
    measurements: tuple[Measurement, ...]

    @model_validator(mode="after")
    def _once(self) -> Self:
        names = [item.name for item in self.measurements]
        if len(names) != len(set(names)):
            raise ValueError(f"segment {self.segment} has a measurement twice")
        return self


class Measurements(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    segments: tuple[SegmentMeasurements, ...]

    @model_validator(mode="after")
    def _once(self) -> Self:
        labels = [item.segment for item in self.segments]
        if len(labels) != len(set(labels)):
            raise ValueError("a segment stands twice")
        return self


def parse_measurements(text: str | bytes) -> Measurements:
    """Read the content of a measurements file.

    Raises
    ------
    Invalid
        It is not JSON or not of this form; the message names the place and the value.
    """
    try:
        return Measurements.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise Invalid(
            "The measurements of the algorithm are not usable",
            value=repr(first.get("input"))[:80],
            why=f"{'.'.join(str(part) for part in first['loc']) or 'file'}: {first['msg']}",
            remedy="Write measurements.json as docs/algorithm-yaml.md describes it",
        ) from error


def read_measurements(path: Path) -> Measurements:
    """Read a measurements file of at most 16 MB; raises Invalid as `parse_measurements` does."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise Invalid(
            "The measurements file is too large", value=f"{size} bytes", why=f"the limit is {LARGEST_FILE} bytes"
        )
    return parse_measurements(path.read_bytes())
