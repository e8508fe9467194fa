"""What is known of a series when it is routed, as one value, and how an attribute is looked up in it.

Not here: where the facts come from (apply), what is made of them (evaluate).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: () if value is None else (value,) if isinstance(value, str) else value),
]


class Facts(BaseModel):
    """Facts of one complete series.

    A series can have come by several associations, so everything about the arrival may have several values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    attributes: dict[str, Any] = Field({}, description="DICOM JSON (PS3.18 F) of the series, without bulk data.")
    calling_ae: Texts = ()
    called_ae: Texts = ()
    peer: Texts = Field((), description="Addresses the series came from.")
    channel: Texts = Field((), description="Ways it came: dimse, stow, import, result.")
    source: Literal["received", "result"] = "received"
    algorithm: str | None = Field(None, description="Name of the algorithm that made it, for a result.")
    depth: int = Field(0, ge=0, description="Runs in a row that led to it; 0 for a series that was sent.")
    revision: int = Field(1, ge=1)
    projects: tuple[str, ...] = Field((), description="Projects it belongs to already.")
    ran: tuple[str, ...] = Field((), description="Rules that asked for runs on an earlier revision.")


@dataclass(frozen=True)
class Found:
    """What stands under a subject: whether there is any value, and the values that can be compared."""

    present: bool
    values: tuple[str | int | float, ...] = ()


ABSENT = Found(present=False)


def look_up(facts: Facts, subject: str, path: tuple[str, ...]) -> Found:
    """The values of an attribute (by its path of tags) or of something about the arrival (by its name).

    Never raises: what is not DICOM JSON counts as absent. An attribute without a value counts as absent.
    """
    if not path:
        value = getattr(facts, subject)
        texts = (value,) if isinstance(value, str) else value or ()
        kept = tuple(text.strip() for text in texts if text.strip())
        return Found(bool(kept), kept)
    data_sets: list[Any] = [facts.attributes]
    for tag in path[:-1]:
        data_sets = [item for data_set in data_sets for item in _items(data_set, tag)]
    present = False
    values: list[str | int | float] = []
    for data_set in data_sets:
        element = data_set.get(path[-1]) if isinstance(data_set, Mapping) else None
        if not isinstance(element, Mapping):
            continue
        present = present or bool(element.get("InlineBinary") or element.get("BulkDataURI"))
        for item in _items(data_set, path[-1]):
            text = item.get("Alphabetic") if isinstance(item, Mapping) and element.get("vr") == "PN" else item
            if isinstance(text, str) and text.strip():
                values.append(text.strip())
            elif isinstance(text, int | float) and not isinstance(text, bool) and math.isfinite(text):
                values.append(text)
            elif isinstance(text, Mapping) and element.get("vr") == "SQ":
                present = True
    return Found(present or bool(values), tuple(values))


def _items(data_set: Any, tag: str) -> list[Any]:
    element = data_set.get(tag) if isinstance(data_set, Mapping) else None
    items = element.get("Value") if isinstance(element, Mapping) else None
    return items if isinstance(items, list) else []
