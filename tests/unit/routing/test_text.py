"""Rules as people write them: what is refused, with which line, and what YAML must not turn into something else."""

import pytest

from insitu.errors import Invalid
from insitu.routing import text
from insitu.routing.cycles import find_cycle
from insitu.routing.evaluate import decide
from insitu.routing.facts import Facts
from insitu.routing.model import RuleSet

HEAD = "rules:\n  - name: ct\n    when:\n"
THEN = "    then: {project: trial}\n"


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (HEAD + "      Modalit: CT\n" + THEN, "line 4", "'Modalit' is neither a DICOM keyword"),
        (HEAD + "      Modality: CT\n      SliceThickness: {range: {min: thin}}\n" + THEN, "line 5", "is a number"),
        (HEAD + "      any: []\n" + THEN, "line 4", "at least one condition"),
        (HEAD + "      all:\n        - Modality: CT\n        - {Rows: {range: {min: 5, max: 2}}}\n" + THEN, "line 6", "at most 2"),
        (HEAD + "      Modality: {equals: CT, present: true}\n" + THEN, "line 4", "exactly one"),
        (HEAD + "      Modality: true\n" + THEN, "line 4", "in quotes they are text"),
        (HEAD + "      peer: 10.0.0.0.1\n" + THEN, "line 4", "neither an address nor a network"),
        (HEAD + "      called_ae: {matches: 'kp-{Project'}\n" + THEN, "line 4", "braces"),
        (HEAD + "      Modality: CT\n    then: {project: '{site}'}\n", "line 2", "captures {site}"),
        (HEAD + "      Modality: CT\n    then: {dataset: d}\n", "line 5", "a dataset belongs to a project"),
        (HEAD + "      Modality: CT\n    then: {}\n", "line 5", "name a project"),
        (HEAD + "      Modality: CT\n    tehn: {project: a}\n" + THEN, "line 5", "Extra inputs"),
        ("rules:\n  - name: a\n    name: b\n", "line 3", "twice"),
        ("rules:\n  - name: [\n", "line", "not YAML"),
        ("rules: &a\n  - *a\n", "", "alias"),
        ("rulse: []\n", "line 1", "Extra inputs"),
        ("- a\n", "", "mapping"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_refused_with_its_line_and_reason(content: str, line: str, says: str) -> None:
    with pytest.raises(Invalid) as caught:
        text.load(content, name="rules.yaml")
    assert line in str(caught.value)
    assert says in str(caught.value)


def test_values_stay_what_dicom_means_by_them() -> None:
    rules = text.load(
        "rules:\n  - name: r\n    when: {BurnedInAnnotation: NO, StudyID: 0010, StudyDate: 2024-01-02, 00180050: 1.5}\n"
        "    then: {project: trial}\n"
    )
    attributes = {
        "00280301": {"vr": "CS", "Value": ["NO"]},
        "00200010": {"vr": "SH", "Value": ["0010"]},
        "00080020": {"vr": "DA", "Value": ["2024-01-02"]},
        "00180050": {"vr": "DS", "Value": [1.5]},
    }
    assert decide(rules, Facts(attributes=attributes)).projects == ("trial",)


def test_the_kp_convention_that_ships_can_be_switched_on() -> None:
    rules = text.load(text.shipped("kp-convention"))
    known = frozenset({"trial", "inbox"})

    def sent(called: str, calling: str) -> tuple[tuple[str, ...], list[str]]:
        facts = Facts.model_validate({"called_ae": called, "calling_ae": calling, "channel": "dimse"})
        decision = decide(rules, facts, known_projects=known)
        return decision.projects, [f"{item.project}/{item.name}" for item in decision.datasets]

    assert sent("kp-trial", "kp-lung") == (("trial",), ["trial/lung"])
    assert sent("KP-TRIAL", "CT1") == (("trial",), [])
    assert sent("kp-unknown", "kp-lung") == ((), [])
    assert sent("INSITU", "kp-lung") == ((), [])


def chain(*rules: dict[str, object]) -> RuleSet:
    return RuleSet.model_validate({"rules": [{"source": "result", **rule} for rule in rules]})


def follow(rule: str, runs: str, **when: object) -> dict[str, object]:
    return {"name": rule, "when": when, "then": {"algorithms": [{"name": runs}]}}


def test_rules_that_would_run_in_a_circle_are_found() -> None:
    assert find_cycle(chain(follow("any-result", "a"))) == [("a", "any-result")]
    assert find_cycle(chain(follow("one", "b", algorithm="a"), follow("two", "a", algorithm="b"))) is not None
    assert find_cycle(chain(follow("one", "b", Modality="SEG"), follow("two", "a", algorithm="b"))) is not None
    assert find_cycle(chain({**follow("r", "a", **{"not": {"SeriesDescription": "x"}})})) is not None


def test_rules_that_end_are_not_taken_for_a_circle() -> None:
    assert find_cycle(chain(follow("one", "b", algorithm="a"), follow("two", "c", algorithm="b"))) is None
    assert find_cycle(chain({**follow("ct", "a", Modality="CT"), "source": "any"})) is None
    assert find_cycle(chain({**follow("ct", "a"), "source": "received"})) is None
    assert find_cycle(chain({**follow("off", "a"), "enabled": False})) is None
    assert find_cycle(chain(follow("not-own", "a", **{"not": {"algorithm": "a"}}))) is None
