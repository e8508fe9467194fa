"""The SOP classes this receiver provides beside storage and verification, and the keys of their levels, as data.

The conformance statement is made from these tables. Not here: storage classes and transfer syntaxes (negotiation).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from insitu.archive.levels import SERIES_LEVEL, STUDY_LEVEL
from insitu.archive.search import Level, tag_of

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # the well-known instance (PS3.4 J.3.5)


class Root(StrEnum):
    """The information model of a query or retrieval (PS3.4 C.3)."""

    PATIENT = "Patient Root"
    STUDY = "Study Root"


class Operation(StrEnum):
    """What a query/retrieve SOP class is for."""

    FIND = "C-FIND"
    MOVE = "C-MOVE"
    GET = "C-GET"


@dataclass(frozen=True)
class QueryRetrieve:
    """A query/retrieve SOP class (PS3.4 table C.6-1)."""

    uid: str
    root: Root
    operation: Operation


_QUERY_RETRIEVE = (
    QueryRetrieve("1.2.840.10008.5.1.4.1.2.1.1", Root.PATIENT, Operation.FIND),
    QueryRetrieve("1.2.840.10008.5.1.4.1.2.1.2", Root.PATIENT, Operation.MOVE),
    QueryRetrieve("1.2.840.10008.5.1.4.1.2.1.3", Root.PATIENT, Operation.GET),
    QueryRetrieve("1.2.840.10008.5.1.4.1.2.2.1", Root.STUDY, Operation.FIND),
    QueryRetrieve("1.2.840.10008.5.1.4.1.2.2.2", Root.STUDY, Operation.MOVE),
    QueryRetrieve("1.2.840.10008.5.1.4.1.2.2.3", Root.STUDY, Operation.GET),
)
QUERY_RETRIEVE = {each.uid: each for each in _QUERY_RETRIEVE}
FOR_NODES = frozenset((*QUERY_RETRIEVE, STORAGE_COMMITMENT))  # accepted only from nodes that are known

# Transfer syntaxes of identifiers and of storage commitment, and those that everything which can be decoded can be sent in.
PLAIN_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")

LEVELS = {"PATIENT": Level.PATIENT, "STUDY": Level.STUDY, "SERIES": Level.SERIES, "IMAGE": Level.INSTANCE}
LEVELS_OF = {
    Root.PATIENT: (Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE),
    Root.STUDY: (Level.STUDY, Level.SERIES, Level.INSTANCE),
}
UNIQUE_KEY = {
    Level.PATIENT: tag_of("PatientID"),
    Level.STUDY: tag_of("StudyInstanceUID"),
    Level.SERIES: tag_of("SeriesInstanceUID"),
    Level.INSTANCE: tag_of("SOPInstanceUID"),
}


def _tags(*keywords: str) -> frozenset[str]:
    return frozenset(tag_of(keyword) for keyword in keywords)


# Attributes that say something about the answer, at every level; they are no matching keys.
ABOUT_THE_ANSWER = _tags("RetrieveAETitle", "InstanceAvailability")
COMPUTED = {
    Level.PATIENT: _tags(
        "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances"
    ),
    Level.STUDY: _tags("ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
    Level.SERIES: _tags("NumberOfSeriesRelatedInstances"),
    Level.INSTANCE: frozenset[str](),
}
_PATIENT = _tags("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID")
_STUDY = frozenset(f"{tag:08X}" for tag in STUDY_LEVEL)
_SERIES = frozenset(f"{tag:08X}" for tag in SERIES_LEVEL)
# Keys that are matched and returned at each level, those of the levels above included. At the level IMAGE every other
# attribute of the object is one too.
KEYS = {
    Level.PATIENT: _PATIENT | COMPUTED[Level.PATIENT],
    Level.STUDY: _STUDY | COMPUTED[Level.STUDY],
    Level.SERIES: _STUDY | _SERIES | COMPUTED[Level.SERIES],
    Level.INSTANCE: _STUDY | _SERIES,
}
