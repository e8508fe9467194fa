"""The check finds what would make a result wrong or dangerous."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from insitu.dicom.check import check, dciodvfy
from insitu.dicom.report import write_measurement_report
from insitu.dicom.segmentation import write_segmentation
from tests.tools import need_program

from .conftest import Case

MakeCase = Callable[..., Case]


def make(case: Case) -> tuple[Dataset, Dataset]:
    segmentation = write_segmentation(case.frames(), case.headers, case.segments, case.provenance("tissue"))
    report = write_measurement_report(
        case.measurements(), segmentation, case.headers, case.segments, case.provenance("measurements")
    )
    return segmentation, report


def lose_notice(result: Dataset) -> None:
    result.ContentDescription = "Segmentation"
    del result.ContributingEquipmentSequence


def lose_algorithm(result: Dataset) -> None:
    del result.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence


def swap_patient(result: Dataset) -> None:
    result.PatientID = "P-18"


def swap_study(result: Dataset) -> None:
    result.StudyInstanceUID = "2.25.1234"


def cut_pixels(result: Dataset) -> None:
    result.PixelData = result.PixelData[:-2]


def refer_elsewhere(result: Dataset) -> None:
    for item in result.ReferencedSeriesSequence[0].ReferencedInstanceSequence:
        item.ReferencedSOPInstanceUID = "2.25.4321"


def move_space(result: Dataset) -> None:
    result.FrameOfReferenceUID = "2.25.5"


def spoil_uid(result: Dataset) -> None:
    result["SeriesInstanceUID"].value = "2.25.007"


def lose_type_2(result: Dataset) -> None:
    del result.StudyID


def claim_verified(result: Dataset) -> None:
    result.VerificationFlag = "VERIFIED"


def lose_evidence(result: Dataset) -> None:
    del result.CurrentRequestedProcedureEvidenceSequence


def empty_groups(result: Dataset) -> None:
    measurements = next(i for i in result.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    measurements.ContentSequence = []


@pytest.mark.parametrize(
    ("which", "spoil", "words"),
    [
        (0, lose_notice, "notice"),
        (0, lose_algorithm, "does not name its algorithm"),
        (0, swap_patient, "PatientID is not that of the source"),
        (0, swap_study, "StudyInstanceUID is not that of the source"),
        (0, cut_pixels, "pixel data"),
        (0, refer_elsewhere, "no image of the source series"),
        (0, move_space, "frame of reference"),
        (0, spoil_uid, "SeriesInstanceUID is no UID"),
        (0, lose_type_2, "StudyID is missing"),
        (1, swap_patient, "PatientID is not that of the source"),
        (1, claim_verified, "UNVERIFIED"),
        (1, lose_evidence, "evidence"),
        (1, empty_groups, "no measurement group"),
    ],
)
def test_a_spoilt_result_is_found(
    which: int, spoil: Callable[[Dataset], None], words: str, make_case: MakeCase
) -> None:
    case = make_case()
    result = make(case)[which]
    spoil(result)
    found = check(result, case.headers)
    assert any(words in line for line in found), found
    assert not any("P-17" in line or "P-18" in line or "Test" in line for line in found)


def test_a_truncated_file_is_found(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    file = tmp_path / "result.dcm"
    make(case)[0].save_as(file)
    file.write_bytes(file.read_bytes()[:-300])
    assert check(file, case.headers)


def test_dciodvfy_finds_what_is_missing_and_keeps_values_about_people_back(make_case: MakeCase, tmp_path: Path) -> None:
    need_program("dciodvfy", "dicom3tools")
    case = make_case()
    result = make(case)[0]
    del result.ContentLabel
    result["PatientSex"].value = "SECRET"
    result.save_as(tmp_path / "result.dcm")
    found = dciodvfy(tmp_path / "result.dcm", case.headers[0])
    assert found
    assert any("Content" in line for line in found)
    assert not any("SECRET" in line for line in found)


def test_without_dciodvfy_there_is_no_answer_rather_than_a_pass(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dciodvfy(tmp_path / "result.dcm") is None
