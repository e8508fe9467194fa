"""Rule sets as text: YAML (or JSON, which is YAML) with errors that name the line.

Not here: what a rule set may say (model).

Only `true` and `false` are truth values and only plain decimal numbers are numbers: `NO`, `ON` and `0010` are values of
DICOM attributes, which YAML 1.1 would read as something else. Dates stay text. Keys are always text. Anchors and
aliases are refused, and so is a key that stands twice.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import yaml
from pydantic import ValidationError

from insitu.errors import Invalid, NotFound

from .conditions import ConditionError
from .model import RuleSet

LARGEST = 1_000_000  # characters
DEEPEST = 64
SHIPPED = ("kp-convention",)

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]+)?|[-+]?(0|[1-9][0-9]*)(\.|[eE][-+]?[0-9]+)")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}

Path = tuple[str | int, ...]


def load(text: str, *, name: str = "The rule set") -> RuleSet:
    """The rule set a text writes.

    Parameters
    ----------
    text : str
    name : str
        What to call it at the beginning of an error: a file name.

    Raises
    ------
    Invalid
        It is no YAML, or no rule set; the message names the line and what is wrong there.
    """
    if len(text) > LARGEST:
        raise Invalid(f"{name} is longer than {LARGEST} characters")
    lines: dict[Path, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise Invalid(f"{name} uses an alias (*)", remedy="Write the part out; rules know no anchors and aliases")
        content = {} if node is None else _value(node, (), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Invalid(f"{name} is not YAML", value=f"line {line}", why=error.problem or str(error)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise Invalid(f"{name} is not YAML", why=str(error).splitlines()[0]) from error
    if not isinstance(content, dict):
        raise Invalid(f"{name} must hold a mapping with `rules`", why=f"it holds a {type(content).__name__}")
    return validate(content, name=name, lines=lines)


def validate(content: Any, *, name: str = "The rule set", lines: dict[Path, int] | None = None) -> RuleSet:
    """The rule set out of a structure. Raises Invalid as `load` does."""
    try:
        return RuleSet.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        inner: Path = cause.path if isinstance(cause, ConditionError) else ()
        where: Path = (*first["loc"], *inner)
        message = str(cause) if cause is not None else first["msg"]
        raise Invalid(
            f"{name} cannot be used",
            value=f"{_line(where, lines or {})}{_shown(where, content)}",
            why=message,
        ) from error


def dump(rule_set: RuleSet) -> str:
    """The rule set as YAML that `load` reads back to an equal one."""
    content = rule_set.model_dump(mode="json", exclude_defaults=True)
    return yaml.dump({"version": 1, **content}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def shipped(name: str) -> str:
    """The text of a rule set that comes with the platform.

    Raises
    ------
    NotFound
        None of this name is shipped.
    """
    if name not in SHIPPED:
        raise NotFound("No rule set of this name is shipped", value=name, remedy=f"There is: {', '.join(SHIPPED)}")
    return resources.files("insitu.routing").joinpath(f"{name.replace('-', '_')}.yaml").read_text(encoding="utf-8")


def _value(node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(path) > DEEPEST:
        raise Invalid("The rules are nested too deep", value=f"line {node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, position), lines) for position, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise Invalid("A key of the rules is not text", value=f"line {line}")
            if key_node.value in content:
                raise Invalid("A key stands twice in the same mapping", value=f"{key_node.value} in line {line}")
            lines[(*path, key_node.value)] = line
            content[key_node.value] = _value(value_node, (*path, key_node.value), lines)
        return content
    text = str(node.value)
    if getattr(node, "style", None) in ("'", '"', "|", ">"):
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) <= 18:
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _line(where: Path, lines: dict[Path, int]) -> str:
    """`line N, ` of the nearest part whose line is known."""
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return f"line {lines[where[:length]]}, "
    return ""


def _shown(where: Path, content: Any) -> str:
    """A path as a person says it: rule 'ct' > when > Modality."""
    parts = list(where)
    words = []
    if len(parts) >= 2 and parts[0] == "rules" and isinstance(parts[1], int):
        try:
            words.append(f"rule {content['rules'][parts[1]]['name']}")
        except (KeyError, IndexError, TypeError):
            words.append(f"rule number {parts[1] + 1}")
        parts = parts[2:]
    words += [str(part + 1) if isinstance(part, int) else part for part in parts]
    return " > ".join(words) or "the whole"


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `load`, or YAML 1.1, would read as something else."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = text not in _WORDS and not _INTEGER.fullmatch(text) and not _FLOAT.fullmatch(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


_Dumper.add_representer(str, _text)
