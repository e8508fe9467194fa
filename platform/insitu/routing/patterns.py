"""Patterns for `matches`: text with wildcards, as people write file names.

    *        any characters, also none
    ?        exactly one character
    {name}   one or more letters, digits, `_` or `-`, kept under this name for the actions

Upper and lower case are the same, and the whole value must match. Not regular expressions: a value comes from any
sender, and the time to match must not depend on how somebody wrote a rule. Here it is at most pattern times value.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

LONGEST_PATTERN = 256  # characters
LONGEST_VALUE = 4096  # characters; longer values are not compared
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_-")


@dataclass(frozen=True)
class Pattern:
    """A pattern that was checked. `tokens` are pairs of kind (text, any, one, name) and text or name."""

    text: str
    tokens: tuple[tuple[str, str], ...]

    @property
    def names(self) -> frozenset[str]:
        """The names this pattern captures."""
        return frozenset(text for kind, text in self.tokens if kind == "name")

    def match(self, value: str) -> dict[str, str] | None:
        """What the names captured if the whole `value` matches; None if it does not.

        The first name takes as much as it can, then the next. Pairs of positions that led nowhere are not tried again,
        so the work is bounded by the product of both lengths.
        """
        folded = value.lower()
        dead: set[tuple[int, int]] = set()
        # A stack of (token, position in value, start of the name that is being captured or -1, captures so far)
        stack: list[tuple[int, int, int, tuple[tuple[str, str], ...]]] = [(0, 0, -1, ())]
        while stack:
            token, at, start, captured = stack.pop()
            key = (token * 2 + (start >= 0), at)
            if key in dead:
                continue
            dead.add(key)
            if token == len(self.tokens):
                if at == len(value):
                    return dict(captured)
                continue
            kind, text = self.tokens[token]
            if kind == "text":
                if folded.startswith(text, at):
                    stack.append((token + 1, at + len(text), -1, captured))
            elif kind == "one":
                if at < len(value):
                    stack.append((token + 1, at + 1, -1, captured))
            elif kind == "any":
                if at < len(value):
                    stack.append((token, at + 1, -1, captured))
                stack.append((token + 1, at, -1, captured))
            else:
                if start >= 0:
                    stack.append((token + 1, at, -1, (*captured, (text, value[start:at]))))
                if at < len(value) and value[at] in _NAME_CHARACTERS:
                    stack.append((token, at + 1, start if start >= 0 else at, captured))
        return None


def compile_pattern(text: str) -> Pattern:
    """Check a pattern.

    Raises
    ------
    ValueError
        It is empty, too long, or a `{name}` in it is not one.
    """
    if not text or len(text) > LONGEST_PATTERN:
        raise ValueError(f"a pattern has 1 to {LONGEST_PATTERN} characters")
    tokens: list[tuple[str, str]] = []
    seen: set[str] = set()
    at = 0
    while at < len(text):
        character = text[at]
        if character == "*":
            if not tokens or tokens[-1][0] != "any":
                tokens.append(("any", ""))
        elif character == "?":
            tokens.append(("one", ""))
        elif character in "{}":
            end = text.find("}", at)
            name = text[at + 1 : end] if character == "{" and end > 0 else ""
            if not _NAME.fullmatch(name):
                raise ValueError("braces enclose a name of small letters, digits and _, for example {project}")
            if name in seen:
                raise ValueError(f"the name {{{name}}} stands in the pattern twice")
            seen.add(name)
            tokens.append(("name", name))
            at = end
        elif tokens and tokens[-1][0] == "text":
            tokens[-1] = ("text", tokens[-1][1] + character.lower())
        else:
            tokens.append(("text", character.lower()))
        at += 1
    return Pattern(text, tuple(tokens))


def template_names(text: str) -> frozenset[str]:
    """The names a template such as `trial-{site}` asks for."""
    return frozenset(re.findall(r"\{([^{}]*)\}", text))


def fill(template: str, captured: dict[str, str]) -> str:
    """The template with its names replaced, in small letters, as names of projects and datasets are."""
    for name, value in captured.items():
        template = template.replace("{" + name + "}", value)
    return template.lower()
