"""Small series with a known volume and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from insitu.dicom import codes, geometry
from insitu.dicom.codes import Concept
from insitu.dicom.measurements import Measurements
from insitu.dicom.result import Algorithm, Provenance
from insitu.dicom.segmentation import Segment
from insitu.dicom.wrap import wrap_volume

SHAPE = (20, 16, 7)
DIGEST = "sha256:" + "0123456789abcdef" * 4


@dataclass(frozen=True)
class Case:
    """A series on disk, its true volume and affine, labels on its grid, and who segmented it."""

    paths: list[Path]
    array: NDArray[Any]
    affine: NDArray[np.float64]
    labels: NDArray[np.uint8]
    label_file: Path
    segments: list[Segment]
    algorithm: Algorithm

    @property
    def headers(self) -> list[Dataset]:
        return geometry.read_headers(self.paths)

    def provenance(self, output: str, execution: str = "0123456789abcdef0123-1") -> Provenance:
        return Provenance(execution, output, self.algorithm, datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=UTC))

    def frames(self) -> NDArray[Any]:
        return geometry.labels_on_series(self.label_file, self.headers)

    def measurements(self) -> Measurements:
        unit = "[hnsf'U]" if self.headers[0].Modality == "CT" else "1"
        return Measurements.model_validate(
            {
                "segments": [
                    {
                        "segment": label,
                        "measurements": [
                            {"name": "Volume", "value": 12.5 * label, "unit": "ml"},
                            {"name": "Mean", "value": -1000 / 3 * label, "unit": unit},
                            {"name": "Standard deviation", "value": 2.25, "unit": unit},
                        ],
                    }
                    for label in (1, 3)
                ]
            }
        )


def rotation(x: float, z: float) -> NDArray[np.float64]:
    """Rotation about x, then about z, in degrees."""
    a, b = np.radians(x), np.radians(z)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_z @ about_x


def affine_of(directions: NDArray[np.float64], spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = (31.5, -42.25, 103.0)
    return affine


GRIDS = {
    "axial": affine_of(np.diag([-1.0, -1.0, 1.0]), (0.75, 0.75, 3.0)),
    "non-square pixels": affine_of(np.diag([-1.0, -1.0, 1.0]), (0.5, 1.25, 2.0)),
    "flipped rows": affine_of(np.diag([-1.0, 1.0, 1.0]), (1.0, 1.0, 2.0)),
    "flipped columns and slices": affine_of(np.diag([1.0, -1.0, -1.0]), (1.0, 0.8, 2.0)),
    "sagittal": affine_of(np.array([[0, 0, -1.0], [-1.0, 0, 0], [0, -1.0, 0]]), (0.9, 0.9, 1.5)),
    "coronal": affine_of(np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, -1.0, 0]]), (0.9, 0.7, 1.5)),
    "oblique": affine_of(rotation(25, 12) @ np.diag([-1.0, -1.0, 1.0]), (0.7, 0.9, 2.5)),
}


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., Case]:
    """Builds a case: modality, affine, further attributes of every image."""

    def make(modality: str = "CT", affine: NDArray[np.float64] = GRIDS["oblique"], **attributes: Any) -> Case:
        random = np.random.default_rng(3)
        low, high = (-1000, 1500) if modality == "CT" else (0, 4000)
        array = random.integers(low, high, SHAPE).astype(np.int16)
        labels = np.zeros(SHAPE, np.uint8)
        labels[3:9, 2:14, 1:5] = 1
        labels[12:18, 4:7, 3:6] = 3
        paths = wrap_volume(
            array,
            affine,
            modality,
            tmp_path / "series",
            patient_id="P-17",
            patient_name="Test^Patient",
            study_description="Study of a test",
            series_description="Series of a test",
            body_part="HEAD",
            attributes=attributes,
        )
        label_file = tmp_path / "labels.nii.gz"
        nibabel.save(nibabel.Nifti1Image(labels, affine), label_file)
        segments = [
            Segment(1, "Bone", Concept.of(codes.TISSUE), Concept.of(codes.BONE), (241, 214, 145)),
            Segment(3, "Gas", Concept.of(codes.BODY_SUBSTANCE), Concept.of(codes.GAS)),
            Segment(7, "Soft tissue", Concept.of(codes.TISSUE), Concept.of(codes.SOFT_TISSUE)),
        ]
        algorithm = Algorithm("ct-tissue", "1.2.3", DIGEST, "CT tissue")
        return Case(paths, array, affine, labels, label_file, segments, algorithm)

    return make
