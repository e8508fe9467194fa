"""The parameters of a QIDO-RS request (PS3.18 8.3.4, 10.6.1) as a search, each refused with a reason where it cannot be meant.

Not here: what a search is (insitu.archive.search), its SQL (insitu.archive.search_sql) and the answers (qido).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable

from insitu.archive.search import MAXIMUM_RESULTS, Condition, Level, Search, attribute_path, condition
from insitu.errors import Invalid

from .negotiation import BadRequest

PARAMETERS = frozenset({"includefield", "limit", "offset", "after", "fuzzymatching", "accept"})
_TAG = re.compile(r"[0-9a-fA-F]{8}(\.[0-9a-zA-Z.]+)?")


def parse(level: Level, parameters: Iterable[tuple[str, str]]) -> Search:
    """Read the parameters of a search; those that `unsupported` names are left out.

    Parameters
    ----------
    level : Level
    parameters : iterable of (name, value)
        Decoded, in the order of the query string.

    Raises
    ------
    BadRequest
        An attribute is not one of DICOM, stands twice, or its value cannot be meant.
    """
    try:
        return _parse(level, parameters)
    except BadRequest:
        raise
    except Invalid as error:
        raise BadRequest(error.what, value=error.value, why=error.why, remedy=error.remedy) from error


def _parse(level: Level, parameters: Iterable[tuple[str, str]]) -> Search:
    conditions: list[Condition] = []
    fields: set[str] = set()
    paths: set[tuple[str, ...]] = set()

    def ask(path: tuple[str, ...]) -> None:
        fields.add(path[0])
        paths.add(path)

    after: tuple[int | str | None, ...] = ()
    everything, fuzzy, limit, offset = False, False, MAXIMUM_RESULTS, 0
    seen: set[str | tuple[str, ...]] = set()
    for name, value in parameters:
        if name == "includefield":
            for item in filter(None, (part.strip() for part in value.split(","))):
                if item == "all":
                    everything = True
                else:
                    ask(attribute_path(item)[0])
            continue
        if name == "accept" or unsupported(name):  # negotiation reads the first
            continue
        key: str | tuple[str, ...] = name
        if name == "limit":
            limit = min(_count(name, value), MAXIMUM_RESULTS)
        elif name == "offset":
            offset = _count(name, value)
        elif name == "after":
            after = _place(value)
        elif name == "fuzzymatching":
            if value not in ("true", "false"):
                raise BadRequest("fuzzymatching is true or false", value=value)
            fuzzy = value == "true"
        else:
            path, vr = attribute_path(name)
            key = path
            ask(path)
            if value not in ("", '""', "*"):  # empty: universal matching
                conditions.append(condition(name, path, vr, value))
        if key in seen:
            raise BadRequest("A parameter stands twice", value=name, remedy="Give each attribute once")
        seen.add(key)
    if after and offset:
        raise BadRequest(
            "after and offset exclude each other", value=str(offset), remedy="Follow the Link of an answer"
        )
    # A sequence that is asked for as a whole is given as a whole.
    inside = frozenset(path for path in paths if not any(path[:length] in paths for length in range(1, len(path))))
    return Search(
        level, tuple(conditions), frozenset(fields), everything, limit, offset, fuzzy,
        frozenset(path for path in inside if len(path) > 1), after, date_times=True,
    )  # fmt: skip


def unsupported(name: str) -> bool:
    """Whether this is a parameter that is to be ignored (PS3.18 8.3).

    Keywords begin with a capital and tags are eight digits, so that a misspelt attribute is none of these: to ignore it would
    find everything instead of nothing.
    """
    return name not in PARAMETERS and bool(re.fullmatch(r"[a-z_][A-Za-z0-9_]*", name)) and not _TAG.fullmatch(name)


def place_text(place: tuple[int | str | None, ...]) -> str:
    """A place in the results as the value of the parameter `after`."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def _place(text: str) -> tuple[int | str | None, ...]:
    try:
        place = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        place = None
    if not isinstance(place, list) or not all(item is None or type(item) in (int, str) for item in place) or not place:
        raise BadRequest("This is not a place in results", value=text[:100], remedy="Follow the Link of an answer")
    if any("\0" in item for item in place if isinstance(item, str)):
        raise BadRequest("This is not a place in results", value=text[:100], remedy="Follow the Link of an answer")
    return tuple(place)


def _count(name: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,9}", value):
        raise BadRequest(f"{name} is a whole number that is not negative", value=value)
    return int(value)
