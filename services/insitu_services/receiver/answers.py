"""The answers of a C-FIND: rows of a search as data sets with the attributes that were asked for (PS3.4 C.4.1.1.3.2).

Pure functions. They are written here from the index's DICOM JSON, because a general library takes longer for one answer than
the database does. Not here: which rows (insitu.archive.search_sql), sending (query).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.valuerep import format_number_as_ds

from insitu.archive.header import syntax_of
from insitu.archive.search import Level, tag_of

from .identifier import QUERY_RETRIEVE_LEVEL
from .sop_classes import LEVELS, UNIQUE_KEY

Document = dict[str, Any]

UTF_8 = "ISO_IR 192"
# Character sets in which a peer that asks in them is answered, where they have all characters of the answer.
ANSWERED_IN = ("ISO_IR 100", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110", "ISO_IR 144", "ISO_IR 127", "ISO_IR 126",
               "ISO_IR 138", "ISO_IR 148", "ISO_IR 203", "ISO_IR 166", "GB18030", "GBK")  # fmt: skip
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_ENCODED = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_NAMES = {level: name for name, level in LEVELS.items()}
_COLUMNS = {
    tag_of("SOPInstanceUID"): "sop_instance_uid",
    tag_of("SOPClassUID"): "sop_class_uid",
    tag_of("InstanceNumber"): "instance_number",
    tag_of("Rows"): "image_rows",
    tag_of("Columns"): "image_columns",
    tag_of("NumberOfFrames"): "number_of_frames",
}
_COUNTS = {
    Level.PATIENT: {
        tag_of("NumberOfPatientRelatedStudies"): "study_count",
        tag_of("NumberOfPatientRelatedSeries"): "series_count",
        tag_of("NumberOfPatientRelatedInstances"): "instance_count",
    },
    Level.STUDY: {
        tag_of("NumberOfStudyRelatedSeries"): "series_count",
        tag_of("NumberOfStudyRelatedInstances"): "instance_count",
    },
    Level.SERIES: {tag_of("NumberOfSeriesRelatedInstances"): "instance_count"},
    Level.INSTANCE: {},
}
_MODALITIES = tag_of("ModalitiesInStudy")
_RETRIEVE_AE_TITLE = tag_of("RetrieveAETitle")
_AVAILABILITY = tag_of("InstanceAvailability")


def needs_body(returned: Iterable[str]) -> bool:
    """Whether the answer of an instance needs its full metadata: something is asked for that is in no column."""
    from .sop_classes import ABOUT_THE_ANSWER, KEYS

    return any(tag not in _COLUMNS and tag not in KEYS[Level.INSTANCE] | ABOUT_THE_ANSWER for tag in returned)


def document(level: Level, row: Mapping[str, Any], returned: Iterable[str], ae_title: str) -> Document:
    """One answer as DICOM JSON, in the order of tags.

    Parameters
    ----------
    level : Level
    row : mapping
        See insitu.archive.search_sql.run.
    returned : iterable of str
        Tags asked for; those without a value are there, empty.
    ae_title : str
        From which the objects can be retrieved.
    """
    known: Document = dict(row.get("study_attributes") or {})
    known |= row.get("series_attributes") or {}
    known |= row.get("body") or {}
    for tag, column in _COLUMNS.items():
        if row.get(column) is not None:
            known[tag] = {"Value": [row[column]]}
    for tag, column in _COUNTS[level].items():
        known[tag] = {"Value": [int(row[column])]}
    known[_MODALITIES] = {"Value": list(row.get("modalities") or ())}
    known[_AVAILABILITY] = {"Value": ["ONLINE"]}
    wanted = {*returned, UNIQUE_KEY[level], *(UNIQUE_KEY[each] for each in _above(level))}
    found = {tag: _element(tag, known.get(tag)) for tag in wanted}
    found[QUERY_RETRIEVE_LEVEL] = {"vr": "CS", "Value": [_NAMES[level]]}
    found[_RETRIEVE_AE_TITLE] = {"vr": "AE", "Value": [ae_title]}
    return dict(sorted(found.items()))


def _above(level: Level) -> list[Level]:
    order = [Level.STUDY, Level.SERIES, Level.INSTANCE]
    return order[: order.index(level)] if level in order else []


def _element(tag: str, known: Document | None) -> Document:
    try:
        vr = dictionary_VR(int(tag, 16)).split(" or ")[0]
    except KeyError:
        vr = "UN"
    return {"vr": vr} | (known or {})


def encode(answer: Document, transfer_syntax: str, asked_in: str = "") -> bytes:
    """An answer as a data set in a little endian transfer syntax.

    It is in the default repertoire where that is enough, else in the character set of the request where that is enough, else in
    UTF-8; Specific Character Set says which.

    Parameters
    ----------
    answer : dict
        DICOM JSON in the order of tags.
    transfer_syntax : str
    asked_in : str
        Specific Character Set of the request.
    """
    explicit = syntax_of(transfer_syntax).explicit
    try:
        return _data_set(answer, explicit, "ascii")
    except UnicodeEncodeError:
        pass
    if asked_in in ANSWERED_IN:
        try:
            return _data_set(_saying(answer, asked_in), explicit, python_encoding[asked_in])
        except UnicodeEncodeError:
            pass
    return _data_set(_saying(answer, UTF_8), explicit, "utf-8")


def _saying(answer: Document, character_set: str) -> Document:
    return {"00080005": {"vr": "CS", "Value": [character_set]}} | answer


def _data_set(elements: Document, explicit: bool, codec: str) -> bytes:
    parts = []
    for tag, element in elements.items():
        number, vr = int(tag, 16), element["vr"]
        raw = _value(element, vr, explicit, codec)
        head = struct.pack("<HH", number >> 16, number & 0xFFFF)
        if not explicit:
            head += struct.pack("<I", len(raw))
        elif vr in _LONG:
            head += vr.encode() + struct.pack("<HI", 0, len(raw))
        else:
            if len(raw) > 0xFFFE:  # the value does not fit into its VR
                raw = b""
            head += vr.encode() + struct.pack("<H", len(raw))
        parts.append(head + raw)
    return b"".join(parts)


def _value(element: Document, vr: str, explicit: bool, codec: str) -> bytes:
    if "InlineBinary" in element:
        raw = base64.b64decode(element["InlineBinary"])
        return raw + b"\0" * (len(raw) % 2)
    values = element.get("Value") or []
    if vr == "SQ":
        items = [_data_set(dict(sorted((item or {}).items())), explicit, codec) for item in values]
        return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    if vr in _NUMBERS:
        return b"".join(struct.pack(f"<{_NUMBERS[vr]}", value) for value in values if value is not None)
    if vr == "AT":
        return b"".join(struct.pack("<HH", int(value[:4], 16), int(value[4:], 16)) for value in values if value)
    text = "\\".join(_text(value, vr) for value in values)
    raw = text.encode(codec if vr in _ENCODED else "ascii", "strict" if vr in _ENCODED else "replace")
    return raw + (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)


def _text(value: Any, vr: str) -> str:
    if value is None:
        return ""
    if vr == "PN":
        groups = [value.get(name, "") for name in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    if vr == "DS" and isinstance(value, float):
        return str(format_number_as_ds(value))
    return str(value)


def uid_list(tag: str, uids: list[str], transfer_syntax: str) -> bytes:
    """A data set with one list of UIDs, as many as fit: Failed SOP Instance UID List."""
    room = 0xFFFE if syntax_of(transfer_syntax).explicit else 1 << 24
    kept, used = [], 0
    for uid in uids:
        used += len(uid) + 1
        if used > room:
            break
        kept.append(uid)
    return encode({tag: {"vr": "UI", "Value": kept}}, transfer_syntax)
