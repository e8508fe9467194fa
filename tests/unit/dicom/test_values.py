"""UIDs, attributes of DICOM JSON, measurement files: small things that everything leans on."""

from __future__ import annotations

import json

import pytest
from pydicom.dataset import Dataset
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import UID

from insitu.dicom import attributes, codes
from insitu.dicom.measurements import parse_measurements
from insitu.dicom.uids import derive
from insitu.errors import Invalid


def test_a_derived_uid_stays_the_same_for_ever() -> None:
    assert derive("series", "a", "b") == derive("series", "a", "b")
    # Results in archives carry such UIDs: a change of the rule would make every repeated publish a new object.
    assert derive("series", "a", "b") == "2.25.78130218859900402513229513667399898711"


def test_parts_that_only_join_to_the_same_text_give_different_uids() -> None:
    assert len({derive("ab", "c"), derive("a", "bc"), derive("abc"), derive("", "abc")}) == 4


def test_a_derived_uid_is_valid() -> None:
    for number in range(200):
        uid = UID(derive("x", str(number)))
        assert uid.is_valid
        assert len(uid) <= 44


def test_values_of_dicom_json_are_found_by_keyword() -> None:
    dataset = Dataset()
    dataset.PatientName = "Test^Patient=山田^太郎"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SliceThickness = "2.5"
    dataset.BodyPartExamined = ""
    json_model = dataset.to_json_dict()
    assert attributes.values(json_model, "ImageType") == ["ORIGINAL", "PRIMARY"]
    assert attributes.value(json_model, "SliceThickness") == 2.5
    assert attributes.value(json_model, "PatientName") == "Test^Patient"
    assert attributes.value(json_model, "BodyPartExamined", "none") == "none"
    assert attributes.present(json_model, "BodyPartExamined")
    assert not attributes.present(json_model, "Modality")
    assert attributes.value(json_model, "Modality") is None


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(Invalid, match="BodyPart"):
        attributes.value({}, "BodyPart")


@pytest.mark.parametrize(
    ("code", "group"),
    [
        (codes.TISSUE, 7150),
        (codes.ANATOMICAL_STRUCTURE, 7150),
        (codes.BODY_SUBSTANCE, 7150),
        (codes.BONE, 7191),
        (codes.SOFT_TISSUE, 7191),
        (codes.GAS, 7197),
        (codes.GREY_MATTER, 7192),
        (codes.WHITE_MATTER, 7192),
        (codes.CEREBROSPINAL_FLUID, 7192),
        (codes.ATTENUATION, 7469),
        (codes.MR_SIGNAL_INTENSITY, 7469),
        (codes.VOLUME, 7469),
        (codes.ARTIFICIAL_INTELLIGENCE, 7162),
    ],
)
def test_codes_stand_in_the_context_group_they_are_used_from(code: codes.Code, group: int) -> None:
    members = {
        (scheme, getattr(getattr(dictionary, scheme), keyword).value)
        for scheme, keywords in cid_concepts[group].items()
        for keyword in keywords
    }
    assert (code.scheme_designator, code.value) in members


GOOD = {"segments": [{"segment": 1, "measurements": [{"name": "Volume", "value": 1.5, "unit": "ml"}]}]}


def test_a_measurement_file_is_read() -> None:
    assert parse_measurements(json.dumps(GOOD)).segments[0].measurements[0].value == 1.5


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "JSON"),
        ("[]", "file"),
        ('{"segments": [{"segment": 0, "measurements": []}]}', "segments.0.segment"),
        ('{"segments": [{"segment": 1, "measurements": [{"name": "Volume", "value": NaN, "unit": "ml"}]}]}', "value"),
        ('{"segments": [{"segment": 1, "measurements": [{"name": "Volume", "value": -1, "unit": "ml"}]}]}', "negative"),
        (
            '{"segments": [{"segment": 1, "measurements": [{"name": "Volume", "value": 1, "unit": "1"}]}]}',
            "given in ml",
        ),
        ('{"segments": [{"segment": 1, "measurements": [{"name": "Weight", "value": 1, "unit": "ml"}]}]}', "name"),
        ('{"segments": [{"segment": 1, "measurements": []}, {"segment": 1, "measurements": []}]}', "twice"),
        ('{"segments": [], "version": 2}', "version"),
        ('{"segments": [], "extra": 2}', "extra"),
    ],
)
def test_a_measurement_file_with_a_mistake_is_refused_with_the_place(text: str, word: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_measurements(text)
    assert word in str(refusal.value)
