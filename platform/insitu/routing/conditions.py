"""Conditions of a rule as a tree of values, and how they are written: `all`, `any`, `not` and comparisons.

Not here: whether a condition holds (evaluate).

A condition is a mapping. Each key is `all`, `any`, `not`, something about the arrival (`calling_ae`, `called_ae`, `peer`,
`channel`), `algorithm`, or a DICOM attribute by keyword or by the eight digits of its tag; attributes inside sequences are
reached with dots. Several keys in one mapping must all hold. A comparison is `{operator: operand}`; a bare value means
`equals`, a bare list means `in`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from insitu.dicom import attributes
from insitu.errors import InsituError

from .patterns import Pattern, compile_pattern

CONTEXT = ("calling_ae", "called_ae", "peer", "channel", "algorithm")
CHANNELS = ("dimse", "stow", "import", "result")
DEEPEST = 16
_TAG = re.compile(r"[0-9A-Fa-f]{8}")

Scalar = str | int | float
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ConditionError(ValueError):
    """A condition that cannot be understood; `path` leads to the part."""

    def __init__(self, message: str, path: tuple[str | int, ...]) -> None:
        super().__init__(message)
        self.path = path


class Condition:
    """Base of All, AnyOf, Not and Comparison, so that a pydantic model can hold one."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, Condition) else parse(value),
            serialization=core_schema.plain_serializer_function_ser_schema(written),
        )


@dataclass(frozen=True)
class All(Condition):
    """Holds if every part holds. Without parts it always holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf(Condition):
    """Holds if at least one part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Not(Condition):
    """Holds if its part is known not to hold; what is unknown stays unknown."""

    part: Condition


@dataclass(frozen=True)
class Comparison(Condition):
    """One comparison of one attribute or fact.

    Attributes
    ----------
    subject : str
        One of CONTEXT, or a path of keywords or tags joined by dots.
    path : tuple of str
        Tags (eight hexadecimal digits) of the path; empty for CONTEXT.
    operator : str
        `equals`, `in`, `matches`, `range` or `present`.
    operand : tuple
        The values; for `range` (minimum or None, maximum or None), for `present` (True or False,).
    """

    subject: str
    path: tuple[str, ...]
    operator: str
    operand: tuple[Any, ...]


def parse(value: Any, path: tuple[str | int, ...] = ()) -> Condition:
    """The condition that `value` (out of YAML or JSON) writes.

    Raises
    ------
    ConditionError
        With the path to the part that is wrong.
    """
    if len(path) > DEEPEST * 3:
        raise ConditionError(f"conditions may be nested at most {DEEPEST} deep", path)
    if not isinstance(value, dict):
        raise ConditionError("a condition is a mapping, for example `Modality: CT`", path)
    parts = tuple(_part(str(key), item, (*path, str(key))) for key, item in value.items())
    return parts[0] if len(parts) == 1 else All(parts)


def _part(key: str, value: Any, path: tuple[str | int, ...]) -> Condition:
    if key in ("all", "any"):
        if not isinstance(value, list):
            raise ConditionError(f"`{key}` takes a list of conditions", path)
        if key == "any" and not value:
            raise ConditionError("`any` needs at least one condition, without one it never holds", path)
        parts = tuple(parse(item, (*path, position)) for position, item in enumerate(value))
        return All(parts) if key == "all" else AnyOf(parts)
    if key == "not":
        return Not(parse(value, path))
    tags = () if key in CONTEXT else _tags(key, path)
    if isinstance(value, list):
        return _comparison(key, tags, "in", value, path)
    if not isinstance(value, dict):
        return _comparison(key, tags, "equals", value, path)
    if len(value) != 1:
        raise ConditionError(
            f"{key} needs exactly one of equals, in, matches, range, present; combine several with `all`", path
        )
    operator, operand = next(iter(value.items()))
    return _comparison(key, tags, str(operator), operand, (*path, str(operator)))


def _tags(subject: str, path: tuple[str | int, ...]) -> tuple[str, ...]:
    found = []
    for part in subject.split("."):
        if _TAG.fullmatch(part):
            found.append(part.upper())
            continue
        try:
            found.append(attributes.tag(part))
        except InsituError:
            raise ConditionError(
                f"{part!r} is neither a DICOM keyword (BodyPartExamined), nor the eight digits of a tag (00180015),"
                f" nor one of {', '.join(CONTEXT)}, all, any, not",
                path,
            ) from None
    return tuple(found)


def _comparison(
    subject: str, tags: tuple[str, ...], operator: str, operand: Any, path: tuple[str | int, ...]
) -> Comparison:
    if operator == "equals":
        operands: tuple[Any, ...] = (_scalar(operand, path),)
    elif operator == "in":
        if not isinstance(operand, list) or not operand:
            raise ConditionError("`in` takes a list with at least one value", path)
        operands = tuple(_scalar(item, (*path, position)) for position, item in enumerate(operand))
    elif operator == "matches":
        operands = _patterns(operand, path)
    elif operator == "range":
        operands = _range(operand, path)
    elif operator == "present":
        if not isinstance(operand, bool):
            raise ConditionError("`present` takes true or false", path)
        operands = (operand,)
    else:
        raise ConditionError(f"{operator!r} is not one of equals, in, matches, range, present", path)
    if subject == "peer" and operator in ("equals", "in"):
        operands = tuple(_network(item, path) for item in operands)
    elif subject == "peer" and operator != "present":
        raise ConditionError("`peer` is compared with addresses or networks: `peer: 10.1.0.0/16`", path)
    elif subject in CONTEXT and operator == "range":
        raise ConditionError(f"`{subject}` is not a number, so it has no range", path)
    elif subject == "channel" and operator in ("equals", "in") and not set(operands) <= set(CHANNELS):
        raise ConditionError(f"a channel is one of {', '.join(CHANNELS)}", path)
    return Comparison(subject, tags, operator, operands)


def _scalar(value: Any, path: tuple[str | int, ...]) -> Scalar:
    if isinstance(value, bool):
        raise ConditionError("true and false are no values of DICOM; in quotes they are text", path)
    if isinstance(value, str):
        if not value.strip():
            raise ConditionError("an empty value compares with nothing; ask `present: false`", path)
        return value.strip()
    if isinstance(value, int | float) and value == value and abs(value) != float("inf"):
        return value
    raise ConditionError("a value is text or a number", path)


def _patterns(operand: Any, path: tuple[str | int, ...]) -> tuple[Pattern, ...]:
    texts = operand if isinstance(operand, list) else [operand]
    found = []
    for text in texts:
        if not isinstance(text, str):
            raise ConditionError("`matches` takes a pattern or a list of patterns", path)
        try:
            found.append(compile_pattern(text))
        except ValueError as error:
            raise ConditionError(str(error), path) from None
    if not found:
        raise ConditionError("`matches` takes a pattern or a list of patterns", path)
    return tuple(found)


def _range(operand: Any, path: tuple[str | int, ...]) -> tuple[Scalar | None, Scalar | None]:
    if not isinstance(operand, dict) or not operand or not set(operand) <= {"min", "max"}:
        raise ConditionError("`range` takes min, max or both: {min: 0.5, max: 3}", path)
    limits: list[int | float | None] = []
    for name in ("min", "max"):
        limit = operand.get(name)
        if limit is None:
            limits.append(None)
            continue
        if isinstance(limit, bool) or not isinstance(limit, int | float) or limit != limit:
            raise ConditionError(f"the {name} of a range is a number", (*path, name))
        limits.append(limit)
    low, high = limits
    if low is None and high is None:
        raise ConditionError("`range` takes min, max or both: {min: 0.5, max: 3}", path)
    if low is not None and high is not None and low > high:
        raise ConditionError(f"no number is both at least {low} and at most {high}", path)
    return low, high


def _network(value: Scalar, path: tuple[str | int, ...]) -> Network:
    try:
        return ipaddress.ip_network(str(value))
    except ValueError:
        raise ConditionError(f"{value!r} is neither an address nor a network such as 10.1.0.0/16", path) from None


def written(condition: Condition) -> dict[str, Any]:
    """The condition as it is written; `parse(written(c)) == c` up to the spelling of short forms."""
    if isinstance(condition, All):
        return {"all": [written(part) for part in condition.parts]}
    if isinstance(condition, AnyOf):
        return {"any": [written(part) for part in condition.parts]}
    if isinstance(condition, Not):
        return {"not": written(condition.part)}
    if not isinstance(condition, Comparison):
        raise TypeError(f"not a condition: {type(condition).__name__}")
    operand: Any
    if condition.operator == "range":
        operand = {
            name: limit for name, limit in zip(("min", "max"), condition.operand, strict=True) if limit is not None
        }
    elif condition.operator == "present":
        operand = condition.operand[0]
    else:
        plain = [item.text if isinstance(item, Pattern) else _plain(item) for item in condition.operand]
        operand = plain if condition.operator == "in" or len(plain) > 1 else plain[0]
    return {condition.subject: {condition.operator: operand}}


def _plain(item: Any) -> Scalar:
    return item if isinstance(item, str | int | float) else str(item)


def captures(condition: Condition) -> frozenset[str]:
    """The names that patterns in the condition can capture; those under a `not` cannot."""
    if isinstance(condition, All | AnyOf):
        return frozenset().union(*(captures(part) for part in condition.parts))
    if isinstance(condition, Comparison) and condition.operator == "matches":
        return frozenset().union(*(pattern.names for pattern in condition.operand))
    return frozenset()
