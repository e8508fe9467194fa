"""Searching another node: studies by the usual keys, and which objects a study has, by C-FIND or QIDO-RS.

Not here: fetching what was found (fetching).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from insitu.errors import Unavailable
from insitu.nodes.registry import Node
from insitu.settings import Settings

from . import web
from .connection import connect

MOST_STUDIES = 500
MOST_OBJECTS = 200_000  # of one study
PENDING = (0xFF00, 0xFF01)

KEYS = {
    "StudyInstanceUID": "0020000D", "PatientID": "00100020", "PatientName": "00100010", "PatientBirthDate": "00100030",
    "StudyDate": "00080020", "StudyTime": "00080030", "AccessionNumber": "00080050", "ModalitiesInStudy": "00080061",
    "StudyDescription": "00081030", "NumberOfStudyRelatedSeries": "00201206", "NumberOfStudyRelatedInstances": "00201208",
}  # fmt: skip

Key = Annotated[
    str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True, pattern=r"^[^\\*?\x00-\x1f]*$")
]


class Query(BaseModel):
    """What to look for; values must match whole, wildcards are not passed on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: Annotated[str, StringConstraints(pattern=r"^[0-9.]{1,64}$")] | None = None
    patient_id: Key | None = None
    accession: Key | None = None
    dates: str | None = Field(None, pattern=r"^(\d{8}|\d{8}-|-\d{8}|\d{8}-\d{8})$", description="YYYYMMDD-YYYYMMDD.")
    modality: str | None = Field(None, pattern=r"^[A-Z]{1,16}$")

    @model_validator(mode="after")
    def _narrow(self) -> Self:
        if not (self.study or self.patient_id or self.accession or self.dates):
            raise ValueError("name a study, a patient, an accession number or dates: a whole PACS is too much")
        return self

    @property
    def named(self) -> list[str]:
        """Which keys were used, for the audit trail; their values tell who was looked for."""
        return [name for name, value in self.model_dump().items() if value is not None]

    def keys(self) -> dict[str, str]:
        """The keys by DICOM keyword."""
        given = {
            "StudyInstanceUID": self.study, "PatientID": self.patient_id, "AccessionNumber": self.accession,
            "StudyDate": self.dates, "ModalitiesInStudy": self.modality,
        }  # fmt: skip
        return {keyword: value for keyword, value in given.items() if value}


class Content(BaseModel):
    """An object that a node has: its series and SOP class, each empty where the node does not tell."""

    model_config = ConfigDict(frozen=True)

    series: str = ""
    sop_class: str = ""


def studies(node: Node, settings: Settings, query: Query, *, by_web: bool) -> list[dict[str, Any]]:
    """Studies of a node, at most 500, by DICOM keyword.

    Raises
    ------
    Unavailable
        The node does not answer, or refuses the search.
    """
    if by_web:
        wanted = {"limit": str(MOST_STUDIES), "includefield": ",".join(KEYS.values())}
        with web.client(node, settings) as session:
            found = web.found(node, session, "/studies", {**query.keys(), **wanted})
        return [
            {keyword: _plain(document.get(tag)) for keyword, tag in KEYS.items()} for document in found[:MOST_STUDIES]
        ]
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    if not all(value.isascii() for value in query.keys().values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    for keyword in KEYS:
        setattr(identifier, keyword, query.keys().get(keyword, ""))
    return [
        {keyword: _text(each.get(keyword)) for keyword in KEYS}
        for each in _found(node, settings, identifier, MOST_STUDIES)
    ]


def contents(
    node: Node, settings: Settings, study: str, series: str | None, *, by_web: bool
) -> dict[str, Content] | None:
    """The objects of a study or series by SOP Instance UID; none where it has no such study,
    None where it does not tell.

    Raises
    ------
    Unavailable
        The node does not answer.
    """
    if by_web:
        return _contents_by_web(node, settings, study, series)
    found: dict[str, Content] = {}
    try:
        below = (
            [series]
            if series
            else [str(each.SeriesInstanceUID) for each in _level(node, settings, "SERIES", study, None)]
        )
        for uid in below:
            for each in _level(node, settings, "IMAGE", study, uid):
                found[str(each.SOPInstanceUID)] = Content(series=uid, sop_class=str(each.get("SOPClassUID") or ""))
    except _Unsupported:
        return None
    return found


def _contents_by_web(node: Node, settings: Settings, study: str, series: str | None) -> dict[str, Content]:
    path = f"/studies/{study}/series/{series}/instances" if series else f"/studies/{study}/instances"
    found: dict[str, Content] = {}
    page = 5000
    with web.client(node, settings) as session:
        while len(found) < MOST_OBJECTS:
            documents = web.found(node, session, path, {"limit": str(page), "offset": str(len(found))})
            before = len(found)
            for document in documents:
                uid = str(_plain(document.get("00080018")) or "")
                if uid:
                    found[uid] = Content(
                        series=series or str(_plain(document.get("0020000E")) or ""),
                        sop_class=str(_plain(document.get("00080016")) or ""),
                    )
            if len(found) == before or len(documents) < page:
                break  # the end, or a service that knows no paging
    return found


def _level(node: Node, settings: Settings, level: str, study: str, series: str | None) -> Iterator[Any]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    identifier.StudyInstanceUID = study
    identifier.SeriesInstanceUID = series or ""
    unique = "SeriesInstanceUID"
    if level == "IMAGE":
        identifier.SOPInstanceUID = identifier.SOPClassUID = ""
        unique = "SOPInstanceUID"
    for each in _found(node, settings, identifier, MOST_OBJECTS):
        if re.fullmatch(r"[0-9.]{1,64}", str(each.get(unique) or "")):
            yield each


class _Unsupported(Unavailable):
    """The node takes no search of this kind."""


def _found(node: Node, settings: Settings, identifier: Dataset, most: int) -> Iterator[Any]:
    """Answers to a C-FIND (PS3.4 C.4.1), at most so many: then it is cancelled."""
    model = StudyRootQueryRetrieveInformationModelFind
    count = 0
    with connect(node, settings, [build_context(model)]) as association:
        for status, answer in association.send_c_find(identifier, model, msg_id=1):
            code = status.get("Status")
            if code in PENDING:
                if answer is None:
                    continue  # an identifier that cannot be read
                count += 1
                if count <= most:
                    yield answer
                if count == most:
                    association.send_c_cancel(1, query_model=model)
            elif code is None:
                raise Unavailable("The node did not answer a search in time", value=node.address, remedy="Try again")
            elif code not in (0x0000, 0xFE00):
                kind = Unavailable if code >> 8 == 0xA7 else _Unsupported
                raise kind("The node refused a search", value=node.address, why=f"it answered 0x{code:04X}")


def _plain(element: Any) -> Any:
    """The values of an element of DICOM JSON as text, or a list where there are several."""
    values = element.get("Value") if isinstance(element, dict) else None
    plain = [str(value.get("Alphabetic", "")) if isinstance(value, dict) else value for value in values or []]
    return None if not plain else plain[0] if len(plain) == 1 else plain


def _text(value: Any) -> Any:
    if value is None or value == "":
        return None
    if isinstance(value, MultiValue):
        return [str(item) for item in value]
    return int(value) if isinstance(value, int) else str(value)
