"""Checking a result before it enters the archive: our own rules always, `dciodvfy` where it is installed.

Not here: the objects that senders bring; those are archived as they are.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import highdicom
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from insitu.errors import InsituError

from .result import NOTICE

REQUIRED = (  # attribute, whether it must have a value (type 1) or only stand there (type 2)
    ("SOPClassUID", True),
    ("SOPInstanceUID", True),
    ("StudyInstanceUID", True),
    ("SeriesInstanceUID", True),
    ("Modality", True),
    ("Manufacturer", True),
    ("ManufacturerModelName", True),
    ("SoftwareVersions", True),
    ("SeriesNumber", True),
    ("InstanceNumber", True),
    ("SeriesDescription", True),
    ("ContentDate", True),
    ("ContentTime", True),
    ("PatientName", False),
    ("PatientID", False),
    ("PatientBirthDate", False),
    ("PatientSex", False),
    ("StudyDate", False),
    ("StudyTime", False),
    ("StudyID", False),
    ("AccessionNumber", False),
    ("ReferringPhysicianName", False),
)
CARRIED = (
    "StudyInstanceUID",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
)

DCIODVFY_SECONDS = 300
_UID = re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_UID_CHARACTERS = re.compile(
    r"[0-9.]{1,64}"
)  # UIDs of the source may have leading zeros, and are carried over all the same
_ABOUT_PEOPLE = re.compile(r"0x0010|Patient|Physician|Operator|Name")


def check(result: Dataset | Path, sources: Sequence[Dataset] = ()) -> list[str]:
    """What is wrong with a result object; empty where nothing is.

    Parameters
    ----------
    result : Dataset or Path
        A Segmentation or Comprehensive 3D SR, or the file it was written to. It is judged as read back, with a second reader
        (highdicom's).
    sources : sequence of Dataset
        Headers of its source series: patient and study must agree, references must name them.

    Returns
    -------
    list of str
        One sentence each, without patient data.
    """
    try:
        if isinstance(result, Dataset):
            buffer = BytesIO()
            pydicom.dcmwrite(buffer, result, enforce_file_format=True)
            buffer.seek(0)
            again = pydicom.dcmread(buffer)
        else:
            again = pydicom.dcmread(result)
        found = [*_attributes(again), *_values(again), *_carried(again, sources)]
    except Exception as error:  # noqa: BLE001 - whatever writing or reading says, the object is not usable
        return [f"It cannot be written and read again: {type(error).__name__}"]
    if again.get("SOPClassUID") == SegmentationStorage:
        found += _segmentation(again, sources)
    elif again.get("SOPClassUID") == Comprehensive3DSRStorage:
        found += _report(again, sources)
    else:
        found.append("Its SOP class is not one that results have")
    return found


def _attributes(dataset: Dataset) -> Iterator[str]:
    for keyword, needs_value in REQUIRED:
        if keyword not in dataset:
            yield f"{keyword} is missing"
        elif needs_value and dataset[keyword].is_empty:
            yield f"{keyword} has no value"
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        if not _UID.fullmatch(str(dataset.get(keyword, ""))):
            yield f"{keyword} is no UID"


def _values(dataset: Dataset) -> Iterator[str]:
    notice = False
    for element in dataset.iterall():
        if element.VR == "UI" and not element.is_empty:
            for value in element.value if element.VM > 1 else [element.value]:
                if not _UID_CHARACTERS.fullmatch(str(value)):
                    yield f"{element.keyword} is no UID"
        elif element.VR in ("LO", "ST", "LT", "UT") and element.value == NOTICE:
            notice = True
    if not notice:
        yield "The notice that a physician must confirm it is missing"


def _carried(dataset: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    for keyword in CARRIED if sources else ():
        if (dataset.get(keyword) or "") != (sources[0].get(keyword) or ""):
            yield f"{keyword} is not that of the source series"


def _segmentation(dataset: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    try:
        segmentation = highdicom.seg.Segmentation.from_dataset(dataset, copy=False)
        numbers = segmentation.segment_numbers
    except Exception as error:  # noqa: BLE001 - the second reader refuses in many ways
        yield f"The second reader refuses it: {type(error).__name__}"
        return
    if list(numbers) != list(range(1, len(numbers) + 1)):
        yield "The segment numbers are not 1, 2, 3 and so on"
    for number in numbers:
        description = segmentation.get_segment_description(number)
        if not description.algorithm_identification:
            yield f"Segment {number} does not name its algorithm"
    frames = int(dataset.NumberOfFrames)
    if len(dataset.PerFrameFunctionalGroupsSequence) != frames:
        yield "The number of frames and of their descriptions differ"
    expected = (frames * int(dataset.Rows) * int(dataset.Columns) + 7) // 8
    if len(dataset.PixelData) != expected + expected % 2:
        yield f"The pixel data have {len(dataset.PixelData)} bytes instead of {expected + expected % 2}"
    if sources:
        if dataset.get("FrameOfReferenceUID") != sources[0].get("FrameOfReferenceUID"):
            yield "The frame of reference is not that of the source series"
        yield from _references(dataset, sources, set())


def _report(dataset: Dataset, sources: Sequence[Dataset]) -> Iterator[str]:
    try:
        report = highdicom.sr.Comprehensive3DSR.from_dataset(dataset, copy=False)
        groups = report.content.get_volumetric_roi_measurement_groups()
    except Exception as error:  # noqa: BLE001 - the second reader refuses in many ways
        yield f"The second reader refuses it: {type(error).__name__}"
        return
    if not groups:
        yield "It has no measurement group"
    if dataset.get("VerificationFlag") != "UNVERIFIED":
        yield "It is not marked UNVERIFIED"
    evidence = {
        str(item.ReferencedSOPInstanceUID)
        for study in dataset.get("CurrentRequestedProcedureEvidenceSequence", [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    for group in groups:
        segment = group.referenced_segment
        if segment is None or not group.get_measurements():
            yield "A measurement group has no segment or no measurement"
        elif str(segment.referenced_sop_instance_uid) not in evidence:
            yield "A measurement group names a segmentation that is not among the evidence"
    if sources:
        yield from _references(dataset, sources, evidence)


def _references(dataset: Dataset, sources: Sequence[Dataset], evidence: set[str]) -> Iterator[str]:
    known = {str(source.SOPInstanceUID) for source in sources}
    referenced = evidence or {
        str(item.ReferencedSOPInstanceUID)
        for series in dataset.get("ReferencedSeriesSequence", [])
        for item in series.ReferencedInstanceSequence
    }
    if not referenced & known:
        yield "It names no image of the source series"
    if not evidence and not referenced <= known:
        yield "It names images that are not of the source series"


def dciodvfy(path: Path, source: Dataset | None = None) -> list[str] | None:
    """Errors that the program `dciodvfy` (dicom3tools) finds in a file; None where it is not installed.

    Warnings are not errors: they are about missing values a DICOMDIR would want, which results carry over from their source.

    Parameters
    ----------
    path : Path
    source : Dataset, optional
        A header of the source series. What is wrong there in the same words (a patient's sex of `U`, an age without unit) was carried
        over and is no fault of the result.

    Returns
    -------
    list of str or None
        Lines of the program, values about people left out.

    Raises
    ------
    InsituError
        The program did not end in time.
    """
    program = shutil.which("dciodvfy")
    if program is None:
        return None
    errors = _errors(program, path)
    if errors and source is not None:
        with TemporaryDirectory(prefix="insitu-check-") as folder:
            file = Path(folder) / "source.dcm"
            pydicom.dcmwrite(file, source, enforce_file_format=True)
            inherited = set(_errors(program, file))
        errors = [line for line in errors if line not in inherited]
    return errors


def _errors(program: str, path: Path) -> list[str]:
    try:
        ended = subprocess.run([program, str(path)], capture_output=True, timeout=DCIODVFY_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise InsituError("dciodvfy did not end", why=f"it ran for {DCIODVFY_SECONDS} s") from error
    lines = (ended.stdout + ended.stderr).decode(errors="replace").splitlines()
    found = [line.replace(str(path), "file") for line in lines if re.search(r"\b(Error|Abort)\b", line)]
    return [
        re.sub(r"<[^>]*>|'[^']*'|\"[^\"]*\"", "...", line) if _ABOUT_PEOPLE.search(line) else line for line in found
    ]
