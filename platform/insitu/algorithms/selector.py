"""Which series an algorithm's input takes: a pure decision on attributes, with a reason for every condition that fails.

Not here: routing rules, which say which algorithm a site wants for what (insitu.routing).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from insitu.dicom.attributes import DicomJson, value, values

from .manifest import Selector


def reasons_against(selector: Selector, attributes: DicomJson, instances: int) -> list[str]:
    """Why a series is not taken; empty where it is.

    Parameters
    ----------
    selector : Selector
        Of the input.
    attributes : DicomJson
        Attributes of the series' first instance.
    instances : int
        Instances in the series.

    Returns
    -------
    list of str
        One sentence per condition that does not hold: the value seen and the value wanted. An absent attribute meets no
        condition.
    """
    reasons = [
        *_one_of(attributes, "Modality", selector.modality),
        *_one_of(attributes, "SOPClassUID", selector.sop_class),
    ]
    if not (selector.body_part_may_be_absent and not _texts(attributes, "BodyPartExamined")):
        reasons += _one_of(attributes, "BodyPartExamined", selector.body_part)
    if instances < selector.minimum_instances:
        reasons.append(f"it has {instances} instances, at least {selector.minimum_instances} are wanted")
    if selector.maximum_slice_thickness is not None:
        reasons += _at_most(attributes, "SliceThickness", selector.maximum_slice_thickness, "mm")
    kinds = _texts(attributes, "ImageType")
    reasons += [
        f"ImageType is {_shown(kinds)}, {wanted} must be in it"
        for wanted in selector.image_type_requires
        if wanted.upper() not in kinds
    ]
    reasons += [
        f"ImageType is {_shown(kinds)}, {unwanted} must not be in it"
        for unwanted in selector.image_type_excludes
        if unwanted.upper() in kinds
    ]
    return reasons


def eligible(selector: Selector, attributes: DicomJson, instances: int) -> bool:
    """Whether the series is taken."""
    return not reasons_against(selector, attributes, instances)


def _texts(attributes: DicomJson, keyword: str) -> list[str]:
    return [text for text in (str(item).strip().upper() for item in values(attributes, keyword)) if text]


def _shown(texts: Sequence[str]) -> str:
    return "\\".join(texts) if texts else "absent"


def _one_of(attributes: DicomJson, keyword: str, wanted: Sequence[str]) -> list[str]:
    if not wanted:
        return []
    seen = _texts(attributes, keyword)
    if seen and seen[0] in {item.upper() for item in wanted}:
        return []
    return [f"{keyword} is {_shown(seen)}, wanted is {' or '.join(wanted)}"]


def _at_most(attributes: DicomJson, keyword: str, limit: float, unit: str) -> list[str]:
    seen: Any = value(attributes, keyword)
    try:
        number = float(seen)
    except (TypeError, ValueError):
        return [f"{keyword} is {'absent' if seen is None else seen}, at most {limit:g} {unit} is wanted"]
    if number <= limit:
        return []
    return [f"{keyword} is {number:g} {unit}, at most {limit:g} {unit} is wanted"]
