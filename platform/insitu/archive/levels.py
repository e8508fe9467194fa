"""The attributes of patient, study and series that the index keeps with a study and a series, as DICOM JSON.

They come from the first object of the study or series. Not here: the full metadata of every instance (insitu.archive.metadata).
"""

from __future__ import annotations

import math
from typing import Any

from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.tag import Tag

from .header import Syntax
from .tolerant import FAILURES

CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
MODALITY = 0x00080060
PATIENT_ID = 0x00100020
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
INSTANCE_NUMBER = 0x00200013
NUMBER_OF_FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011

STUDY_LEVEL = (
    0x00080020,  # Study Date
    0x00080030,  # Study Time
    0x00080050,  # Accession Number
    0x00080090,  # Referring Physician's Name
    0x00080201,  # Timezone Offset From UTC
    0x00081030,  # Study Description
    0x00100010,  # Patient's Name
    PATIENT_ID,
    0x00100021,  # Issuer of Patient ID
    0x00100030,  # Patient's Birth Date
    0x00100040,  # Patient's Sex
    0x00101010,  # Patient's Age
    STUDY_INSTANCE_UID,
    0x00200010,  # Study ID
)
SERIES_LEVEL = (
    0x00080021,  # Series Date
    0x00080031,  # Series Time
    MODALITY,
    0x00080070,  # Manufacturer
    0x00080080,  # Institution Name
    0x00081010,  # Station Name
    0x0008103E,  # Series Description
    0x00081090,  # Manufacturer's Model Name
    0x00180015,  # Body Part Examined
    0x00181030,  # Protocol Name
    SERIES_INSTANCE_UID,
    0x00200011,  # Series Number
    0x00200060,  # Laterality
    0x00400244,  # Performed Procedure Step Start Date
    0x00400245,  # Performed Procedure Step Start Time
)
WANTED = frozenset(
    (
        *(CHARACTER_SET, SOP_CLASS_UID, SOP_INSTANCE_UID, INSTANCE_NUMBER, NUMBER_OF_FRAMES, ROWS, COLUMNS),
        *STUDY_LEVEL,
        *SERIES_LEVEL,
    )
)

Raw = dict[int, tuple[bytes, bytes]]


def text(values: Raw, tag: int) -> str:
    """A value of the default character repertoire without its padding; empty where it is absent."""
    return values[tag][1].decode("latin-1").strip(" \0") if tag in values else ""


def uid(values: Raw, tag: int) -> str:
    """A UID without its padding, which follows it (PS3.5 9.1); empty where it is absent."""
    return values[tag][1].decode("latin-1").rstrip(" \0") if tag in values else ""


def integer(values: Raw, tag: int) -> int | None:
    """The value of an IS attribute; None where it is absent, empty or no integer that fits into 32 bits."""
    try:
        number = int(text(values, tag))
    except ValueError:
        return None
    return number if -(2**31) <= number < 2**31 else None


def unsigned_short(values: Raw, tag: int, syntax: Syntax) -> int | None:
    """The first value of a US attribute; None where it is absent or empty."""
    raw = values[tag][1] if tag in values else b""
    return int.from_bytes(raw[:2], "little" if syntax.little else "big") if len(raw) >= 2 else None


def storable(value: Any) -> Any:
    """A JSON value as PostgreSQL takes it: no NUL, no lone surrogates, no number that is not finite."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return value


def _encodings(character_set: str) -> list[str]:
    """Python's names of a Specific Character Set; the default repertoire where it is none that can be understood."""
    try:
        found: list[str] = convert_encodings([part.strip() for part in character_set.split("\\")])
    except (ValueError, LookupError):
        return ["iso8859"]
    return found


def patient_id(attributes: dict[str, Any]) -> str:
    """The Patient ID among attributes in DICOM JSON, a backslash in it included; empty where it is absent."""
    return "\\".join(str(value) for value in attributes.get(f"{PATIENT_ID:08X}", {}).get("Value") or [] if value)


def attributes(values: Raw, syntax: Syntax, tags: tuple[int, ...]) -> dict[str, Any]:
    """The attributes among `tags` as DICOM JSON (PS3.18 F). A value that cannot be understood is left out."""
    encodings = _encodings(text(values, CHARACTER_SET))
    found = {}
    for tag in sorted(tags):
        if tag not in values:
            continue
        vr, raw = values[tag]
        element = RawDataElement(
            Tag(tag), vr.decode("ascii") or None, len(raw), raw, 0, not syntax.explicit, syntax.little
        )
        try:
            converted = convert_raw_data_element(element, encoding=encodings)
            found[f"{tag:08X}"] = storable(converted.to_json_dict(None, 0))
        except FAILURES:
            continue
    return found
