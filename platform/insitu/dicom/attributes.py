"""Values by keyword out of DICOM JSON (PS3.18 F), as the index and the selectors use it.

Not here: reading DICOM files (pydicom does that).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydicom.datadict import tag_for_keyword

from insitu.errors import Invalid

DicomJson = Mapping[str, Any]


@cache
def tag(keyword: str) -> str:
    """The eight hexadecimal digits of a keyword's tag, as DICOM JSON writes it.

    Raises
    ------
    Invalid
        DICOM knows no such keyword.
    """
    number = tag_for_keyword(keyword)
    if number is None:
        raise Invalid(
            "DICOM has no attribute with this keyword",
            value=keyword,
            remedy="Write it as PS3.6 does, for example BodyPartExamined",
        )
    return f"{int(number):08X}"


def values(json: DicomJson, keyword: str) -> list[Any]:
    """All values of an attribute; empty where it is absent or has no value. Person names come as their alphabetic part."""
    element = json.get(tag(keyword))
    if not element:
        return []
    found = element.get("Value", [])
    if element.get("vr") == "PN":
        return [item.get("Alphabetic", "") if isinstance(item, Mapping) else item for item in found]
    return [item for item in found if item is not None]


def value(json: DicomJson, keyword: str, default: Any = None) -> Any:
    """The first value of an attribute, or `default` where it is absent or has no value."""
    found = values(json, keyword)
    return found[0] if found else default


def present(json: DicomJson, keyword: str) -> bool:
    """Whether the attribute stands in the data set at all, be it without a value."""
    return tag(keyword) in json
