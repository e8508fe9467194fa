"""The Native DICOM Model (PS3.19 A.1), which is what DICOMweb means by XML, out of DICOM JSON (PS3.18 F) and back into it.

Pure functions. Not here: making the DICOM JSON of an instance (insitu.archive.metadata), media types (negotiation).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pydicom.datadict import keyword_for_tag

from .negotiation import BadRequest

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
DEPTH_LIMIT = 128  # nested sequences, as in what the archive takes
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_WHOLE = frozenset(("IS", "SL", "SS", "SV", "UL", "US", "UV"))
_REAL = frozenset(("DS", "FD", "FL"))
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 has no form for these

DicomJson = dict[str, Any]


def to_xml(document: DicomJson) -> bytes:
    """One data set as a NativeDicomModel document."""
    root = Element("NativeDicomModel", {"xmlns": NAMESPACE, "xml:space": "preserve"})
    _attributes(root, document)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.replace(b"\r", b"&#13;")  # a bare one would be read as a line feed


def _attributes(parent: Element, document: DicomJson) -> None:
    for tag in sorted(document):
        attribute = document[tag]
        names = {"tag": tag, "vr": attribute["vr"]}
        creator = _creator(document, tag)
        if creator:
            names |= {"tag": f"{tag[:4]}00{tag[6:]}", "privateCreator": creator}
        elif keyword := keyword_for_tag(int(tag, 16)):
            names["keyword"] = keyword
        element = SubElement(parent, "DicomAttribute", names)
        if "BulkDataURI" in attribute:
            SubElement(element, "BulkData", uri=attribute["BulkDataURI"])
        elif "InlineBinary" in attribute:
            SubElement(element, "InlineBinary").text = attribute["InlineBinary"]
        for number, value in enumerate(attribute.get("Value", ()), start=1):
            _value(element, attribute["vr"], str(number), value)


def _value(parent: Element, vr: str, number: str, value: Any) -> None:
    if vr == "SQ":
        _attributes(SubElement(parent, "Item", number=number), value or {})
    elif vr == "PN":
        name = SubElement(parent, "PersonName", number=number)
        for group in _GROUPS:
            if text := (value or {}).get(group):
                inner = SubElement(name, group)
                for component, part in zip(_COMPONENTS, text.split("^"), strict=False):
                    if part:
                        SubElement(inner, component).text = _FORBIDDEN.sub("\ufffd", part)
    else:
        element = SubElement(parent, "Value", number=number)
        if value is not None:
            element.text = _FORBIDDEN.sub("\ufffd", str(value))


def _creator(document: DicomJson, tag: str) -> str | None:
    """The private creator of an attribute, where it is a private one whose creator is there (PS3.5 7.8.1)."""
    if int(tag[3], 16) % 2 == 0 or tag[4:6] == "00":
        return None
    values = document.get(f"{tag[:4]}00{tag[4:6]}", {}).get("Value") or [None]
    return str(values[0]) if values[0] else None


class _Builder(ElementTree.TreeBuilder):
    """Refuses what could make a small document a large one."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuse a document type, and with it every entity."""
        raise BadRequest("XML with a document type is not taken", remedy="Leave the DOCTYPE out")

    def start(self, tag: str, attrs: dict[Any, Any], /) -> Element:
        """Refuse what is nested too deeply."""
        self._depth += 1
        if self._depth > 2 * DEPTH_LIMIT + 8:
            raise BadRequest("The XML is nested too deeply", why=f"at most {DEPTH_LIMIT} sequences are taken")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        """Leave an element."""
        self._depth -= 1
        return super().end(tag)


def from_xml(text: bytes) -> DicomJson:
    """The DICOM JSON of a NativeDicomModel document.

    Raises
    ------
    BadRequest
        It is no such document.
    """
    parser = ElementTree.XMLParser(target=_Builder())  # noqa: S314 - it refuses document types
    try:
        parser.feed(text)
        root = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise BadRequest("The XML cannot be read", why=type(error).__name__) from error
    if _local(root) != "NativeDicomModel":
        raise BadRequest("The XML is no NativeDicomModel", value=_local(root)[:64])
    return _document(root)


def _local(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _document(parent: Element) -> DicomJson:
    document: DicomJson = {}
    private: list[tuple[str, str, DicomJson]] = []
    for element in parent:
        tag, vr, creator = (element.get(name, "") for name in ("tag", "vr", "privateCreator"))
        if _local(element) != "DicomAttribute" or not re.fullmatch("[0-9A-Fa-f]{8}", tag):
            raise BadRequest("The XML has something that is no DicomAttribute with a tag", value=_local(element)[:64])
        if not re.fullmatch("[A-Z]{2}", vr):
            raise BadRequest("A DicomAttribute has no value representation", value=tag)
        attribute = {"vr": vr, **_content(element, tag.upper(), vr)}
        if creator and tag[4:6] == "00":
            private.append((tag.upper(), creator, attribute))
        else:
            document[tag.upper()] = attribute
    for tag, creator, attribute in private:
        document[f"{tag[:4]}{_block(document, tag[:4], creator)}{tag[6:]}"] = attribute
    return dict(sorted(document.items()))


def _block(document: DicomJson, group: str, creator: str) -> str:
    """The two digits under which a private creator has reserved elements of a group; reserved here where it has not yet."""
    free = None
    for number in range(0x10, 0x100):
        name = f"{group}00{number:02X}"
        if document.get(name, {}).get("Value") == [creator]:
            return name[6:]
        free = free or (None if name in document else name)
    if free is None:
        raise BadRequest("There is no room for a private creator", value=group)
    document[free] = {"vr": "LO", "Value": [creator]}
    return free[6:]


def _content(element: Element, tag: str, vr: str) -> DicomJson:
    for inner in element:
        if _local(inner) == "BulkData":
            uri = inner.get("uri")
            if not uri:
                raise BadRequest("Bulk data is named by an address here", value=tag, remedy="Give BulkData its uri")
            return {"BulkDataURI": uri}
        if _local(inner) == "InlineBinary":
            return {"InlineBinary": "".join((inner.text or "").split())}
    values = [value for _, value in sorted(_values(element, tag, vr), key=lambda numbered: numbered[0])]
    return {"Value": values} if values else {}


def _values(element: Element, tag: str, vr: str) -> Iterator[tuple[int, Any]]:
    for place, inner in enumerate(element, start=1):
        try:
            number = int(inner.get("number", place))
            yield number, _one(inner, vr)
        except ValueError as error:
            raise BadRequest("A value is not one of its value representation", value=tag, why=f"it is {vr}") from error


def _one(element: Element, vr: str) -> Any:
    kind = _local(element)
    if kind == "Item" and vr == "SQ":
        return _document(element)
    if kind == "PersonName" and vr == "PN":
        return _name(element) or None
    if kind != "Value" or vr in ("SQ", "PN"):
        raise ValueError(kind)
    text = element.text
    if not text:
        return None
    if vr in _WHOLE:
        return int(text)
    return float(text) if vr in _REAL else text


def _name(groups: Iterable[Element]) -> dict[str, str]:
    name = {}
    for group in groups:
        if _local(group) not in _GROUPS:
            raise ValueError(_local(group))
        parts = {_local(component): component.text or "" for component in group}
        if not parts.keys() <= set(_COMPONENTS):
            raise ValueError(_local(group))
        name[_local(group)] = "^".join(parts.get(component, "") for component in _COMPONENTS).rstrip("^")
    return {key: text for key, text in name.items() if text}
