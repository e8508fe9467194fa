"""The parameters of a QIDO-RS request (PS3.18 8.3.4, 10.6.1) as a search, each refused with a reason where it cannot be meant.

Not here: what a search is (insitu.archive.search), its SQL (insitu.archive.search_sql) and the answers (qido).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from insitu.archive.search import MAXIMUM_RESULTS, Condition, Level, Search, attribute_path, condition
from insitu.errors import Invalid

from .negotiation import BadRequest


def parse(level: Level, parameters: Iterable[tuple[str, str]]) -> Search:
    """Read the parameters of a search.

    Parameters
    ----------
    level : Level
    parameters : iterable of (name, value)
        Decoded, in the order of the query string.

    Raises
    ------
    BadRequest
        A name is neither a parameter nor an attribute, stands twice, or its value cannot be meant.
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
    everything, fuzzy, limit, offset = False, False, MAXIMUM_RESULTS, 0
    seen: set[str | tuple[str, ...]] = set()
    for name, value in parameters:
        if name == "includefield":
            for item in filter(None, (part.strip() for part in value.split(","))):
                if item == "all":
                    everything = True
                else:
                    fields.add(attribute_path(item)[0][0])
            continue
        if name == "accept":  # negotiation reads it
            continue
        key: str | tuple[str, ...] = name
        if name == "limit":
            limit = min(_count(name, value), MAXIMUM_RESULTS)
        elif name == "offset":
            offset = _count(name, value)
        elif name == "fuzzymatching":
            if value not in ("true", "false"):
                raise BadRequest("fuzzymatching is true or false", value=value)
            fuzzy = value == "true"
        else:
            path, vr = attribute_path(name)
            key = path
            fields.add(path[0])
            if value not in ("", '""', "*"):  # empty: universal matching
                conditions.append(condition(name, path, vr, value))
        if key in seen:
            raise BadRequest("A parameter stands twice", value=name, remedy="Give each attribute once")
        seen.add(key)
    return Search(level, tuple(conditions), frozenset(fields), everything, limit, offset, fuzzy)


def _count(name: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,9}", value):
        raise BadRequest(f"{name} is a whole number that is not negative", value=value)
    return int(value)
