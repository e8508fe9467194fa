"""Making a DICOM series out of a volume: for demonstration images and tests, which come as arrays.

Not here: results of algorithms (segmentation, report). What is made here says that it is no acquisition of a patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from insitu.errors import Invalid

from .geometry import LPS_TO_RAS
from .software import IMPLEMENTATION_VERSION_NAME, MANUFACTURER, VERSION
from .uids import derive

CT_INTERCEPT = -1024  # HU of the stored value 0, as scanners write it
MR_LARGEST = 4095  # twelve bits
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # made objects have no time of their own; a fixed one keeps their bytes equal


def to_radiological_axes(array: NDArray[Any], affine: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Turn a volume so that its axes run to the left, posterior and head, the way axial images are stored and shown."""
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(affine), nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    )
    moved = np.asarray(affine, float) @ nibabel.orientations.inv_ornt_aff(turn, array.shape)
    return nibabel.orientations.apply_orientation(array, turn), moved


def wrap_volume(
    array: NDArray[Any],
    affine: NDArray[np.float64],
    modality: str,
    folder: Path,
    *,
    patient_id: str,
    patient_name: str,
    study_description: str,
    series_description: str,
    body_part: str = "",
    made_at: datetime = EPOCH,
    salt: str = "",
    attributes: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a volume as a series of single-frame CT or MR images.

    Parameters
    ----------
    array : ndarray, shape (columns, rows, slices)
        HU for CT; for MR any values of 0 and more, which are scaled to twelve bits where they are not whole numbers that fit.
    affine : ndarray, shape (4, 4)
        (i, j, k) to mm, RAS. Stored as it is, also oblique; `to_radiological_axes` turns it first where that is wanted.
    modality : {"CT", "MR"}
    folder : Path
        Made if need be; the files are called 0001.dcm and so on along the third axis.
    patient_id, patient_name, study_description, series_description, body_part : str
    made_at : datetime
        Date of study, series and images.
    salt : str
        Another salt gives other UIDs, so that the same image can be sent as a new study.
    attributes : mapping of str to value, optional
        Further attributes by keyword, for every image.

    Returns
    -------
    list of Path

    Raises
    ------
    Invalid
        Another modality, or an array that has not three axes.
    """
    if modality not in ("CT", "MR"):
        raise Invalid("Only CT and MR series can be made", value=modality)
    if array.ndim != 3 or 0 in array.shape:
        raise Invalid("A series is made of an array of three axes", value=str(array.shape))
    folder.mkdir(parents=True, exist_ok=True)
    pixels = _ct_pixels(array) if modality == "CT" else _mr_pixels(array)
    names = (patient_id, study_description, salt)
    template = _image(modality, pixels.shape)
    template.update(_identity(names, series_description, made_at))
    template.PatientID, template.PatientName = patient_id, patient_name
    template.StudyDescription, template.SeriesDescription = study_description, series_description
    template.BodyPartExamined = body_part or None
    lps = LPS_TO_RAS @ np.asarray(affine, float)
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / lengths
    template.PixelSpacing = [_decimal(lengths[1]), _decimal(lengths[0])]
    template.ImageOrientationPatient = [_decimal(value) for value in (*directions[:, 0], *directions[:, 1])]
    template.SliceThickness = template.SpacingBetweenSlices = _decimal(lengths[2])
    template.WindowCenter, template.WindowWidth = ("40", "400") if modality == "CT" else _window(pixels)
    for keyword, value in (attributes or {}).items():
        setattr(template, keyword, value)
    paths = []
    for number in range(pixels.shape[2]):
        image = Dataset()
        image.update(template)
        position = lps @ np.array([0, 0, number, 1.0])
        image.ImagePositionPatient = [_decimal(value) for value in position[:3]]
        normal = np.cross(directions[:, 0], directions[:, 1])
        image.SliceLocation = _decimal(float(position[:3] @ normal))
        image.InstanceNumber = number + 1
        image.SOPInstanceUID = derive("wrapped instance", *names, series_description, str(number))
        image.PixelData = np.ascontiguousarray(pixels[:, :, number].T).tobytes()
        image["PixelData"].VR = "OW"
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        path = folder / f"{number + 1:04d}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _ct_pixels(array: NDArray[Any]) -> NDArray[np.uint16]:
    stored: NDArray[np.uint16] = np.clip(np.rint(array) - CT_INTERCEPT, 0, 65535).astype(np.uint16)
    return stored


def _mr_pixels(array: NDArray[Any]) -> NDArray[np.uint16]:
    values = np.asarray(array, float)
    whole = bool((values == np.rint(values)).all() and values.min() >= 0 and values.max() <= MR_LARGEST)
    scale = 1.0 if whole else MR_LARGEST / max(float(values.max()), 1e-12)
    return np.clip(np.rint(values * scale), 0, MR_LARGEST).astype(np.uint16)


def _window(pixels: NDArray[np.uint16]) -> tuple[str, str]:
    top = float(np.percentile(pixels, 99.5))
    return _decimal(top / 2), _decimal(max(top, 1.0))


def _identity(names: tuple[str, ...], series_description: str, made_at: datetime) -> Dataset:
    identity = Dataset()
    identity.StudyInstanceUID = derive("wrapped study", *names)
    identity.SeriesInstanceUID = derive("wrapped series", *names, series_description)
    identity.FrameOfReferenceUID = derive("wrapped frame of reference", *names)
    for prefix in ("Study", "Series", "Content", "Acquisition"):
        setattr(identity, f"{prefix}Date", made_at.strftime("%Y%m%d"))
        setattr(identity, f"{prefix}Time", made_at.strftime("%H%M%S"))
    return identity


def _image(modality: str, shape: tuple[int, ...]) -> Dataset:
    image = Dataset()
    image.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    image.Modality = modality
    image.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
    for keyword in (
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PositionReferenceIndicator",
    ):
        setattr(image, keyword, None)
    image.StudyID = "1"
    image.SeriesNumber = 1
    image.AcquisitionNumber = 1
    image.Manufacturer = MANUFACTURER
    image.ManufacturerModelName = "Insitu wrap"
    image.SoftwareVersions = VERSION
    image.PatientPosition = "HFS"
    image.Columns, image.Rows = shape[0], shape[1]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated = 16
    image.BitsStored = 16 if modality == "CT" else 12
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = 0
    if modality == "CT":
        image.KVP = None
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = str(CT_INTERCEPT), "1", "HU"
    else:
        image.ScanningSequence, image.SequenceVariant = "RM", "NONE"
        for keyword in ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"):
            setattr(image, keyword, None)
    return image


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters."""
    for digits in range(12, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"no decimal string for {value}")
