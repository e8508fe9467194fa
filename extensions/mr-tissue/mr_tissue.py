"""Cerebrospinal fluid, grey and white matter on a skull-stripped T1-weighted MR image, by a Gaussian mixture.

The intensities inside the brain are described by three normal distributions, fitted by expectation maximisation on the histogram; each
voxel then takes the most probable tissue, given its own intensity and the tissues of its neighbours (a mean-field approximation of a
Markov random field, as in Zhang, Brady and Smith, IEEE Trans Med Imaging 2001).
Not here: removal of the skull, and correction of an uneven field.

Reads INSITU_INPUT/brain/image.nii.gz and INSITU_PARAMETERS; writes labels.nii.gz and measurements.json into INSITU_OUTPUT.
"""

import json
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

CSF, GREY, WHITE = 1, 2, 3
CLASSES = 3
BINS = 512
ITERATIONS = 300
# All tissues share the noise of the image, so each variance is drawn towards the common one. Without this the distribution of white
# matter shrinks onto its narrow peak and loses the voxels at its border.
SHARED_VARIANCE = 0.2
NEIGHBOUR_ROUNDS = 3
FULLEST_IMAGE = 0.6  # part of the voxels above zero beyond which the skull is surely still there


class UnusableInput(Exception):
    """The image is not what this algorithm is for; the text says why."""


def fit_mixture(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit three normal distributions to intensities by expectation maximisation on their histogram.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Intensities inside the brain.

    Returns
    -------
    means, deviations, weights : ndarray, shape (3,)
        In order of the means: cerebrospinal fluid, grey matter, white matter on T1.
    """
    low, high = np.percentile(values, (0.1, 99.9))
    if not high > low:
        raise UnusableInput("The brain has one intensity only")
    counts, edges = np.histogram(np.clip(values, low, high), BINS, (low, high))
    part = counts / counts.sum()
    centre = (edges[1:] + edges[:-1]) / 2
    means = centre[np.searchsorted(np.cumsum(part), (np.arange(CLASSES) + 0.5) / CLASSES)]
    deviations = np.full(CLASSES, (high - low) / (2 * CLASSES))
    weights = np.full(CLASSES, 1 / CLASSES)
    for _ in range(ITERATIONS):
        likelihood = weights * np.exp(-0.5 * ((centre[:, None] - means) / deviations) ** 2) / deviations
        share = likelihood / (likelihood.sum(axis=1, keepdims=True) + 1e-300) * part[:, None]
        weights = np.maximum(share.sum(axis=0), 1e-6)
        before, means = means, (share * centre[:, None]).sum(axis=0) / weights
        spread = (share * (centre[:, None] - means) ** 2).sum(axis=0)
        variance = (1 - SHARED_VARIANCE) * spread / weights + SHARED_VARIANCE * spread.sum()
        deviations = np.sqrt(np.maximum(variance, 1e-6 * (high - low) ** 2))
        if np.abs(means - before).max() < 1e-4 * (high - low):
            break
    order = np.argsort(means)
    return means[order], deviations[order], weights[order]


def segment(image: np.ndarray, smoothness: float) -> np.ndarray:
    """Label each voxel of a skull-stripped T1 image.

    Parameters
    ----------
    image : ndarray, shape (i, j, k)
        Zero outside the brain.
    smoothness : float
        Weight of the neighbours, 0 for none.

    Returns
    -------
    ndarray of uint8, shape (i, j, k)
        0 outside, 1 cerebrospinal fluid, 2 grey matter, 3 white matter.
    """
    brain = np.isfinite(image) & (image > 0)
    share = float(brain.mean())
    if share == 0:
        raise UnusableInput("The image is empty: no voxel is above zero")
    if share > FULLEST_IMAGE:
        raise UnusableInput(
            f"The skull has not been removed: {share:.0%} of the voxels are above zero; outside the brain they must be zero"
        )
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    inside, values = brain[box], np.nan_to_num(image[box]).astype(np.float32)
    means, deviations, weights = fit_mixture(values[inside])
    likelihood = [
        (weight * np.exp(-0.5 * ((values - mean) / deviation) ** 2) / deviation * inside).astype(np.float32)
        for mean, deviation, weight in zip(means, deviations, weights, strict=True)
    ]
    posterior = _normalised(likelihood)
    for _ in range(NEIGHBOUR_ROUNDS if smoothness > 0 else 0):
        around = [ndimage.uniform_filter(probability, 3, mode="constant") for probability in posterior]
        posterior = _normalised(
            [own * np.exp(np.float32(3 * smoothness) * near) for own, near in zip(likelihood, around, strict=True)]
        )
    labels = np.zeros(image.shape, np.uint8)
    best = np.full(inside.shape, -1, np.float32)
    for label, probability in zip((CSF, GREY, WHITE), posterior, strict=True):
        better = inside & (probability > best)
        labels[box][better] = label
        best[better] = probability[better]
    return labels


def _normalised(parts: list[np.ndarray]) -> list[np.ndarray]:
    total = parts[0] + parts[1] + parts[2] + np.float32(1e-30)
    return [part / total for part in parts]


def measure(image: np.ndarray, labels: np.ndarray, voxel_ml: float) -> dict:
    """Volume, mean and standard deviation of every segment that has voxels; the volume alone of one that has none."""
    segments = []
    for label in (CSF, GREY, WHITE):
        values = image[labels == label].astype(np.float64)
        rows = [{"name": "Volume", "value": round(values.size * voxel_ml, 6), "unit": "ml"}]
        if values.size:
            rows.append({"name": "Mean", "value": round(float(values.mean()), 6), "unit": "1"})
            rows.append({"name": "Standard deviation", "value": round(float(values.std()), 6), "unit": "1"})
        segments.append({"segment": label, "measurements": rows})
    return {"version": 1, "segments": segments}


def main() -> int:
    """Run on the folders that the environment names."""
    output = Path(os.environ["INSITU_OUTPUT"])
    parameters = json.loads(Path(os.environ["INSITU_PARAMETERS"]).read_text())
    source = nibabel.load(Path(os.environ["INSITU_INPUT"]) / "brain" / "image.nii.gz")
    image = np.asanyarray(source.dataobj)
    try:
        labels = segment(image, float(parameters.get("smoothness", 0.6)))
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
