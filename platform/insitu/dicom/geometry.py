"""Geometry of an image series: DICOM frames to a NIfTI volume and labels back onto the frames.

Axes: DICOM counts patient coordinates to the left, posterior and head (LPS, mm), NIfTI to the right, anterior and head (RAS, mm).
A volume array has axes (column, row, slice), so that the affine takes (i, j, k) to mm; slices follow the normal of the image plane, so
that the axes are right-handed.
Not here: resampling. A series that is not one regular grid is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, iter_pixels

from insitu.errors import Invalid

Array = NDArray[np.float64]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIENTATION_TOLERANCE = 1e-3  # difference of direction cosines; headers are often rounded to three or four digits
SPACING_TOLERANCE = 0.1  # part of the slice spacing by which a slice may lie off the grid
ROUNDING = (
    0.11  # mm by which it may do so in any case, as positions are often rounded to 0.1 mm; at most 0.3 of the spacing
)
LATERAL_TOLERANCE = 0.25  # part of the pixel spacing a slice may be shifted sideways
GRID_TOLERANCE = 0.1  # part of the smallest spacing by which two grids may differ and still be the same
LARGEST_LABEL = 65535


class OtherGeometry(Invalid):
    """A label image does not lie on the grid of its source series."""


@dataclass(frozen=True)
class Frame:
    """One two-dimensional image of the series: which source object, which frame in it (0 first), and where it lies (LPS, mm)."""

    source: int
    index: int
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]  # between rows, between columns
    thickness: float | None


@dataclass(frozen=True)
class Grid:
    """A regular grid on which the frames of a series lie.

    Parameters
    ----------
    shape : tuple of int
        (columns, rows, slices), the axes of the NIfTI array.
    affine : ndarray, shape (4, 4)
        (i, j, k) to mm, RAS.
    order : tuple of int
        For each slice of the volume the number of its frame in source order.
    """

    shape: tuple[int, int, int]
    affine: Array
    order: tuple[int, ...]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distances of voxels along the three axes, mm."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])


@dataclass(frozen=True)
class Volume:
    """A series as a volume.

    Parameters
    ----------
    array : ndarray, shape (columns, rows, slices)
        Values after the modality LUT (HU for CT); int16 where that is exact, else float32.
    grid : Grid
    paths : tuple of Path
        The files in the order in which they were given; `grid.order` counts their frames.
    headers : tuple of Dataset
        Their headers without pixel data.
    """

    array: NDArray[Any]
    grid: Grid
    paths: tuple[Path, ...]
    headers: tuple[Dataset, ...]


def read_headers(paths: Sequence[Path]) -> list[Dataset]:
    """Read DICOM files without their pixel data."""
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]


def source_frames(headers: Sequence[Dataset]) -> list[Frame]:
    """All frames of a series in source order: object by object, frame by frame.

    Raises
    ------
    Invalid
        An object says nothing about its place, or there are several multi-frame objects.
    """
    multi_frame = [header for header in headers if "PerFrameFunctionalGroupsSequence" in header]
    if multi_frame and len(headers) > 1:
        raise Invalid(
            "A series of several multi-frame objects cannot be read as one volume",
            value=f"{len(headers)} objects",
            remedy="Send one multi-frame object per series",
        )
    frames: list[Frame] = []
    for source, header in enumerate(headers):
        if "PerFrameFunctionalGroupsSequence" in header:
            frames += [_enhanced_frame(header, index) for index in range(int(header.NumberOfFrames))]
        else:
            if int(header.get("NumberOfFrames") or 1) > 1:
                raise Invalid(
                    "A multi-frame object without functional groups has no place in space",
                    value=str(header.get("SOPInstanceUID", "")),
                )
            frames.append(_frame(source, 0, header, header, header))
    return frames


def _enhanced_frame(header: Dataset, index: int) -> Frame:
    def group(keyword: str) -> Dataset:
        for holder in (
            header.PerFrameFunctionalGroupsSequence[index],
            *header.get("SharedFunctionalGroupsSequence", []),
        ):
            if holder.get(keyword):
                found: Dataset = holder[keyword][0]
                return found
        return Dataset()

    return _frame(
        0, index, group("PlanePositionSequence"), group("PlaneOrientationSequence"), group("PixelMeasuresSequence")
    )


def _frame(source: int, index: int, position: Dataset, orientation: Dataset, measures: Dataset) -> Frame:
    def numbers(holder: Dataset, keyword: str, count: int) -> tuple[float, ...]:
        raw = holder.get(keyword)
        found = tuple(float(item) for item in raw) if raw is not None and not isinstance(raw, (str, float, int)) else ()
        if len(found) != count or not np.isfinite(found).all():
            raise Invalid(
                "An image of the series does not say where it lies",
                value=f"image {source + 1}, frame {index + 1}",
                why=f"{keyword} is missing or does not have {count} numbers",
            )
        return found

    place, spacing = numbers(position, "ImagePositionPatient", 3), numbers(measures, "PixelSpacing", 2)
    thickness = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
    if min(spacing) <= 0:
        raise Invalid("The pixel spacing must be positive", value=str(spacing))
    return Frame(
        source=source,
        index=index,
        position=(place[0], place[1], place[2]),
        orientation=numbers(orientation, "ImageOrientationPatient", 6),
        spacing=(spacing[0], spacing[1]),
        thickness=abs(float(thickness)) if thickness else None,
    )


def grid(headers: Sequence[Dataset]) -> Grid:
    """The regular grid of a series.

    Raises
    ------
    Invalid
        The frames are not one regular grid: sizes, orientations or pixel spacings differ, slices are missing, doubled, unevenly
        spaced, or shifted sideways (a tilted gantry). The message names the values.
    """
    if not headers:
        raise Invalid("The series has no images", why="none was given")
    frames = source_frames(headers)
    sizes = {(int(header.get("Rows") or 0), int(header.get("Columns") or 0)) for header in headers}
    if len(sizes) != 1 or 0 in next(iter(sizes)):
        raise Invalid(
            "The images of the series have different sizes", value=", ".join(f"{r}x{c}" for r, c in sorted(sizes))
        )
    rows, columns = next(iter(sizes))
    first = frames[0]
    along_row, along_column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    lengths = float(np.linalg.norm(along_row)), float(np.linalg.norm(along_column))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(along_row @ along_column))) > 10 * ORIENTATION_TOLERANCE:
        raise Invalid(
            "The image orientation is not two perpendicular directions of length one", value=str(first.orientation)
        )
    for frame in frames:
        if max(abs(a - b) for a, b in zip(frame.orientation, first.orientation, strict=True)) > ORIENTATION_TOLERANCE:
            raise Invalid(
                "The images of the series are oriented differently",
                value=f"{first.orientation} and {frame.orientation}",
                why="one volume needs parallel slices",
                remedy="Send localizers and other planes as series of their own",
            )
        if max(abs(a / b - 1) for a, b in zip(frame.spacing, first.spacing, strict=True)) > ORIENTATION_TOLERANCE:
            raise Invalid(
                "The images of the series have different pixel spacings", value=f"{first.spacing} and {frame.spacing}"
            )
    along_row = along_row / lengths[0]
    normal = np.cross(along_row, along_column)
    normal /= np.linalg.norm(normal)
    along_column = np.cross(normal, along_row)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    step = _step(positions[order], heights[order], normal, first)
    affine = np.eye(4)
    affine[:3, 0] = along_row * first.spacing[1]
    affine[:3, 1] = along_column * first.spacing[0]
    affine[:3, 2] = normal * step
    affine[:3, 3] = positions[order[0]]
    return Grid((columns, rows, len(frames)), LPS_TO_RAS @ affine, tuple(int(number) for number in order))


def _step(positions: Array, heights: Array, normal: Array, first: Frame) -> float:
    """Distance of neighbouring slices, mm, of slices sorted along the normal; refuses what is not even."""
    count = len(heights)
    if count == 1:
        if not first.thickness:
            raise Invalid("A series of one image without slice thickness is not a volume")
        return first.thickness
    gaps = np.diff(heights)
    if gaps.min() < 1e-3:
        where = int(gaps.argmin())
        raise Invalid(
            "Two images of the series lie at the same place",
            value=f"slices {where + 1} and {where + 2}, {gaps.min():.4f} mm apart",
            why="several phases, echoes or copies in one series are not one volume",
        )
    step = float(heights[-1] - heights[0]) / (count - 1)
    off = np.abs(heights - (heights[0] + step * np.arange(count)))
    if off.max() > max(SPACING_TOLERANCE * step, min(ROUNDING, 0.3 * step)):
        where = int(gaps.argmax())
        raise Invalid(
            "The slices of the series are not evenly spaced",
            value=f"{np.median(gaps):.3f} mm usually, {gaps.max():.3f} mm between slices {where + 1} and {where + 2}",
            why="a slice is missing, or the series holds several parts",
        )
    sideways = positions - positions[0] - np.outer(heights - heights[0], normal)
    shift = float(np.linalg.norm(sideways, axis=1).max())
    if shift > LATERAL_TOLERANCE * min(first.spacing):
        angle = float(np.degrees(np.arctan2(np.linalg.norm(sideways[-1]), heights[-1] - heights[0])))
        raise Invalid(
            "The slices of the series are shifted against each other",
            value=f"{shift:.2f} mm over the series, {angle:.1f} degrees",
            why="a tilted gantry gives a sheared volume, which is not a regular grid",
        )
    return step


def read_series(paths: Sequence[Path]) -> Volume:
    """Read a series as one volume, values after the modality LUT.

    Parameters
    ----------
    paths : sequence of Path
        The DICOM files of one series, in any order.

    Raises
    ------
    Invalid
        It is not one grey-scale series on one regular grid.
    """
    headers = read_headers(paths)
    if not headers:
        raise Invalid("The series has no images", why="none was given")
    for keyword in ("SeriesInstanceUID", "Modality"):
        found = {str(header.get(keyword, "")) for header in headers}
        if len(found) != 1:
            raise Invalid("The images are not one series", value=", ".join(sorted(found)), why=f"{keyword} differs")
    samples = {int(header.get("SamplesPerPixel") or 1) for header in headers}
    if samples != {1}:
        raise Invalid("Colour images are not a volume", value=f"{max(samples)} samples per pixel")
    regular = grid(headers)
    place = {frame: slice_number for slice_number, frame in enumerate(regular.order)}
    values: NDArray[Any] = np.zeros(regular.shape, np.int16, order="F")
    number = 0
    for path in paths:
        dataset = pydicom.dcmread(path)
        for index, pixels in enumerate(iter_pixels(dataset)):
            image = _rescaled(pixels, dataset, index)
            if values.dtype == np.int16 and not _fits_int16(image):
                values = np.asfortranarray(values, np.float32)
            values[:, :, place[number]] = image.T
            number += 1
    return Volume(values, regular, tuple(paths), tuple(headers))


def _rescaled(pixels: NDArray[Any], dataset: Dataset, index: int) -> NDArray[Any]:
    """Values after the modality LUT of the object or, in enhanced objects, of the frame."""
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return np.asarray(apply_modality_lut(pixels, dataset))
    for holder in (dataset.PerFrameFunctionalGroupsSequence[index], *dataset.get("SharedFunctionalGroupsSequence", [])):
        if holder.get("PixelValueTransformationSequence"):
            item = holder.PixelValueTransformationSequence[0]
            return pixels * float(item.RescaleSlope) + float(item.RescaleIntercept)
    return pixels


def _fits_int16(image: NDArray[Any]) -> bool:
    if image.min() < -32768 or image.max() > 32767:
        return False
    return bool(np.issubdtype(image.dtype, np.integer) or (image == np.rint(image)).all())


def sidecar(volume: Volume) -> dict[str, Any]:
    """What an algorithm may know about its input beside the voxels; no patient data."""
    header = volume.headers[0]
    modality = str(header.get("Modality", ""))
    codes = nibabel.aff2axcodes(volume.grid.affine)
    return {
        "version": 1,
        "modality": modality,
        "unit": "[hnsf'U]" if modality == "CT" else "1",
        "series_instance_uid": str(header.get("SeriesInstanceUID", "")),
        "body_part_examined": str(header.get("BodyPartExamined") or ""),
        "shape": list(volume.grid.shape),
        "spacing_mm": [round(value, 6) for value in volume.grid.spacing],
        "axes": "".join(codes),
        "affine_ras": [[float(value) for value in row] for row in volume.grid.affine],
    }


def series_to_nifti(paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write a series as compressed NIfTI and return its sidecar.

    Parameters
    ----------
    paths : sequence of Path
        The DICOM files of one series, in any order.
    out : Path
        The file to write, `.nii.gz`.

    Returns
    -------
    dict
        As `sidecar`, ready for JSON.

    Raises
    ------
    Invalid
        As `read_series`.
    """
    volume = read_series(paths)
    image = nibabel.Nifti1Image(volume.array, volume.grid.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.grid.affine, code=1)
    image.set_qform(volume.grid.affine, code=1)
    nibabel.save(image, out)
    return sidecar(volume)


def labels_on_series(nifti_path: Path, headers: Sequence[Dataset]) -> NDArray[np.integer]:
    """Read a label image and lay it onto the frames of its source series.

    Parameters
    ----------
    nifti_path : Path
        Labels on the same grid as the series; axes may be flipped or exchanged, as tools like to do.
    headers : sequence of Dataset
        Headers of the source series.

    Returns
    -------
    ndarray of integer, shape (frames, rows, columns)
        In source order, as `segmentation.write_segmentation` takes it.

    Raises
    ------
    OtherGeometry
        It lies on another grid.
    Invalid
        It is no NIfTI file or holds values that are no labels.
    """
    regular = grid(headers)
    try:
        image = nibabel.Nifti1Image.from_filename(nifti_path)
    except Exception as error:
        raise Invalid("The label image is not a NIfTI file", value=nifti_path.name, why=type(error).__name__) from error
    turn = _turn(image.shape, np.asarray(image.affine, float), regular, nifti_path.name)
    try:
        values = np.asanyarray(image.dataobj)
    except Exception as error:
        raise Invalid("The label image cannot be read", value=nifti_path.name, why=type(error).__name__) from error
    labels = nibabel.orientations.apply_orientation(values, turn)
    frames = np.empty((regular.shape[2], regular.shape[1], regular.shape[0]), np.uint16)
    for slice_number, frame in enumerate(regular.order):
        frames[frame] = _labels(labels[:, :, slice_number].T, nifti_path.name)
    return frames.astype(np.uint8) if frames.max() < 256 else frames


def _labels(values: NDArray[Any], name: str) -> NDArray[Any]:
    if (
        not np.isfinite(values).all()
        or (values != np.rint(values)).any()
        or values.min() < 0
        or values.max() > LARGEST_LABEL
    ):
        raise Invalid(
            "The label image holds values that are no labels",
            value=name,
            why=f"labels are whole numbers from 0 to {LARGEST_LABEL}; found values from {values.min()} to {values.max()}",
        )
    return values


def _turn(shape: tuple[int, ...], affine: Array, regular: Grid, name: str) -> NDArray[Any]:
    """The orientation change that brings an image onto the grid; refuses an image that no flip or exchange of axes brings there."""

    def refuse(why: str) -> OtherGeometry:
        return OtherGeometry(
            "The label image has another geometry than its source series",
            value=name,
            why=why,
            remedy="Write the labels on the grid of the input image",
        )

    if len(shape) != 3 or sorted(shape) != sorted(regular.shape):
        raise refuse(f"its size is {tuple(shape)}, the source's is {regular.shape}")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise refuse("its affine has no inverse")
    from_grid = np.linalg.inv(regular.affine) @ affine
    turn = nibabel.orientations.io_orientation(from_grid)
    if np.isnan(turn).any():
        raise refuse("its axes are not those of the source")
    moved = affine @ nibabel.orientations.inv_ornt_aff(turn, shape)
    size = tuple(shape[int(np.flatnonzero(turn[:, 0] == axis)[0])] for axis in range(3))
    if size != regular.shape:
        raise refuse(f"its size is {tuple(shape)}, the source's is {regular.shape}")
    corners = np.array(
        [[i, j, k, 1] for i in (0, size[0] - 1) for j in (0, size[1] - 1) for k in (0, size[2] - 1)], float
    )
    distance = float(np.linalg.norm((corners @ moved.T - corners @ regular.affine.T)[:, :3], axis=1).max())
    if distance > GRID_TOLERANCE * min(regular.spacing):
        raise refuse(f"its voxels lie up to {distance:.3f} mm away from the source's")
    return np.asarray(turn)
