"""The rules of the DICOM JSON Model (PS3.18 annex F), each with the places where a document breaks it; and its form in XML.

Not here: asking a server for documents (checks.metadata).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

Document = Mapping[str, Any]
Found = dict[str, list[str]]

_BULK_VRS = frozenset(  # F.2.2
    ("DS", "FL", "FD", "IS", "LT", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SS", "ST", "SV", "UC", "UL", "UN", "US", "UT", "UV")
)  # fmt: skip
_BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_NUMBERS = frozenset(("FL", "FD", "SL", "SS", "UL", "US"))
_EITHER = frozenset(("DS", "IS", "SV", "UV"))
_STRINGS = frozenset(("AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"))
_VRS = _BULK_VRS | _STRINGS | {"AT", "PN", "SQ"}
NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
NAME = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")

RULES = {
    "names": ("F.2.2", "Attribute names are tags as eight uppercase hexadecimal digits"),
    "order": ("F.2.2", "Attributes are ordered by their tag, also inside sequences"),
    "group-length": ("F.2.2", "There are no group length attributes (gggg,0000)"),
    "file-meta": ("F.2.2", "There are no attributes of group 0002, which belong to the file and not to the data set"),
    "vr": ("F.2.2", "Each attribute has a vr of DICOM"),
    "one-of": ("F.2.2", "Each attribute has at most one of Value, BulkDataURI and InlineBinary, and nothing unknown"),
    "array": ("F.2.4", "Value is an array, and not an empty one"),
    "names-of-persons": ("F.2.2", "Person names are objects of Alphabetic, Ideographic and Phonetic, each a string"),
    "numbers": ("F.2.3", "FL, FD, SL, SS, UL and US are JSON numbers"),
    "decimal-strings": ("F.2.3", "DS, IS, SV and UV are JSON numbers or strings of numbers"),
    "strings": ("F.2.3", "The text value representations, dates, times and UIDs are JSON strings"),
    "tags": ("F.2.3", "Values of AT are tags as eight uppercase hexadecimal digits"),
    "sequences": ("F.2.2", "Sequences are arrays of objects"),
    "binary": ("F.2.2", "Binary values are never a Value"),
    "inline": ("F.2.7", "InlineBinary is one base64 string, of a binary value representation"),
    "bulk": ("F.2.2", "BulkDataURI is a string, of a value representation that may have one"),
}


def problems(document: Document, place: str = "") -> Found:
    """What is wrong with a document, by rule.

    Parameters
    ----------
    document : mapping
        Attribute objects by tag.
    place : str
        Where it stands, for items of sequences.

    Returns
    -------
    dict
        Keys of RULES to short descriptions.
    """
    found: Found = defaultdict(list)
    names = list(document)
    for name in names:
        where = place + name
        if not re.fullmatch(r"[0-9A-F]{8}", name):
            found["names"].append(where)
            continue
        if name.endswith("0000"):
            found["group-length"].append(where)
        if name.startswith("0002") and not place:
            found["file-meta"].append(where)
        _attribute(found, where, document[name])
    if names != sorted(names):
        found["order"].append(place or "top level")
    return found


def _attribute(found: Found, where: str, attribute: Any) -> None:
    if not isinstance(attribute, dict) or attribute.get("vr") not in _VRS:
        found["vr"].append(f"{where}: {attribute.get('vr') if isinstance(attribute, dict) else attribute!r}")
        return
    vr, kinds = attribute["vr"], [key for key in ("Value", "BulkDataURI", "InlineBinary") if key in attribute]
    if len(kinds) > 1 or set(attribute) - {"vr", *kinds}:
        found["one-of"].append(f"{where}: {', '.join(sorted(attribute))}")
    if "Value" in attribute:
        values = attribute["Value"]
        if not isinstance(values, list) or not values:
            found["array"].append(f"{where}: {str(values)[:40]}")
            return
        if vr in _BINARY:
            found["binary"].append(f"{where}: {vr}")
        for value in values:
            _value(found, f"{where}", vr, value)
    if "InlineBinary" in attribute:
        _inline(found, where, vr, attribute["InlineBinary"])
    if "BulkDataURI" in attribute and (vr not in _BULK_VRS or not isinstance(attribute["BulkDataURI"], str)):
        found["bulk"].append(f"{where}: {vr}")


def _value(found: Found, where: str, vr: str, value: Any) -> None:
    shown = f"{where}: {str(value)[:40]!r}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if vr == "SQ":
        if isinstance(value, dict):
            for rule, places in problems(value, f"{where}/").items():
                found[rule] += places
        else:
            found["sequences"].append(shown)
    elif value is None:
        return
    elif vr == "PN":
        if (
            not isinstance(value, dict)
            or set(value) - set(_GROUPS)
            or not all(isinstance(text, str) for text in value.values())
        ):
            found["names-of-persons"].append(shown)
    elif vr in _NUMBERS and not number:
        found["numbers"].append(shown)
    elif vr in _EITHER and not (number or (isinstance(value, str) and _is_number(value))):
        found["decimal-strings"].append(shown)
    elif vr in _STRINGS and not isinstance(value, str):
        found["strings"].append(shown)
    elif vr == "AT" and not (isinstance(value, str) and re.fullmatch(r"[0-9A-F]{8}", value)):
        found["tags"].append(shown)


def _inline(found: Found, where: str, vr: str, text: Any) -> None:
    try:
        base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        found["inline"].append(where)
        return
    if vr not in _BINARY:
        found["inline"].append(f"{where}: {vr}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def differences(stored: Dataset, document: Document, place: str = "") -> list[str]:
    """Where a document says something else than the stored object; values by reference (BulkDataURI) are not followed.

    Character set and group lengths are left out: JSON is UTF-8 whatever the object was written in (F.2).
    """
    wrong = []
    expected = stored.to_json_dict(bulk_data_threshold=1 << 30, bulk_data_element_handler=lambda _: "")
    for tag, attribute in expected.items():
        if tag in ("00080005", "7FE00010") or tag.endswith("0000"):
            continue
        where = place + tag
        came = document.get(tag)
        if came is None:
            wrong.append(f"{where} is missing")
        elif came.get("vr") != attribute["vr"]:
            wrong.append(f"{where} is {came.get('vr')}, not {attribute['vr']}")
        elif attribute["vr"] == "SQ":
            wrong += _items(stored, tag, came, where)
        elif "BulkDataURI" not in came and _plain(came) != _plain(attribute):
            wrong.append(f"{where} is {str(_plain(came))[:60]}, not {str(_plain(attribute))[:60]}")
    return wrong


def _items(stored: Dataset, tag: str, came: Mapping[str, Any], where: str) -> list[str]:
    items, others = list(stored[int(tag, 16)].value), came.get("Value", [])
    if len(items) != len(others):
        return [f"{where} has {len(others)} items, not {len(items)}"]
    wrong = []
    for number, (item, other) in enumerate(zip(items, others, strict=True)):
        wrong += differences(item, other or {}, f"{where}/{number}/")
    return wrong


def _plain(attribute: Mapping[str, Any]) -> Any:
    """A value that compares equal whichever of the allowed forms it has."""
    if "InlineBinary" in attribute:
        return base64.b64decode(attribute["InlineBinary"])
    vr, values = attribute.get("vr", ""), attribute.get("Value", [])
    plain: list[Any] = []
    for value in values:
        if value in (None, "", {}):
            plain.append(None)
        elif vr in _NUMBERS | _EITHER:
            plain.append(round(float(value), 6))
        elif isinstance(value, dict):
            plain.append({key: str(text).strip() for key, text in value.items() if text})
        else:
            plain.append(str(value).strip(" \0"))
    return [] if plain == [None] else plain


def first(attribute: Mapping[str, Any] | None) -> Any:
    """The first value of an attribute object, or None."""
    values = (attribute or {}).get("Value") or [None]
    return values[0]


def native(document: Mapping[str, Any]) -> bytes:
    """A DICOM JSON object in the Native DICOM Model (PS3.19 A.1); of a name the alphabetic group. No private attributes."""
    root = ElementTree.Element("NativeDicomModel", {"xmlns": NAMESPACE, "xml:space": "preserve"})
    _fill(root, document)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _fill(parent: ElementTree.Element, document: Mapping[str, Any]) -> None:
    for tag, attribute in document.items():
        names = {"tag": tag, "vr": attribute["vr"], "keyword": keyword_for_tag(int(tag, 16))}
        element = ElementTree.SubElement(parent, "DicomAttribute", names)
        if "BulkDataURI" in attribute:
            ElementTree.SubElement(element, "BulkData", uri=attribute["BulkDataURI"])
        if "InlineBinary" in attribute:
            ElementTree.SubElement(element, "InlineBinary").text = attribute["InlineBinary"]
        for number, value in enumerate(attribute.get("Value", ()), start=1):
            kind = {"SQ": "Item", "PN": "PersonName"}.get(attribute["vr"], "Value")
            inner = ElementTree.SubElement(element, kind, number=str(number))
            if kind == "Item":
                _fill(inner, value)
            elif kind == "PersonName":
                group = ElementTree.SubElement(inner, "Alphabetic")
                for name, part in zip(NAME, (value or {}).get("Alphabetic", "").split("^"), strict=False):
                    ElementTree.SubElement(group, name).text = part
            elif value not in (None, ""):
                inner.text = str(value)


def from_native(text: bytes) -> dict[str, Any]:
    """What a NativeDicomModel document says of each attribute at its top: texts of values, and names of persons as in JSON.

    Private attributes have the key `CREATOR/ggggee`, where `ee` are the last two digits.
    """
    found: dict[str, Any] = {}
    for attribute in ElementTree.fromstring(text):  # noqa: S314 - the answer of the server the user chose
        tag, creator = attribute.get("tag", ""), attribute.get("privateCreator")
        found[f"{creator}/{tag[:4]}{tag[6:]}" if creator else tag] = [_native_value(value) for value in attribute]
    return found


def _native_value(element: ElementTree.Element) -> Any:
    if element.tag.endswith("PersonName"):
        groups = {}
        for group in element:
            parts = {part.tag.rpartition("}")[2]: part.text or "" for part in group}
            groups[group.tag.rpartition("}")[2]] = "^".join(parts.get(name, "") for name in NAME).rstrip("^")
        return groups
    if element.tag.endswith("Item"):
        return len(element)
    return element.get("uri") if element.tag.endswith("BulkData") else element.text
