"""Series become volumes whose voxels lie where another reader puts them, and labels find their way back."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray

from insitu.dicom import geometry
from insitu.dicom.geometry import OtherGeometry
from insitu.dicom.wrap import to_radiological_axes
from insitu.errors import Invalid

from .conftest import GRIDS, Case

MakeCase = Callable[..., Case]


def change(path: Path, **attributes: Any) -> None:
    """Change attributes of a file; None removes one."""
    dataset = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def shift(path: Path, by: tuple[float, float, float]) -> None:
    position = np.array(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient, float)
    change(path, ImagePositionPatient=[f"{value:.6f}" for value in position + by])


@pytest.mark.parametrize("grid", GRIDS)
def test_every_voxel_lies_where_simpleitk_puts_it(grid: str, make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(affine=GRIDS[grid])
    shuffled = list(case.paths)
    random.Random(5).shuffle(shuffled)
    geometry.series_to_nifti(shuffled, tmp_path / "image.nii.gz")
    ours = SimpleITK.ReadImage(str(tmp_path / "image.nii.gz"))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(case.paths[0].parent)))
    theirs = reader.Execute()
    assert ours.GetSize() == theirs.GetSize()
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(ours, name)(), getattr(theirs, name)(), atol=1e-4), name
    assert np.array_equal(SimpleITK.GetArrayFromImage(ours), SimpleITK.GetArrayFromImage(theirs))


@pytest.mark.parametrize("grid", GRIDS)
def test_the_volume_is_the_one_that_was_wrapped(grid: str, make_case: MakeCase) -> None:
    case = make_case(affine=GRIDS[grid])
    volume = geometry.read_series(case.paths)
    to_ours = np.linalg.inv(volume.grid.affine) @ case.affine
    for index in ((0, 0, 0), (19, 15, 6), (3, 11, 2)):
        place = np.rint(to_ours @ (*index, 1)).astype(int)[:3]
        assert volume.array[tuple(place)] == case.array[index]
    assert np.linalg.det(volume.grid.affine) > 0 or np.linalg.det(case.affine) < 0


def test_a_multi_frame_object_gives_the_same_volume_as_its_single_frames(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    single = geometry.read_series(case.paths)
    sources = [pydicom.dcmread(path) for path in reversed(case.paths)]
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        legacy_datasets=sources,
        series_instance_uid="2.25.1",
        series_number=2,
        sop_instance_uid="2.25.2",
        instance_number=1,
        transfer_syntax_uid=pydicom.uid.ExplicitVRLittleEndian,
    )
    enhanced.save_as(tmp_path / "enhanced.dcm")
    multi = geometry.read_series([tmp_path / "enhanced.dcm"])
    assert np.array_equal(multi.array, single.array)
    assert np.allclose(multi.grid.affine, single.grid.affine, atol=1e-4)
    frames = geometry.labels_on_series(case.label_file, list(multi.headers))
    for number, frame in enumerate(geometry.source_frames(list(multi.headers))):
        header = next(
            s for s in sources if np.allclose(np.array(s.ImagePositionPatient, float), frame.position, atol=1e-4)
        )
        assert np.array_equal(frames[number], case.labels[:, :, int(header.InstanceNumber) - 1].T)


def test_hounsfield_units_are_stored_values_rescaled(make_case: MakeCase) -> None:
    case = make_case()
    for path in case.paths:
        change(path, RescaleSlope="0.5", RescaleIntercept="-100.25")
    stored = case.array.astype(float) + 1024
    volume = geometry.read_series(case.paths)
    assert volume.array.dtype == np.float32
    turn = nibabel.orientations.io_orientation(np.linalg.inv(volume.grid.affine) @ case.affine)
    assert np.allclose(nibabel.orientations.apply_orientation(stored * 0.5 - 100.25, turn), volume.array, atol=1e-3)


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_still_a_volume(make_case: MakeCase) -> None:
    case = make_case(affine=GRIDS["axial"])
    for number, path in enumerate(case.paths):
        change(path, ImagePositionPatient=["-31.5", "42.2", f"{103 + number * 0.625:.1f}"])
    assert geometry.read_series(case.paths).grid.spacing[2] == pytest.approx(0.625, abs=0.02)


def test_one_image_takes_its_thickness_as_spacing(make_case: MakeCase) -> None:
    case = make_case(affine=GRIDS["axial"])
    assert geometry.read_series(case.paths[:1]).grid.spacing == pytest.approx((0.75, 0.75, 3.0))


def drop_slice(case: Case) -> list[Path]:
    return case.paths[:3] + case.paths[4:]


def double_slice(case: Case) -> list[Path]:
    target = case.paths[0].with_name("copy.dcm")
    target.write_bytes(case.paths[2].read_bytes())
    change(target, SOPInstanceUID="2.25.77")
    return [*case.paths, target]


def tilt_gantry(case: Case) -> list[Path]:
    for number, path in enumerate(case.paths):
        shift(path, (0, 0.8 * number, 0))
    return case.paths


def turn_one(case: Case) -> list[Path]:
    change(case.paths[2], ImageOrientationPatient=["1", "0", "0", "0", "0", "-1"])
    return case.paths


def stretch_one(case: Case) -> list[Path]:
    change(case.paths[2], PixelSpacing=["0.75", "0.8"])
    return case.paths


def lose_position(case: Case) -> list[Path]:
    change(case.paths[2], ImagePositionPatient=None)
    return case.paths


def mix_series(case: Case) -> list[Path]:
    change(case.paths[2], SeriesInstanceUID="2.25.99")
    return case.paths


def skew_axes(case: Case) -> list[Path]:
    for path in case.paths:
        change(path, ImageOrientationPatient=["1", "0", "0", "0.5", "0.8", "0"])
    return case.paths


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_slice, ["not evenly spaced", "6.000 mm between slices 3 and 4"]),
        (double_slice, ["same place", "slices 3 and 4"]),
        (tilt_gantry, ["shifted against each other", "4.80 mm", "14.9 degrees"]),
        (turn_one, ["oriented differently"]),
        (stretch_one, ["pixel spacings", "0.8"]),
        (lose_position, ["does not say where it lies", "ImagePositionPatient"]),
        (mix_series, ["not one series", "2.25.99"]),
        (skew_axes, ["perpendicular"]),
        (lambda case: [], ["no images"]),
    ],
)
def test_a_series_that_is_no_regular_grid_is_refused_with_the_values(
    spoil: Callable[[Case], list[Path]], words: list[str], make_case: MakeCase
) -> None:
    paths = spoil(make_case(affine=GRIDS["axial"]))
    with pytest.raises(Invalid) as refusal:
        geometry.read_series(paths)
    for word in words:
        assert word in str(refusal.value)
    assert "Patient^" not in str(refusal.value)


def test_the_sidecar_tells_the_modality_and_nothing_about_the_patient(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(PatientBirthDate="19700102", InstitutionName="Somewhere")
    sidecar = geometry.series_to_nifti(case.paths, tmp_path / "image.nii.gz")
    assert sidecar["modality"] == "CT"
    assert sidecar["unit"] == "[hnsf'U]"
    text = json.dumps(sidecar) + str(nibabel.load(tmp_path / "image.nii.gz").header)
    for secret in ("P-17", "Test", "1970", "Somewhere"):
        assert secret not in text


@pytest.mark.parametrize("grid", GRIDS)
def test_labels_come_back_on_the_frames_they_were_drawn_on(grid: str, make_case: MakeCase) -> None:
    case = make_case(affine=GRIDS[grid])
    headers = case.headers
    random.Random(9).shuffle(headers)
    frames = geometry.labels_on_series(case.label_file, headers)
    for frame, header in zip(frames, headers, strict=True):
        assert np.array_equal(frame, case.labels[:, :, int(header.InstanceNumber) - 1].T)


def save(case: Case, labels: NDArray[Any], affine: NDArray[np.float64]) -> None:
    nibabel.save(nibabel.Nifti1Image(labels, affine), case.label_file)


def test_labels_with_flipped_and_exchanged_axes_are_put_right(make_case: MakeCase) -> None:
    case = make_case()
    straight = case.frames()
    turned, affine = to_radiological_axes(case.labels, case.affine)
    exchanged = turned.transpose(2, 0, 1)
    order = np.eye(4)[:, [2, 0, 1, 3]]
    save(case, exchanged, affine @ order)
    assert np.array_equal(case.frames(), straight)


@pytest.mark.parametrize("what", ["shape", "shift", "spacing", "rotation", "fourth axis"])
def test_labels_on_another_grid_are_refused(what: str, make_case: MakeCase) -> None:
    case = make_case(affine=GRIDS["axial"])
    labels, affine = case.labels, case.affine.copy()
    if what == "shape":
        labels = labels[:-1]
    elif what == "shift":
        affine[2, 3] += 1.0
    elif what == "spacing":
        affine[:3, 0] *= 1.1
    elif what == "rotation":
        affine[:3, :3] = np.array([[0.9962, -0.0872, 0], [0.0872, 0.9962, 0], [0, 0, 1]]) @ affine[:3, :3]
    else:
        labels = np.stack([labels, labels], axis=-1)
    save(case, labels, affine)
    with pytest.raises(OtherGeometry, match="another geometry"):
        case.frames()


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan, 70000.0])
def test_values_that_are_no_labels_are_refused(value: float, make_case: MakeCase) -> None:
    case = make_case()
    labels = case.labels.astype(np.float32)
    labels[4, 4, 4] = value
    save(case, labels, case.affine)
    with pytest.raises(Invalid, match="no labels"):
        case.frames()


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x1f\x8b\x08\x00garbage"])
def test_a_file_that_is_no_nifti_is_refused(content: bytes, make_case: MakeCase) -> None:
    case = make_case()
    case.label_file.write_bytes(content)
    with pytest.raises(Invalid, match="NIfTI"):
        case.frames()


def test_a_truncated_label_file_is_refused(make_case: MakeCase) -> None:
    case = make_case()
    case.label_file.write_bytes(case.label_file.read_bytes()[:-40])
    with pytest.raises(Invalid):
        case.frames()
