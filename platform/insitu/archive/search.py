"""A search of the index as values: level, matching keys, attributes asked for, page (PS3.4 C.2.2.2, PS3.18 8.3.4).

Pure functions, for QIDO-RS and C-FIND alike. Not here: the SQL (insitu.archive.search_sql), reading a request and writing an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from pydicom.datadict import dictionary_VR, tag_for_keyword

from insitu.errors import Invalid

MAXIMUM_RESULTS = 10_000  # in one answer; more are had by offset


class Level(StrEnum):
    """What a search answers with."""

    PATIENT = "patient"
    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"


def _tags(*keywords: str) -> frozenset[str]:
    return frozenset(tag_of(keyword) for keyword in keywords)


@cache
def tag_of(keyword: str) -> str:
    """The eight hexadecimal digits of a keyword that DICOM knows."""
    number = tag_for_keyword(keyword)
    if number is None:
        raise LookupError(keyword)
    return f"{int(number):08X}"


# Attributes of lower information entities that a search of a higher level computes instead of reading.
COMPUTED = _tags(
    "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances",
    "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances",
    "RetrieveURL", "InstanceAvailability",
)  # fmt: skip
MODALITIES_IN_STUDY = tag_of("ModalitiesInStudy")

# Times, and the dates that say of which day they are.
DATES_OF_TIMES = {
    tag_of(f"{name}Time"): tag_of(f"{name}Date")
    for name in ("Study", "Series", "Acquisition", "Content", "PerformedProcedureStepStart")
}

NUMERIC = frozenset({"IS", "DS", "US", "UL", "SS", "SL", "FL", "FD", "SV", "UV"})
RANGED = frozenset({"DA", "TM", "DT"})
UNMATCHABLE = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN", "SQ", "AT"})
_RANGE_VALUE = {
    "DA": re.compile(r"\d{8}"),
    "TM": re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"),
    "DT": re.compile(r"\d{4}(\d{2}(\d{2}(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?)?)?"),
}
_TIMEZONE = re.compile(r"[+-]\d{4}$")


@dataclass(frozen=True)
class Condition:
    """One matching key: `path` of tags (more than one leads into sequences), VR of the last, the value as it was asked for.

    A sequence has `inner` keys instead of a value, which must all match in the same item (PS3.4 C.2.2.2.6).
    """

    path: tuple[str, ...]
    vr: str
    value: str
    inner: tuple[Condition, ...] = ()

    def alternatives(self) -> list[str]:
        """The values of a list of UIDs or modalities (PS3.4 C.2.2.2.2); one value otherwise."""
        if self.vr == "UI" or self.path == (MODALITIES_IN_STUDY,):
            return [part.strip() for part in re.split(r"[\\,]", self.value) if part.strip()]
        return [self.value]


@dataclass(frozen=True)
class Search:
    """A search: conditions, attributes asked for beside the usual ones, and the page.

    Attributes
    ----------
    fields : frozenset of str
        Tags of the attributes asked for; of `paths` the first tag.
    paths : frozenset of tuple of str
        Attributes inside of sequences asked for; the rest of their sequences is left out, unless a field asks for them.
    date_times : bool
        A range of dates and one of times that belong together are one range of date-times (PS3.18 8.3.4.1.1): the times
        bound its first and last day only. Otherwise each is matched by itself (PS3.4 C.2.2.2.5, not negotiated).
    after : tuple
        Place of the row that the page begins behind, as `search_sql.place` gives it; empty: the first page.
    """

    level: Level
    conditions: tuple[Condition, ...] = ()
    fields: frozenset[str] = frozenset()
    everything: bool = False
    limit: int = MAXIMUM_RESULTS
    offset: int = 0
    fuzzy: bool = False
    paths: frozenset[tuple[str, ...]] = frozenset()
    after: tuple[int | str | None, ...] = ()
    date_times: bool = False

    def date_of(self, time: Condition) -> Condition | None:
        """The range of dates with which a range of times is one range; None where each is matched by itself."""
        if not self.date_times or len(time.path) != 1 or "-" not in time.value:
            return None
        date = DATES_OF_TIMES.get(time.path[0])
        return next((c for c in self.conditions if c.path == (date,) and "-" in c.value), None)


def attribute_path(name: str) -> tuple[tuple[str, ...], str]:
    """Tags and last VR of `PatientName`, `00100010` or `RequestAttributesSequence.ScheduledProcedureStepID`.

    Raises
    ------
    Invalid
        A part is no attribute, or stands inside of one that is no sequence.
    """
    tags: list[str] = []
    vr = ""
    for part in name.split("."):
        if vr not in ("", "SQ"):
            raise Invalid("Only a sequence has attributes inside", value=name)
        if re.fullmatch(r"[0-9A-Fa-f]{8}", part):
            tags.append(part.upper())
        else:
            number = tag_for_keyword(part)
            if number is None:
                raise Invalid(
                    "This is neither a parameter of a search nor an attribute of DICOM",
                    value=name,
                    remedy="Write an attribute as its keyword (PatientID) or tag (00100020)",
                )
            tags.append(f"{int(number):08X}")
        try:
            vr = dictionary_VR(int(tags[-1], 16)).split(" or ")[0]
        except KeyError:
            vr = "LO"  # private, or not in the dictionary: its text is compared
    return tuple(tags), vr


def condition(name: str, path: tuple[str, ...], vr: str, value: str) -> Condition:
    """One matching key, checked.

    Parameters
    ----------
    name : str
        As the client wrote it, for the message.
    path, vr :
        From `attribute_path`.
    value : str

    Raises
    ------
    Invalid
        The attribute cannot be searched by, or its value cannot be meant.
    """
    if "\x00" in value:
        raise Invalid("A value holds a null character", value=name)
    if path[0] in COMPUTED - {MODALITIES_IN_STUDY}:
        raise Invalid("This attribute is computed and cannot be searched by", value=name)
    if vr in UNMATCHABLE:
        raise Invalid("An attribute of this value representation cannot be searched by", value=name, why=f"it is {vr}")
    if vr in NUMERIC:
        try:
            number = float(value)
        except ValueError as error:
            raise Invalid(f"{name} is a number", value=value) from error
        if number != number or number in (float("inf"), float("-inf")):
            raise Invalid(f"{name} is a finite number", value=value)
    if vr in RANGED:
        value_range(vr, value, name)
    return Condition(path, vr, value)


def value_range(vr: str, value: str, name: str = "") -> tuple[str | None, str | None]:
    """Bounds of a date, time or date-time, single or range (PS3.4 C.2.2.2.5), as text that compares like the stored values.

    A bound covers what it does not say: until `1030` holds 10:30:59. None: open to that side.

    Raises
    ------
    Invalid
        The value is neither `A`, `A-`, `-B` nor `A-B` with dates, times or date-times.
    """
    parts = (
        [_bound(vr, part.strip()) for part in value.split("-", 1)] if "-" in value else [_bound(vr, value.strip())] * 2
    )
    low, high = parts
    if any(part and not _RANGE_VALUE[vr].fullmatch(part) for part in (low, high)) or not (low or high):
        raise Invalid(
            f"{name or vr} is not a value or range this attribute can have",
            value=value[:100],
            remedy="Write for example "
            + {"DA": "20240131 or 20240101-20240131", "TM": "0800-1200"}.get(vr, "20240131083000"),
        )
    if low and vr == "TM":
        # 10:00:00 may be stored as "10", "1000" or "100000.0": the shortest sorts first
        low = re.sub(r"(00){1,2}$", "", low.split(".")[0]) if not low.partition(".")[2].strip("0") else low
        low = low or "00"
    return low or None, f"{high}~" if high else None


def _bound(vr: str, text: str) -> str:
    return _TIMEZONE.sub("", text) if vr == "DT" and "+" in text else text


def pattern(value: str, *, person_name: bool = False) -> str:
    """Regular expression (POSIX, for the whole value) of a value with the wild cards `*` and `?` (PS3.4 C.2.2.2.4)."""
    text = "".join({"*": ".*", "?": "."}.get(character) or re.escape(character) for character in value)
    if person_name:
        text = re.sub(r"(\\\^)+$", "", text) + r"[\^ ]*"  # empty trailing components say nothing
    return f"^{text}$"


def literal_prefix(value: str, *, person_name: bool = False) -> str:
    """What every value that fits begins with."""
    text = re.split(r"[*?]", value, maxsplit=1)[0]
    return text.rstrip("^ ") if person_name else text


def like_pattern(value: str) -> str:
    """Pattern of SQL's LIKE that fits every name that `pattern` fits, and perhaps more."""
    text = re.sub(r"([%_\\])", r"\\\1", value.rstrip("^ "))
    return text.replace("*", "%").replace("?", "_") + "%"


def wild(value: str) -> bool:
    """Whether the value has wild cards."""
    return "*" in value or "?" in value
