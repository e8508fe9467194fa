"""What all result objects share: who made them, identifiers and dates that follow from the execution, patient and study of the source.

Not here: the content of a segmentation (segmentation) or of a report (report).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import highdicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from insitu.errors import Invalid

from . import codes
from .software import IMPLEMENTATION_VERSION_NAME, MANUFACTURER, VERSION
from .uids import derive

NOTICE = "Produced by an algorithm; a physician must confirm it"

_SERIES_SUFFIX = ", by algorithm, physician must confirm"
_UTF8 = "ISO_IR 192"
_TYPE_2 = (  # of patient and study: always present in a result, perhaps without a value
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_PER_IMAGE = (
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "Rows",
    "Columns",
)


@dataclass(frozen=True)
class Algorithm:
    """The algorithm as results name it.

    Parameters
    ----------
    name, version : str
        As in the manifest.
    digest : str
        `sha256:...` of the installed package.
    title : str
        For people; the name where empty.
    manufacturer : str
        Who made the algorithm; the platform where empty.
    """

    name: str
    version: str
    digest: str
    title: str = ""
    manufacturer: str = ""

    @property
    def source(self) -> str:
        """Who made the algorithm."""
        return self.manufacturer or MANUFACTURER

    @property
    def label(self) -> str:
        """Title, or name where there is no title."""
        return self.title or self.name


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from; all its identifiers and dates follow from this, so that a repeat gives the same bytes.

    Parameters
    ----------
    execution : str
        Identifier of the execution.
    output : str
        Name of the output in the manifest; with the execution it makes the UIDs.
    algorithm : Algorithm
    made_at : datetime
        Aware; from the run's row, never the clock of the moment.
    """

    execution: str
    output: str
    algorithm: Algorithm
    made_at: datetime

    @property
    def series_instance_uid(self) -> str:
        """UID of the result's series."""
        return derive("series", self.execution, self.output)

    @property
    def sop_instance_uid(self) -> str:
        """UID of the result's only instance."""
        return derive("instance", self.execution, self.output)

    def uid(self, *parts: str) -> str:
        """A UID of something inside the result."""
        return derive("part", self.execution, self.output, *parts)


def series_description(algorithm: Algorithm, kind: str) -> str:
    """Description of at most 64 characters that names algorithm and kind of result, and says that it is to be confirmed."""
    room = 64 - len(_SERIES_SUFFIX)
    name = f"{algorithm.label} {kind}"
    if len(name) > room:
        name = f"{algorithm.name} {kind}"[:room].rstrip()
    return name + _SERIES_SUFFIX


def content_label(text: str) -> str:
    """A code string of at most 16 characters."""
    return re.sub(r"[^A-Z0-9_]+", "_", text.upper())[:16].strip("_") or "RESULT"


def content_stamp(provenance: Provenance, source: Dataset) -> datetime:
    """`made_at` in the time zone in which the source counts, where it says one; dates of one object share one zone (PS3.3 C.12.1.1.8)."""
    if provenance.made_at.tzinfo is None:
        raise ValueError("made_at must be aware")
    match = re.fullmatch(r"([+-])(\d\d)(\d\d)", str(source.get("TimezoneOffsetFromUTC") or "").strip())
    if match is None:
        return provenance.made_at
    sign = -1 if match[1] == "-" else 1
    return provenance.made_at.astimezone(timezone(sign * timedelta(hours=int(match[2]), minutes=int(match[3]))))


def equipment(provenance: Provenance) -> dict[str, Any]:
    """The algorithm as the equipment that made the object, as arguments of highdicom's constructors."""
    algorithm = provenance.algorithm
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": algorithm.name[:64],
        "software_versions": algorithm.version[:64],
        "device_serial_number": algorithm.digest.removeprefix("sha256:")[:64],
    }


def identification(algorithm: Algorithm) -> highdicom.AlgorithmIdentificationSequence:
    """Name, version and digest of the algorithm (PS3.3 10.16)."""
    return highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name[:64],
        family=codes.ARTIFICIAL_INTELLIGENCE,
        version=algorithm.version[:64],
        source=algorithm.source[:64],
        parameters={"digest": algorithm.digest},
    )


def stand_ins(sources: Sequence[Dataset]) -> list[Dataset]:
    """Copies of the source headers without values that a constructor might refuse.

    Real headers hold things like a patient's sex of `U`. A result carries over what its source says, right or wrong, so patient and
    study are taken over afterwards, by `finish`. The first copy has all standard attributes, the others those that differ by image.
    """
    copies = [_public(sources[0])]
    for source in sources[1:]:
        copy = Dataset()
        for keyword in _PER_IMAGE:
            if keyword in source:
                copy.add(source[keyword])
        copies.append(copy)
    for keyword in (*_TYPE_2, "PatientAge"):
        # A new element: the copy shares its elements with the source.
        copies[0][keyword] = DataElement(tag_for_keyword(keyword), dictionary_VR(keyword), "")
    for keyword in ("SpecificCharacterSet", "ContributingEquipmentSequence", "TimezoneOffsetFromUTC"):
        if keyword in copies[0]:
            del copies[0][keyword]
    return copies


def _public(source: Dataset) -> Dataset:
    """A data set that shares the standard elements of `source`, without pixel data."""
    copy = Dataset()
    for element in source:
        if not element.tag.is_private and element.keyword != "PixelData":
            copy.add(element)
    return copy


def finish(result: highdicom.SOPClass, source: Dataset, provenance: Provenance, texts: Iterable[str]) -> None:
    """Take over patient, study, character set and time zone from the source, and put the run's date in place of the clock's.

    Parameters
    ----------
    result : highdicom.SOPClass
        The object as constructed from `stand_ins` headers; changed in place.
    source : Dataset
        A header of the source series, as read.
    provenance : Provenance
    texts : iterable of str
        The texts the result adds. Where one needs it, the object's character set becomes UTF-8, else the source's stays.
    """
    _carry_over(result, source)
    source_set = source.get("SpecificCharacterSet")
    if not all(text.isascii() for text in texts):
        result.SpecificCharacterSet = _UTF8
    elif source_set:
        result.SpecificCharacterSet = source_set
    elif "SpecificCharacterSet" in result:
        del result.SpecificCharacterSet
    if source.get("TimezoneOffsetFromUTC"):
        result.TimezoneOffsetFromUTC = source.TimezoneOffsetFromUTC
    stamp = content_stamp(provenance, source)
    date, time = stamp.strftime("%Y%m%d"), stamp.strftime("%H%M%S.%f")
    for prefix in ("InstanceCreation", "Content", "Series"):
        setattr(result, f"{prefix}Date", date)
        setattr(result, f"{prefix}Time", time)
    result.ContributingEquipmentSequence = DicomSequence([_platform(stamp)])
    result.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def _carry_over(result: highdicom.SOPClass, source: Dataset) -> None:
    result.copy_patient_and_study_information(_public(source))
    for keyword in _TYPE_2:
        value = source[keyword].value if keyword in source else None
        result[keyword] = DataElement(tag_for_keyword(keyword), dictionary_VR(keyword), value)


def _platform(stamp: datetime) -> highdicom.ContributingEquipment:
    return highdicom.ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.PROCESSING_EQUIPMENT,
        manufacturer_model_name="Insitu",
        software_versions=VERSION,
        contribution_datetime=stamp,
        contribution_description=NOTICE,
    )


def require_one_study(sources: Sequence[Dataset]) -> None:
    """Refuse sources of several series; raises Invalid."""
    if not sources:
        raise Invalid("A result needs source images", why="none was given")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        found = {str(source.get(keyword, "")) for source in sources}
        if len(found) != 1:
            raise Invalid(
                "The source images are not one series", value=", ".join(sorted(found)), why=f"{keyword} differs"
            )
