"""Identifiers of queries and retrievals: their level and keys, read and checked against the information model (PS3.4 C.3, C.6).

Pure functions. Not here: carrying out what they ask for (query, retrieve), the SQL (insitu.archive.search_sql).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR
from pydicom.filereader import read_dataset
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from insitu.archive import search
from insitu.archive.header import syntax_of
from insitu.archive.search import MODALITIES_IN_STUDY, UNMATCHABLE, Condition, Level, Search
from insitu.archive.tolerant import FAILURES
from insitu.errors import Invalid

from .dialogue import DOES_NOT_MATCH_SOP_CLASS, UNABLE_TO_PROCESS, Refusal
from .sop_classes import ABOUT_THE_ANSWER, COMPUTED, KEYS, LEVELS, LEVELS_OF, UNIQUE_KEY, Root

CHARACTER_SET = "00080005"
QUERY_RETRIEVE_LEVEL = "00080052"
TIMEZONE = "00080201"  # of the request's own times; it is returned, not matched (PS3.4 C.2.1.4)
_ENCODED = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_PLAIN = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Key:
    """One key: tag, VR, value as text (several separated by a backslash); the keys inside where it is a sequence."""

    tag: str
    vr: str
    value: str = ""
    items: tuple[Key, ...] = ()

    @property
    def number(self) -> int:
        """The tag as a number."""
        return int(self.tag, 16)

    @property
    def universal(self) -> bool:
        """Whether it matches everything (PS3.4 C.2.2.2.3)."""
        return not self.value.strip("*") and all(item.universal for item in self.items)


@dataclass(frozen=True)
class Identifier:
    """A checked identifier.

    Attributes
    ----------
    level : Level
    keys : dict
        By tag; without level and character set.
    character_set : str
        The one the request is in; empty is the default repertoire.
    """

    level: Level
    keys: dict[str, Key]
    character_set: str

    def values(self, level: Level) -> list[str]:
        """The values of a level's unique key."""
        key = self.keys.get(UNIQUE_KEY[level])
        return [] if key is None or key.universal else [part.strip() for part in key.value.split("\\") if part.strip()]


@dataclass(frozen=True)
class Question:
    """What a C-FIND asks: the search, the tags its answers have, and whether there were keys that are not supported."""

    search: Search
    returned: tuple[str, ...]
    unsupported: bool


def data_set(encoded: bytes, transfer_syntax: str) -> Dataset:
    """A small data set as received.

    Raises
    ------
    Refusal
        It cannot be read.
    """
    syntax = syntax_of(transfer_syntax)
    try:
        return read_dataset(io.BytesIO(encoded), not syntax.explicit, syntax.little)
    except FAILURES as error:
        raise Refusal(UNABLE_TO_PROCESS, "The data set cannot be read") from error


def read(encoded: bytes, transfer_syntax: str, root: Root) -> Identifier:
    """Read an identifier.

    Parameters
    ----------
    encoded : bytes
    transfer_syntax : str
    root : Root
        The information model of the SOP class.

    Raises
    ------
    Refusal
        It cannot be read, or has no level that the model knows.
    """
    dataset = data_set(encoded, transfer_syntax)
    try:
        names = _text(dataset, 0x00080005).split("\\")
        keys = {key.tag: key for key in _keys(dataset, convert_encodings(names))}
    except FAILURES as error:
        raise Refusal(UNABLE_TO_PROCESS, "The identifier cannot be read") from error
    keys.pop(CHARACTER_SET, None)
    named = keys.pop(QUERY_RETRIEVE_LEVEL, Key(QUERY_RETRIEVE_LEVEL, "CS")).value
    level = LEVELS.get(named)
    if level is None or level not in LEVELS_OF[root]:
        raise Refusal(
            DOES_NOT_MATCH_SOP_CLASS,
            f"Query/Retrieve Level is not one of {root.value}",
            (int(QUERY_RETRIEVE_LEVEL, 16),),
        )
    return Identifier(level, keys, names[0] if len(names) == 1 else "")


def _keys(dataset: Dataset, encodings: list[str]) -> list[Key]:
    found = []
    for tag in sorted(dataset.keys()):
        if tag.element == 0:
            continue
        raw = dataset.get_item(tag)
        try:
            vr = dictionary_VR(tag).split(" or ")[0]
        except KeyError:
            vr = (raw.VR if raw is not None else None) or "UN"
        name = f"{int(tag):08X}"
        if vr == "SQ":
            items = dataset[tag].value or []
            found.append(Key(name, vr, items=tuple(_keys(items[0], encodings)) if len(items) else ()))
        else:
            found.append(Key(name, vr, _value(dataset, tag, vr, encodings)))
    return found


def _value(dataset: Dataset, tag: int, vr: str, encodings: list[str]) -> str:
    raw = dataset.get_item(tag)
    value = None if raw is None else raw.value
    if value is None or value == b"":
        return ""
    if isinstance(value, bytes):
        if vr in _ENCODED:
            return str(decode_bytes(value, encodings, TEXT_VR_DELIMS)).strip(" \0")
        if vr == "PN":
            return str(decode_bytes(value, encodings, PN_DELIMS)).strip(" \0")
        if vr in _PLAIN:
            return value.decode("latin-1").strip(" \0")
    value = dataset[tag].value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return str(value) if not hasattr(value, "__iter__") else "\\".join(str(part) for part in value)


def _text(dataset: Dataset, tag: int) -> str:
    raw = dataset.get_item(tag)
    value = raw.value if raw is not None else b""
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else "\\".join(value or [])


def check_hierarchy(identifier: Identifier, root: Root, *, relational: bool) -> None:
    """Return if the unique keys of the levels above are there with one value each (PS3.4 C.4.1.2.1, C.4.2.2.1).

    Raises
    ------
    Refusal
        One is missing, is a list or has wild cards, and relational behaviour was not negotiated.
    """
    if relational:
        return
    for level in LEVELS_OF[root]:
        if level == identifier.level:
            return
        values = identifier.values(level)
        if len(values) != 1 or search.wild(values[0]):
            raise Refusal(
                DOES_NOT_MATCH_SOP_CLASS,
                f"The {level.value} above must be named by its unique key",
                (int(UNIQUE_KEY[level], 16),),
            )


def question(identifier: Identifier, root: Root, *, relational: bool = False, date_times: bool = False) -> Question:
    """The search that a C-FIND asks for.

    Parameters
    ----------
    identifier : Identifier
    root : Root
    relational : bool
        Relational queries were negotiated.
    date_times : bool
        The matching of date-times was negotiated.

    Raises
    ------
    Refusal
        The keys of the levels above are missing, or a value cannot be meant.
    """
    check_hierarchy(identifier, root, relational=relational)
    level = identifier.level
    conditions: list[Condition] = []
    returned: list[str] = []
    unsupported = False
    for key in identifier.keys.values():
        if key.tag in ABOUT_THE_ANSWER or key.tag == TIMEZONE:
            returned.append(key.tag)
            continue
        if not _supported(level, key):
            unsupported = True
            continue
        returned.append(key.tag)
        if key.universal:
            continue
        if key.tag in COMPUTED[level] - {MODALITIES_IN_STUDY} or (key.vr in UNMATCHABLE and key.vr != "SQ"):
            unsupported = True  # there, but not for matching
            continue
        try:
            conditions += _conditions(key)
        except Invalid as error:
            raise Refusal(UNABLE_TO_PROCESS, error.what, (key.number,)) from error
    fields = frozenset(returned) if level is Level.INSTANCE else frozenset[str]()
    found = Search(level, tuple(conditions), fields, limit=NO_LIMIT, date_times=date_times)
    return Question(found, tuple(returned), unsupported)


def _supported(level: Level, key: Key) -> bool:
    if key.tag in KEYS[level]:
        return True
    # beside the keys of the levels above, the level IMAGE has every attribute of the standard
    return level is Level.INSTANCE and not key.number >> 16 & 1 and key.vr != "UN"


def _conditions(key: Key) -> list[Condition]:
    if key.vr == "SQ":
        inner = tuple(each for item in key.items if not item.universal for each in _conditions(item))
        return [Condition((key.tag,), key.vr, "", inner)] if inner else []
    return [search.condition(f"({key.tag[:4]},{key.tag[4:]})", (key.tag,), key.vr, key.value)]
