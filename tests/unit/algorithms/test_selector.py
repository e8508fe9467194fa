"""Which series an input takes, and why not."""

from __future__ import annotations

from typing import Any

import pytest

from insitu.algorithms.manifest import Selector
from insitu.algorithms.selector import eligible, reasons_against
from insitu.dicom.attributes import tag

SELECTOR = Selector(
    modality=("CT",),
    body_part=("HEAD", "BRAIN"),
    minimum_instances=10,
    maximum_slice_thickness=3.0,
    image_type_requires=("PRIMARY",),
    image_type_excludes=("LOCALIZER",),
)


def attributes(**changes: Any) -> dict[str, Any]:
    """DICOM JSON of a series that is taken; None takes an attribute away."""
    values = {
        "Modality": ["CT"],
        "BodyPartExamined": ["HEAD"],
        "SliceThickness": [1.5],
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        **changes,
    }
    return {tag(keyword): {"vr": "CS", "Value": value} for keyword, value in values.items() if value is not None}


def test_a_fitting_series_is_taken() -> None:
    assert reasons_against(SELECTOR, attributes(), 40) == []
    assert eligible(SELECTOR, attributes(BodyPartExamined=["brain "]), 40)


@pytest.mark.parametrize(
    ("changes", "instances", "reason"),
    [
        ({"Modality": ["MR"]}, 40, "Modality is MR, wanted is CT"),
        ({"Modality": None}, 40, "Modality is absent, wanted is CT"),
        ({"BodyPartExamined": None}, 40, "BodyPartExamined is absent, wanted is HEAD or BRAIN"),
        ({"BodyPartExamined": [""]}, 40, "BodyPartExamined is absent, wanted is HEAD or BRAIN"),
        ({}, 3, "it has 3 instances, at least 10 are wanted"),
        ({"SliceThickness": [5]}, 40, "SliceThickness is 5 mm, at most 3 mm is wanted"),
        ({"SliceThickness": None}, 40, "SliceThickness is absent, at most 3 mm is wanted"),
        ({"SliceThickness": ["thin"]}, 40, "SliceThickness is thin, at most 3 mm is wanted"),
        ({"ImageType": None}, 40, "ImageType is absent, PRIMARY must be in it"),
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
            40,
            "ImageType is ORIGINAL\\PRIMARY\\LOCALIZER, LOCALIZER must not be in it",
        ),
    ],
)
def test_each_condition_refuses_with_the_value_seen(changes: dict[str, Any], instances: int, reason: str) -> None:
    assert reasons_against(SELECTOR, attributes(**changes), instances) == [reason]


def test_an_absent_body_part_is_taken_only_where_the_manifest_says_so() -> None:
    lenient = SELECTOR.model_copy(update={"body_part_may_be_absent": True})
    assert eligible(lenient, attributes(BodyPartExamined=None), 40)
    assert not eligible(lenient, attributes(BodyPartExamined=["CHEST"]), 40)


def test_every_reason_is_given() -> None:
    assert len(reasons_against(SELECTOR, {}, 0)) == 5
