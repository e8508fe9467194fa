"""Wrapped images are valid DICOM, lie the right way round, and say that they are no patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from insitu import demo_images
from insitu.demo_images import DemoImage
from insitu.dicom import geometry
from insitu.dicom.check import dciodvfy
from insitu.dicom.wrap import to_radiological_axes, wrap_volume
from insitu.errors import Invalid, NotFound

from .conftest import GRIDS, Case

MakeCase = Callable[..., Case]
DATA = Path(__file__).resolve().parents[3] / "build" / "demo-data"


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_dciodvfy_finds_no_error_in_a_wrapped_image(modality: str, make_case: MakeCase) -> None:
    assert dciodvfy(make_case(modality).paths[0]) in ([], None)


def test_wrapping_twice_gives_the_same_bytes_and_a_salt_another_study(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    names = {"patient_id": "A", "patient_name": "B", "study_description": "C", "series_description": "D"}
    files = [
        wrap_volume(case.array, case.affine, "CT", tmp_path / str(number), salt=salt, **names)[0]
        for number, salt in enumerate(("", "", "again"))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    first, second = (pydicom.dcmread(file, stop_before_pixels=True) for file in files[1:])
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert first[keyword].value != second[keyword].value


def test_turning_to_radiological_axes_moves_no_voxel(make_case: MakeCase) -> None:
    case = make_case(affine=GRIDS["oblique"])
    array, affine = to_radiological_axes(case.array, case.affine)
    back = np.linalg.inv(affine) @ case.affine
    for index in ((0, 0, 0), (19, 15, 6), (3, 11, 2)):
        assert array[tuple(np.rint(back @ (*index, 1)).astype(int)[:3])] == case.array[index]


@pytest.mark.parametrize(("modality", "shape"), [("US", (4, 4, 4)), ("CT", (4, 4)), ("CT", (4, 0, 4))])
def test_what_cannot_be_wrapped_is_refused(modality: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        wrap_volume(
            np.zeros(shape),
            np.eye(4),
            modality,
            tmp_path,
            patient_id="A",
            patient_name="B",
            study_description="C",
            series_description="D",
        )


def written(image: DemoImage, folder: Path) -> tuple[list[Path], geometry.Volume]:
    paths = image.write(folder, salt="test")
    return paths, geometry.read_series(paths)


def test_the_averaged_brain_stands_upright_and_says_what_it_is(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip("needs the averaged brain (make setup)")
    image = demo_images.averaged_brain(DATA)
    paths, volume = written(image, tmp_path)
    assert np.array_equal(volume.array, image.array)
    assert dciodvfy(paths[90]) in ([], None)
    header = volume.headers[0]
    assert "not a patient" in header.SeriesDescription
    assert header.PatientIdentityRemoved == "YES"
    # The cerebellum lies low and behind, the frontal lobe high and in front: axes run to the left, posterior and head.
    columns, rows, slices = volume.array.shape
    low = volume.array[:, :, : slices // 5] > 0
    assert low[:, rows // 2 :].sum() > 2 * low[:, : rows // 2].sum()
    assert (volume.array[:, :, -8:] > 0).sum() < (volume.array[:, :, slices // 2 - 4 : slices // 2 + 4] > 0).sum() / 10
    assert columns == 197


def test_the_head_ct_stands_upright_and_lies_on_its_back(tmp_path: Path) -> None:
    if not demo_images.HEAD_CT_FILE.is_file():
        pytest.skip("needs the head CT (Debian package invesalius-examples)")
    paths, volume = written(demo_images.head_ct(), tmp_path)
    assert dciodvfy(paths[50]) in ([], None)
    assert volume.grid.spacing == pytest.approx((0.957031, 0.957031, 1.5), abs=1e-5)
    rows, slices = volume.array.shape[1:]
    # The head rest is the lowest dense thing, so posterior is at the end of the rows; the vertex tapers, so it is the last slice.
    dense = volume.array > -300
    assert dense[:, -12:].any()
    assert not dense[:, :12].any()
    assert dense[:, : rows // 2, -1].sum() < dense[:, : rows // 2, slices // 2].sum()
    # The air spaces of nose and sinuses are in the front half.
    inside = volume.array[90:170, :, slices // 4] < -700
    assert inside[:, 60:130].sum() > inside[:, 140:200].sum()


def test_missing_images_are_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nilearn"):
        demo_images.averaged_brain(tmp_path)
    with pytest.raises(NotFound, match="invesalius-examples"):
        demo_images.head_ct(tmp_path / "Cranium.inv3")


def test_a_file_that_is_no_invesalius_project_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "Cranium.inv3"
    file.write_bytes(b"no tar")
    with pytest.raises(Invalid, match="InVesalius"):
        demo_images.head_ct(file)
