"""The objects the suite stores: small, made new for each run with UIDs of their own, so that nothing of a site is touched.

Four studies: CT with private attributes and sequences beside an RLE compressed MR; a multi-frame object in Latin-1; a
structured report with Japanese names; an encapsulated PDF with Chinese names. Every name says that it is a test.
"""

from __future__ import annotations

import io
import struct
import uuid
from dataclasses import dataclass, field

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    RLELossless,
)

ROWS, COLUMNS = 24, 32
WINDOW = "155,10,linear"  # splits the CT images in the middle: black left, white right
PRIVATE_CREATOR = "INSITU CONFORMANCE"
PRIVATE_GROUP = 0x0099
BULK = bytes(range(256)) * 16
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n" + (
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>endobj\n% " + b"conformance " * 300 + b"\ntrailer<</Root 1 0 R>>\n%%EOF"
)  # fmt: skip


def new_uid() -> str:
    """A UID under 2.25 (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


@dataclass(frozen=True)
class Sample:
    """One object: as a data set, as the bytes of its file, and its frames as uncompressed little-endian bytes."""

    dataset: Dataset
    file: bytes
    frames: list[bytes] = field(default_factory=list)

    @property
    def study(self) -> str:
        """Study Instance UID."""
        return str(self.dataset.StudyInstanceUID)

    @property
    def series(self) -> str:
        """Series Instance UID."""
        return str(self.dataset.SeriesInstanceUID)

    @property
    def instance(self) -> str:
        """SOP Instance UID."""
        return str(self.dataset.SOPInstanceUID)

    @property
    def path(self) -> str:
        """Path of the instance's resource below the base."""
        return f"/studies/{self.study}/series/{self.series}/instances/{self.instance}"


@dataclass(frozen=True)
class Samples:
    """All objects of a run.

    `run` stands in identifiers and names, so that searches can be kept to them; `other` is the study of what single
    checks store beside them.
    """

    run: str
    other: str
    ct: list[Sample]
    rle: Sample
    multiframe: Sample
    report: Sample
    document: Sample

    @property
    def all(self) -> list[Sample]:
        """Every one."""
        return [*self.ct, self.rle, self.multiframe, self.report, self.document]

    @property
    def studies(self) -> list[str]:
        """Study Instance UIDs, each once."""
        return list(dict.fromkeys(sample.study for sample in self.all))

    @property
    def physician(self) -> str:
        """Referring Physician's Name of all of them: a search by it finds this run's objects only."""
        return f"Conformance{self.run}"

    def of_study(self, study: str) -> list[Sample]:
        """The objects of one study."""
        return [sample for sample in self.all if sample.study == study]


def make() -> Samples:
    """New objects."""
    run = uuid.uuid4().hex[:10].upper()
    first = _study(
        run, "A", date="20240115", time="101500", character_set="ISO_IR 192", name=f"Conformance{run}^Alpha", sex="F"
    )
    ct_series, mr_series = new_uid(), new_uid()
    return Samples(
        run=run,
        other=new_uid(),
        ct=[_ct(first, ct_series, number) for number in (1, 2, 3)],
        rle=_rle(first, mr_series),
        multiframe=_multiframe(
            _study(run, "B", date="20240220", time="143000", character_set="ISO_IR 100", name="Müller^Jürgen", sex="M")
        ),
        report=_report(
            _study(
                run, "C", date="20240310", time="080000", character_set="\\ISO 2022 IR 87",
                name="Yamada^Tarou=山田^太郎=やまだ^たろう", sex="M",
            )
        ),
        document=_document(
            _study(
                run, "D", date="20240401", time="235959", character_set="GB18030", name="Wang^XiaoDong=王^小东", sex="O"
            )
        ),
    )  # fmt: skip


def foreign(samples: Samples) -> Sample:
    """One more CT object, of another study and a series of its own; the samples do not hold it."""
    study = _study(samples.run, "X", date="20240501", time="120000", character_set="ISO_IR 192", name="Foreign^Study")
    study.StudyInstanceUID = samples.other
    return _ct(study, new_uid(), 1)


def implicit(samples: Samples) -> Sample:
    """The same, written in implicit VR little endian."""
    sample = foreign(samples)
    return _sample(sample.dataset, sample.frames, ImplicitVRLittleEndian)


def another(samples: Samples) -> Sample:
    """One more CT object of the first study, in a series of its own."""
    dataset = pydicom.dcmread(io.BytesIO(samples.ct[0].file))
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = new_uid(), new_uid()
    dataset.SeriesNumber, dataset.SeriesDescription = 9, "Conformance extra"
    return _sample(dataset, samples.ct[0].frames)


def _study(run: str, letter: str, *, date: str, time: str, character_set: str, name: str, sex: str = "O") -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = character_set.split("\\") if "\\" in character_set else character_set
    dataset.StudyDate, dataset.StudyTime = date, time
    dataset.AccessionNumber = f"ACC{run}{letter}"
    dataset.ReferringPhysicianName = f"Conformance{run}"
    dataset.StudyDescription = "Conformance Größe" if letter == "A" else f"Conformance {letter}"
    dataset.PatientName, dataset.PatientID = name, f"CHK-{run}-{letter}"
    dataset.PatientBirthDate, dataset.PatientSex = "19700203", sex
    dataset.StudyInstanceUID, dataset.StudyID = new_uid(), f"ID{run[:6]}{letter}"
    dataset.AdmittingDiagnosesDescription = ["first", "", "third"]
    dataset.PatientComments = ""
    return dataset


def _copy(study: Dataset, sop_class: str, modality: str, series: str, series_number: int, number: int) -> Dataset:
    dataset = Dataset()
    dataset.update(study)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, new_uid()
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = modality, series, series_number
    dataset.SeriesDescription = f"Conformance {modality}"
    dataset.InstanceNumber = number
    dataset.Manufacturer = "Conformance suite"
    dataset.InstanceCreationDate, dataset.ContentDate, dataset.ContentTime = "20240115", "20240115", "101501.250000"
    return dataset


def _pixels(dataset: Dataset, bits: int, photometric: str = "MONOCHROME2") -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits, bits - 1, 0


def gradient(offset: int = 0) -> bytes:
    """Pixels that rise by 10 from column to column: 0 to 310 HU above the rescale intercept, the same in every row."""
    return struct.pack(f"<{COLUMNS}H", *(1024 + offset + 10 * column for column in range(COLUMNS))) * ROWS


def _ct(study: Dataset, series: str, number: int) -> Sample:
    dataset = _copy(study, CTImageStorage, "CT", series, 1, number)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PerformedProcedureStepStartDate, dataset.PerformedProcedureStepStartTime = "20240115", "101600"
    request = Dataset()
    request.RequestedProcedureID = f"RP{study.AccessionNumber[3:9]}"
    request.ScheduledProcedureStepID = f"SPS{study.AccessionNumber[3:9]}"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "24725-4", "LN", "Head CT"
    request.ScheduledProtocolCodeSequence = Sequence([code])
    dataset.RequestAttributesSequence = Sequence([request])
    _patient_frame(dataset, number)
    dataset.KVP, dataset.AcquisitionNumber = "120", "1"
    _pixels(dataset, 16)
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "-1024", "1", "HU"
    dataset.WindowCenter, dataset.WindowWidth = ["155", "50"], ["310", "100"]
    block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    for element, vr, value in (
        (0x01, "LO", f"private {number}"), (0x02, "FD", [1.5, -2.25]), (0x03, "FL", 0.5), (0x04, "SL", -70000),
        (0x05, "SS", -7), (0x06, "UL", 4_000_000_000), (0x07, "AT", [Tag(0x00100020), Tag(0x7FE00010)]),
        (0x08, "OB", bytes(range(16))), (0x09, "OW", struct.pack("<4H", 1, 2, 3, 40000)), (0x0A, "UT", "long text " * 20),
        (0x0B, "UR", "urn:oid:2.25.1"), (0x0C, "DT", "20240115101500.000000+0100"), (0x0D, "AS", "054Y"),
        (0x10, "OB", BULK), (0x11, "UN", b"unknown!"), (0x20, "SQ", Sequence([])),
        (0x21, "SQ", Sequence([_reference(dataset), Dataset()])),
    ):  # fmt: skip
        block.add_new(element, vr, value)
    pixels = gradient()
    dataset.PixelData = pixels
    dataset["PixelData"].VR = "OW"
    return _sample(dataset, [pixels])


def _patient_frame(dataset: Dataset, number: int) -> None:
    dataset.Laterality, dataset.PatientPosition, dataset.PositionReferenceIndicator = "", "HFS", ""
    dataset.FrameOfReferenceUID = f"{dataset.StudyInstanceUID}.1"
    dataset.ImagePositionPatient = ["0", "0", str(number)]
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.PixelSpacing, dataset.SliceThickness = ["0.5", "0.5"], "1.25"


def _reference(dataset: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, new_uid()
    return item


def _rle(study: Dataset, series: str) -> Sample:
    dataset = _copy(study, MRImageStorage, "MR", series, 2, 1)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    _patient_frame(dataset, 1)
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
    dataset.MRAcquisitionType, dataset.RepetitionTime, dataset.EchoTime, dataset.EchoTrainLength = (
        "2D",
        "500",
        "15",
        "1",
    )
    _pixels(dataset, 16)
    pixels = gradient(5)
    dataset.PixelData = encapsulate([rle_frame([pixels[1::2], pixels[0::2]])])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return _sample(dataset, [pixels], RLELossless)


def _multiframe(study: Dataset) -> Sample:
    frames = [bytes((8 * column + 3 * frame) % 256 for column in range(COLUMNS)) * ROWS for frame in range(5)]
    dataset = _copy(study, MultiFrameGrayscaleByteSecondaryCaptureImageStorage, "OT", new_uid(), 1, 1)
    dataset.ConversionType, dataset.BurnedInAnnotation, dataset.Laterality = "SYN", "NO", ""
    dataset.PatientOrientation, dataset.PresentationLUTShape = "", "IDENTITY"
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.NumberOfFrames, dataset.FrameIncrementPointer = len(frames), Tag(0x00181063)
    dataset.FrameTime = "40"
    _pixels(dataset, 8)
    dataset.PixelData = b"".join(frames)
    dataset["PixelData"].VR = "OB"
    return _sample(dataset, frames)


def _report(study: Dataset) -> Sample:
    dataset = _copy(study, BasicTextSRStorage, "SR", new_uid(), 1, 1)
    dataset.ReferencedPerformedProcedureStepSequence, dataset.PerformedProcedureCodeSequence = (
        Sequence([]),
        Sequence([]),
    )
    dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
    dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
    dataset.ConceptNameCodeSequence = Sequence([_code("11528-7", "LN", "Radiology Report")])
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
    item.ConceptNameCodeSequence = Sequence([_code("121071", "DCM", "Finding")])
    item.TextValue = "An object made by a conformance suite."
    dataset.ContentSequence = Sequence([item])
    return _sample(dataset)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _document(study: Dataset) -> Sample:
    dataset = _copy(study, EncapsulatedPDFStorage, "DOC", new_uid(), 1, 1)
    dataset.DocumentTitle, dataset.BurnedInAnnotation, dataset.ConversionType = "Conformance", "NO", "SYN"
    dataset.AcquisitionDateTime, dataset.ConceptNameCodeSequence = "", Sequence([])
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocument = PDF + b"\n" * (len(PDF) % 2)
    dataset.EncapsulatedDocumentLength = len(PDF)
    return _sample(dataset)


def _sample(dataset: Dataset, frames: list[bytes] | None = None, syntax: str = ExplicitVRLittleEndian) -> Sample:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.preamble = b"\0" * 128
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    file = buffer.getvalue()
    return Sample(pydicom.dcmread(io.BytesIO(file)), file, list(frames or ()))


def rle_frame(planes: list[bytes]) -> bytes:
    """A frame of RLE Lossless (PS3.5 G): each plane as literal runs, row by row."""
    segments = []
    for plane in planes:
        packed = b""
        for start in range(0, len(plane), COLUMNS):
            row = plane[start : start + COLUMNS]
            packed += bytes([len(row) - 1]) + row
        segments.append(packed + b"\0" * (len(packed) % 2))
    offsets, at = [], 64
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    return struct.pack("<16L", len(segments), *offsets, *([0] * (15 - len(segments)))) + b"".join(segments)


def body_of(file: bytes) -> bytes:
    """The data set of a file: what follows the file meta information (PS3.10 7.1)."""
    (length,) = struct.unpack("<L", file[140:144])
    return file[144 + length :]
