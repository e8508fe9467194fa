"""Segmentations and reports are what independent programs take them for, and say what they must."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from insitu.dicom import codes, geometry
from insitu.dicom.check import check, dciodvfy
from insitu.dicom.codes import Concept
from insitu.dicom.measurements import Measurements
from insitu.dicom.rehearsal import rehearse
from insitu.dicom.report import write_measurement_report
from insitu.dicom.result import NOTICE
from insitu.dicom.segmentation import Segment, write_segmentation
from insitu.errors import Invalid
from tests.tools import need_program

from .conftest import GRIDS, Case

MakeCase = Callable[..., Case]


def segmentation_of(case: Case, headers: Sequence[Dataset] | None = None) -> Dataset:
    return write_segmentation(case.frames(), headers or case.headers, case.segments, case.provenance("tissue"))


def report_of(case: Case, **options: Any) -> Dataset:
    return write_measurement_report(
        case.measurements(),
        segmentation_of(case),
        case.headers,
        case.segments,
        case.provenance("measurements"),
        **options,
    )


WRITERS = [segmentation_of, report_of]


def written(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def texts(dataset: Dataset) -> list[str]:
    return [str(element.value) for element in dataset.iterall() if element.VR in ("LO", "LT", "UT", "ST", "SH")]


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("write", WRITERS)
def test_dciodvfy_finds_no_error_and_no_warning(
    write: Callable[[Case], Dataset], modality: str, make_case: MakeCase, tmp_path: Path
) -> None:
    program = need_program("dciodvfy", "dicom3tools")
    write(make_case(modality)).save_as(tmp_path / "result.dcm")
    assert dciodvfy(tmp_path / "result.dcm") == []
    ended = subprocess.run([program, str(tmp_path / "result.dcm")], capture_output=True, text=True, timeout=120)
    assert "Error" not in ended.stdout + ended.stderr
    assert "Warning" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("write", WRITERS)
def test_our_own_check_passes_it(write: Callable[[Case], Dataset], make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    result = write(case)
    assert check(result, case.headers) == []
    result.save_as(tmp_path / "result.dcm")
    assert check(tmp_path / "result.dcm", case.headers) == []


@pytest.mark.parametrize("write", WRITERS)
def test_the_same_execution_gives_the_same_bytes(write: Callable[[Case], Dataset], make_case: MakeCase) -> None:
    case = make_case()
    assert written(write(case)) == written(write(case))


@pytest.mark.parametrize("write", WRITERS)
def test_another_execution_gives_other_uids(write: Callable[[Case], Dataset], make_case: MakeCase) -> None:
    case = make_case()
    first = write(case)

    class Other(Case):
        def provenance(self, output: str, execution: str = "") -> Any:
            return super().provenance(output, "another-1")

    second = write(Other(**vars(case)))
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert first[keyword].value != second[keyword].value
    assert first.StudyInstanceUID == second.StudyInstanceUID


@pytest.mark.parametrize("write", WRITERS)
def test_it_says_which_algorithm_made_it_and_that_a_physician_must_confirm(
    write: Callable[[Case], Dataset], make_case: MakeCase
) -> None:
    case = make_case()
    result = write(case)
    assert NOTICE in texts(result)
    assert "by algorithm, physician must confirm" in result.SeriesDescription
    assert len(result.SeriesDescription) <= 64
    assert result.ManufacturerModelName == "ct-tissue"
    assert result.SoftwareVersions == "1.2.3"
    assert any(case.algorithm.digest in text for text in texts(result))


@pytest.mark.parametrize("write", WRITERS)
def test_dates_are_those_of_the_run_in_the_time_zone_of_the_source(
    write: Callable[[Case], Dataset], make_case: MakeCase
) -> None:
    result = write(make_case(TimezoneOffsetFromUTC="-0730"))
    assert result.TimezoneOffsetFromUTC == "-0730"
    for prefix in ("Content", "Series", "InstanceCreation"):
        assert result[f"{prefix}Date"].value == "20260303"
        assert result[f"{prefix}Time"].value == "213607.890000"


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Ольга^Иванова"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_patient_and_study_are_carried_over_in_their_character_set(
    write: Callable[[Case], Dataset], character_set: Any, name: str, make_case: MakeCase
) -> None:
    case = make_case(
        SpecificCharacterSet=character_set,
        PatientName=name,
        PatientBirthDate="19480229",
        PatientSex="F",
        PatientAge="078Y",
        AccessionNumber="A 1",
        StudyID="77",
        StudyDate="20260102",
        StudyTime="101112",
        ReferringPhysicianName="Doctor^A",
        PatientComments="As sent",
    )
    result = pydicom.dcmread(io.BytesIO(written(write(case))))
    source = case.headers[0]
    assert result.SpecificCharacterSet == source.SpecificCharacterSet
    assert str(result.PatientName) == name
    for keyword in ("PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "AccessionNumber", "StudyID", "StudyDate",
                    "StudyTime", "StudyDescription", "StudyInstanceUID", "ReferringPhysicianName", "PatientComments"):  # fmt: skip
        assert result[keyword].value == source[keyword].value, keyword
    assert check(result, case.headers) == []


@pytest.mark.parametrize("write", WRITERS)
def test_a_segment_name_beyond_the_source_character_set_turns_the_object_to_utf8(
    write: Callable[[Case], Dataset], make_case: MakeCase
) -> None:
    case = make_case(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    case.segments[0] = replace(case.segments[0], name="Кость")
    result = pydicom.dcmread(io.BytesIO(written(write(case))))
    assert result.SpecificCharacterSet == "ISO_IR 192"
    assert str(result.PatientName) == "Müller^Jörg"
    assert any("Кость" in text for text in texts(result))


@pytest.mark.parametrize("write", WRITERS)
def test_wrong_values_of_the_source_do_not_stop_a_result(
    write: Callable[[Case], Dataset], make_case: MakeCase, tmp_path: Path
) -> None:
    case = make_case(PatientSex="U", PatientAge="45", StudyID="")
    result = write(case)
    assert result.PatientSex == "U"
    assert check(result, case.headers) == []
    result.save_as(tmp_path / "result.dcm")
    assert dciodvfy(tmp_path / "result.dcm", case.headers[0]) in ([], None)


def dcmqi(*arguments: str) -> None:
    program = Path(sys.executable).with_name(arguments[0])
    assert program.is_file(), "the Python package dcmqi belongs to the development environment"
    ended = subprocess.run([str(program), *arguments[1:]], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("grid", GRIDS)
def test_dcmqi_reads_every_segment_where_the_algorithm_drew_it(grid: str, make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(affine=GRIDS[grid])
    segmentation_of(case).save_as(tmp_path / "seg.dcm")
    dcmqi(
        "segimage2itkimage", "--inputDICOM", str(tmp_path / "seg.dcm"), "--outputDirectory", str(tmp_path), "-t", "nii"
    )
    for number, label in ((1, 1), (2, 3)):
        image = nibabel.load(tmp_path / f"{number}.nii.gz")
        voxels = np.argwhere(np.asanyarray(image.dataobj) > 0)
        places = voxels @ image.affine[:3, :3].T + image.affine[:3, 3]
        truth = np.argwhere(case.labels == label) @ case.affine[:3, :3].T + case.affine[:3, 3]
        assert len(places) == len(truth)
        rounded = {tuple(row) for row in np.rint(places * 20).astype(int)}
        spread = np.array(sorted(rounded), float) / 20
        for point in truth[:: max(1, len(truth) // 50)]:
            assert np.linalg.norm(spread - point, axis=1).min() < 0.1
    described = json.loads((tmp_path / "meta.json").read_text())["segmentAttributes"]
    first = described[0][0]
    assert first["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "3138006"
    assert first["SegmentedPropertyCategoryCodeSequence"]["CodeValue"] == "85756007"
    assert first["SegmentAlgorithmType"] == "AUTOMATIC"


def test_dcmqi_reads_every_measurement_with_code_and_unit(make_case: MakeCase, tmp_path: Path) -> None:
    report_of(make_case()).save_as(tmp_path / "sr.dcm")
    dcmqi("tid1500reader", "--inputDICOM", str(tmp_path / "sr.dcm"), "--outputMetadata", str(tmp_path / "sr.json"))
    content = json.loads((tmp_path / "sr.json").read_text())
    assert content["VerificationFlag"] == "UNVERIFIED"
    groups = content["Measurements"]
    assert [group["ReferencedSegment"] for group in groups] == [1, 2]
    items = [
        (
            item["quantity"]["CodeValue"],
            item.get("derivationModifier", {}).get("CodeValue"),
            item["units"]["CodeValue"],
            float(item["value"]),
        )
        for item in groups[1]["measurementItems"]
    ]
    assert items == [
        ("118565006", None, "ml", 37.5),
        ("112031", "373098007", "[hnsf'U]", -1000.0),
        ("112031", "386136009", "[hnsf'U]", 2.25),
    ]
    assert groups[0]["measurementAlgorithmIdentification"]["AlgorithmVersion"] == "1.2.3"


def test_dcmtk_reads_the_report_and_its_notice(make_case: MakeCase, tmp_path: Path) -> None:
    program = need_program("dsrdump", "dcmtk")
    report_of(make_case("MR"), complete=False).save_as(tmp_path / "sr.dcm")
    ended = subprocess.run([program, "+Pl", str(tmp_path / "sr.dcm")], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    for text in (NOTICE, "UNVERIFIED", "PARTIAL", "PRELIMINARY", "MR signal intensity", "no units"):
        assert text in ended.stdout, text
    assert "W: " not in ended.stderr
    assert "E: " not in ended.stderr


def test_the_report_follows_the_segments_of_the_segmentation(make_case: MakeCase) -> None:
    case = make_case()
    segmentation, report = segmentation_of(case), report_of(case)
    again = highdicom.sr.Comprehensive3DSR.from_dataset(report)
    for group, number in zip(again.content.get_volumetric_roi_measurement_groups(), (1, 2), strict=True):
        described = segmentation.SegmentSequence[number - 1]
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert list(group.referenced_segment.referenced_segment_numbers) == [number]
        assert group.tracking_uid == described.TrackingUID
        assert group.tracking_identifier == described.TrackingID
    sources = {str(header.SOPInstanceUID) for header in case.headers}
    evidence = {
        str(item.ReferencedSOPInstanceUID)
        for series in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert evidence == sources | {str(segmentation.SOPInstanceUID)}


def test_a_multi_frame_source_is_segmented_frame_by_frame(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        legacy_datasets=[pydicom.dcmread(path) for path in case.paths],
        series_instance_uid="2.25.1",
        series_number=2,
        sop_instance_uid="2.25.2",
        instance_number=1,
        transfer_syntax_uid=pydicom.uid.ExplicitVRLittleEndian,
    )
    enhanced.save_as(tmp_path / "enhanced.dcm")
    headers = geometry.read_headers([tmp_path / "enhanced.dcm"])
    frames = geometry.labels_on_series(case.label_file, headers)
    result = write_segmentation(frames, headers, case.segments, case.provenance("tissue"))
    assert check(result, headers) == []
    again = highdicom.seg.Segmentation.from_dataset(result)
    numbers = list(range(1, len(case.paths) + 1))
    pixels = again.get_pixels_by_source_frame("2.25.2", numbers, assert_missing_frames_are_empty=True)
    assert np.array_equal(pixels[..., 0] > 0, frames == 1)
    assert np.array_equal(pixels[..., 1] > 0, frames == 3)


def test_a_segmentation_without_any_voxel_is_still_an_object(make_case: MakeCase) -> None:
    case = make_case()
    result = write_segmentation(np.zeros_like(case.frames()), case.headers, case.segments, case.provenance("tissue"))
    assert check(result, case.headers) == []
    assert not np.frombuffer(result.PixelData, np.uint8).any()


def test_an_anatomic_region_is_kept_in_both(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case()
    head = Concept(scheme="SCT", value="69536005", meaning="Head")
    case.segments[0] = replace(case.segments[0], anatomic_region=head)
    segmentation, report = segmentation_of(case), report_of(case)
    assert segmentation.SegmentSequence[0].AnatomicRegionSequence[0].CodeValue == "69536005"
    assert "69536005" in [str(e.value) for e in report.iterall() if e.keyword == "CodeValue"]
    for result in (segmentation, report):
        result.save_as(tmp_path / "result.dcm")
        assert dciodvfy(tmp_path / "result.dcm") in ([], None)


def test_labels_that_the_manifest_does_not_describe_are_refused(make_case: MakeCase) -> None:
    case = make_case()
    frames = case.frames()
    frames[2, 3, 4] = 9
    with pytest.raises(Invalid, match="does not describe: '9'"):
        write_segmentation(frames, case.headers, case.segments, case.provenance("tissue"))


def test_frames_that_do_not_fit_the_source_are_refused(make_case: MakeCase) -> None:
    case = make_case()
    with pytest.raises(Invalid, match="do not fit"):
        write_segmentation(case.frames()[:-1], case.headers, case.segments, case.provenance("tissue"))


def test_segments_with_the_same_label_are_refused(make_case: MakeCase) -> None:
    case = make_case()
    twice = [*case.segments, Segment(1, "Again", Concept.of(codes.TISSUE), Concept.of(codes.BONE))]
    with pytest.raises(Invalid, match="different labels"):
        write_segmentation(case.frames(), case.headers, twice, case.provenance("tissue"))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{"segment": 2, "measurements": [{"name": "Volume", "value": 1, "unit": "ml"}]}], "does not exist: '2'"),
        ([{"segment": 1, "measurements": []}], "measured nothing"),
        ([], "measured nothing"),
        ([{"segment": 1, "measurements": [{"name": "Mean", "value": 1, "unit": "1"}]}], "does not fit the modality"),
    ],
)
def test_measurements_that_make_no_sense_are_refused(segments: Any, message: str, make_case: MakeCase) -> None:
    case = make_case("CT")
    measured = Measurements.model_validate({"segments": segments})
    with pytest.raises(Invalid, match=message):
        write_measurement_report(
            measured, segmentation_of(case), case.headers, case.segments, case.provenance("measurements")
        )


def test_the_rehearsal_runs_through() -> None:
    rehearse()
