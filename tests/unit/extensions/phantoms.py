"""Small images whose tissues are known exactly: the golden cases of the shipped algorithms are made of these.

`python tests/unit/extensions/phantoms.py` writes them anew. Expected labels are the phantom's truth, not an algorithm's output.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

EXTENSIONS = Path(__file__).resolve().parents[3] / "extensions"

Image = tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]


def _radius(shape: tuple[int, ...], centre: tuple[float, ...], half_axes: tuple[float, ...]) -> NDArray[np.float64]:
    """Distance from an ellipsoid's centre, 1 on its surface."""
    grids = np.indices(shape, dtype=float)
    terms = [((grid - c) / a) ** 2 for grid, c, a in zip(grids, centre, half_axes, strict=True)]
    return np.sqrt(sum(terms))


def ct_head() -> Image:
    """A head in air above a table: HU, labels (1 bone, 2 soft tissue, 3 gas), affine."""
    shape, centre = (48, 56, 24), (24.0, 26.0, 12.0)
    affine = np.diag([-3.0, -3.0, 5.0, 1.0])
    image = np.full(shape, -1000.0)
    head = _radius(shape, centre, (19, 23, 15))
    labels = np.zeros(shape, np.uint8)
    labels[head <= 1] = 2
    labels[(head <= 0.9) & (head > 0.75)] = 1
    labels[_radius(shape, (24, 12, 12), (5, 4, 4)) <= 1] = 3
    image[labels == 2], image[labels == 1], image[labels == 3] = 40, 900, -950
    image[4:44, 53:55, :] = 300
    image += np.random.default_rng(7).normal(0, 12, shape)
    return np.rint(np.clip(image, -1024, 3000)).astype(np.int16), labels, affine


def mr_brain() -> Image:
    """A brain without skull: intensities, labels (1 cerebrospinal fluid, 2 grey matter, 3 white matter), affine."""
    shape, centre = (48, 56, 32), (24.0, 28.0, 16.0)
    affine = np.diag([-3.0, -3.0, 4.0, 1.0])
    brain = _radius(shape, centre, (19, 23, 14))
    labels = np.zeros(shape, np.uint8)
    labels[brain <= 1] = 1
    labels[brain <= 0.9] = 2
    labels[brain <= 0.65] = 3
    labels[_radius(shape, centre, (4, 7, 4)) <= 1] = 1
    image = np.choose(labels, (0, 250, 650, 950)).astype(float)
    image[labels > 0] += np.random.default_rng(7).normal(0, 40, int((labels > 0).sum()))
    return np.rint(np.clip(image, 0, None)).astype(np.int16), labels, affine


def measurements(
    image: NDArray[np.int16], labels: NDArray[np.uint8], affine: NDArray[np.float64], unit: str
) -> dict[str, Any]:
    """What a perfect algorithm measures."""
    segments = []
    for label in (1, 2, 3):
        values = image[labels == label].astype(float)
        volume = values.size * abs(float(np.linalg.det(affine[:3, :3]))) / 1000
        rows = (("Volume", volume, "ml"), ("Mean", values.mean(), unit), ("Standard deviation", values.std(), unit))
        segments.append(
            {
                "segment": label,
                "measurements": [
                    {"name": name, "value": round(float(value), 3), "unit": of} for name, value, of in rows
                ],
            }
        )
    return {"version": 1, "segments": segments}


def write() -> None:
    """Write the golden cases of the shipped algorithms."""
    for package, name, unit, (image, labels, affine) in (
        ("ct-tissue", "ct", "[hnsf'U]", ct_head()),
        ("mr-tissue", "brain", "1", mr_brain()),
    ):
        folder = EXTENSIONS / package / "golden"
        folder.mkdir(exist_ok=True)
        for file, array in ((name, image), ("labels", labels)):
            nifti = nibabel.Nifti1Image(array, affine)
            nifti.header.set_xyzt_units("mm")
            nibabel.save(nifti, folder / f"{file}.nii.gz")
        (folder / "measurements.json").write_text(
            json.dumps(measurements(image, labels, affine, unit), indent=1) + "\n"
        )


if __name__ == "__main__":
    write()
