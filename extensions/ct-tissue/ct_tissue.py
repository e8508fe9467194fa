"""Bone, soft tissue and gas on CT by thresholds and connected components.

The body is the largest connected thing denser than air, with its holes; inside it voxels are told apart by their Hounsfield units, and
specks too small to mean anything are dropped.
Not here: anything learned. The thresholds are parameters.

Reads INSITU_INPUT/ct/image.nii.gz and INSITU_PARAMETERS; writes labels.nii.gz and measurements.json into INSITU_OUTPUT.
"""

import json
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

BONE, SOFT_TISSUE, GAS = 1, 2, 3
BODY_FROM = -300  # HU; skin and fat are above, air and the foam of head rests below
COARSE_MM = 3.0  # the body is found on a grid this coarse; what is joined to it by a bridge of twice this, such as the table, is cut off
DEFAULTS = {"bone_from": 250, "soft_tissue_from": -200, "gas_below": -400, "smallest_ml": 0.1}


class UnusableInput(Exception):
    """The image is not what this algorithm is for; the text says why."""


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest face-connected part of a mask; empty where the mask is."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def without_specks(mask: np.ndarray, smallest: int) -> np.ndarray:
    """A mask without its face-connected parts of fewer than `smallest` voxels."""
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    large = np.bincount(parts.ravel()) >= smallest
    large[0] = False
    return large[parts]


def body(image: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The body with its air-filled spaces.

    Parameters
    ----------
    image : ndarray, shape (i, j, k)
        HU; k runs along the patient.
    spacing : tuple of float
        mm along the axes.

    Returns
    -------
    ndarray of bool, shape (i, j, k)
    """
    dense = image > BODY_FROM
    strides = [max(1, round(COARSE_MM / distance)) for distance in spacing]
    coarse = dense[tuple(slice(None, None, stride) for stride in strides)]
    core = largest_component(ndimage.binary_erosion(coarse))
    if not core.any():
        raise UnusableInput(f"Nothing in the image is a body: no thick part is above {BODY_FROM} HU")
    mask = ndimage.binary_dilation(core, iterations=2)
    for axis, stride in enumerate(strides):
        mask = np.repeat(mask, stride, axis=axis)
    mask = dense & mask[tuple(slice(size) for size in dense.shape)]
    for k in range(mask.shape[2]):
        mask[:, :, k] = ndimage.binary_fill_holes(mask[:, :, k])
    return mask


def segment(image: np.ndarray, spacing: tuple[float, ...], parameters: dict) -> np.ndarray:
    """Label each voxel of a CT image.

    Parameters
    ----------
    image : ndarray, shape (i, j, k)
        HU.
    spacing : tuple of float
        mm along the axes.
    parameters : dict
        `bone_from`, `soft_tissue_from`, `gas_below` in HU, `smallest_ml` in ml.

    Returns
    -------
    ndarray of uint8, shape (i, j, k)
        0 outside the body or between the thresholds, 1 bone, 2 soft tissue, 3 gas.
    """
    if not parameters["gas_below"] <= parameters["soft_tissue_from"] < parameters["bone_from"]:
        raise UnusableInput("The thresholds must rise: gas_below, soft_tissue_from, bone_from")
    if image.min() > BODY_FROM:
        raise UnusableInput(
            f"The image has no air: its smallest value is {image.min():.0f} HU, so these are not Hounsfield units"
        )
    inside = body(image, spacing)
    smallest = max(1, round(parameters["smallest_ml"] * 1000 / float(np.prod(spacing))))
    labels = np.zeros(image.shape, np.uint8)
    labels[inside & (image >= parameters["soft_tissue_from"])] = SOFT_TISSUE
    # Specks of bone stay soft tissue: most are noise or calcification.
    labels[without_specks(inside & (image >= parameters["bone_from"]), smallest)] = BONE
    labels[without_specks(inside & (image < parameters["gas_below"]), smallest)] = GAS
    return labels


def measure(image: np.ndarray, labels: np.ndarray, voxel_ml: float) -> dict:
    """Volume, mean and standard deviation of every segment that has voxels; the volume alone of one that has none."""
    segments = []
    for label in (BONE, SOFT_TISSUE, GAS):
        values = image[labels == label].astype(np.float64)
        rows = [{"name": "Volume", "value": round(values.size * voxel_ml, 6), "unit": "ml"}]
        if values.size:
            rows.append({"name": "Mean", "value": round(float(values.mean()), 6), "unit": "[hnsf'U]"})
            rows.append({"name": "Standard deviation", "value": round(float(values.std()), 6), "unit": "[hnsf'U]"})
        segments.append({"segment": label, "measurements": rows})
    return {"version": 1, "segments": segments}


def main() -> int:
    """Run on the folders that the environment names."""
    output = Path(os.environ["INSITU_OUTPUT"])
    parameters = DEFAULTS | json.loads(Path(os.environ["INSITU_PARAMETERS"]).read_text())
    source = nibabel.load(Path(os.environ["INSITU_INPUT"]) / "ct" / "image.nii.gz")
    image = np.asanyarray(source.dataobj)
    spacing = tuple(float(value) for value in np.linalg.norm(source.affine[:3, :3], axis=0))
    try:
        labels = segment(image, spacing, parameters)
    except UnusableInput as error:
        print(f"{error}.", file=sys.stderr)
        return 1
    voxel_ml = abs(float(np.linalg.det(source.affine[:3, :3]))) / 1000
    nibabel.save(nibabel.Nifti1Image(labels, source.affine), output / "labels.nii.gz")
    measurements = measure(image, labels, voxel_ml)
    (output / "measurements.json").write_text(json.dumps(measurements, indent=1))
    for item in measurements["segments"]:
        print(f"segment {item['segment']}: {item['measurements'][0]['value']:.1f} ml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
