"""Decisions of rules: what matches, what follows, what the explanation says."""

from typing import Any

import pytest

from insitu.routing.evaluate import Decision, decide
from insitu.routing.facts import Facts
from insitu.routing.model import RuleSet


def facts(**rest: Any) -> Facts:
    """A head CT from CT1, 3 mm, with keyword arguments over it."""
    attributes = {
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00180015": {"vr": "CS", "Value": ["HEAD"]},
        "00180050": {"vr": "DS", "Value": [3.0]},
        "00080008": {"vr": "CS", "Value": ["ORIGINAL", "PRIMARY", "AXIAL"]},
        "00081030": {"vr": "LO"},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Muster^Anna"}]},
        "00081032": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["CTHEAD"]}}]},
    }
    values = {"attributes": attributes, "calling_ae": "CT1", "called_ae": "INSITU", "peer": "10.1.2.3"}
    return Facts.model_validate({**values, "channel": "dimse", **rest})


def rule(when: Any = None, then: Any = None, **rest: Any) -> dict[str, Any]:
    return {"name": "r", "when": when or {}, "then": then or {"project": "trial"}, **rest}


def outcome(*rules: dict[str, Any], of: Facts | None = None, **options: Any) -> Decision:
    return decide(RuleSet.model_validate({"rules": rules}), of or facts(), **options)


def matches(when: Any, of: Facts | None = None) -> bool:
    return outcome(rule(when), of=of).trace[0].outcome == "matched"


@pytest.mark.parametrize(
    "when",
    [
        {},
        {"Modality": "CT"},
        {"Modality": {"equals": "CT"}},
        {"Modality": ["MR", "CT"]},
        {"00080060": "CT"},
        {"SliceThickness": 3},
        {"SliceThickness": "3.0"},
        {"SliceThickness": {"range": {"min": 3, "max": 3}}},
        {"SliceThickness": {"range": {"max": 5}}},
        {"ImageType": "AXIAL"},
        {"BodyPartExamined": {"matches": "he*"}},
        {"BodyPartExamined": {"matches": ["*chest*", "h??d"]}},
        {"PatientName": {"matches": "muster^*"}},
        {"ProcedureCodeSequence.CodeValue": "CTHEAD"},
        {"calling_ae": "CT1", "called_ae": "INSITU"},
        {"peer": "10.1.0.0/16"},
        {"peer": ["192.168.0.0/16", "10.1.2.3"]},
        {"channel": "dimse"},
        {"any": [{"Modality": "MR"}, {"BodyPartExamined": "HEAD"}]},
        {"not": {"Modality": "MR"}},
        {"PatientID": {"present": False}},
        {"StudyDescription": {"present": False}},
        {"ProcedureCodeSequence": {"present": True}},
    ],
)
def test_a_series_that_fits_is_routed(when: Any) -> None:
    assert matches(when)


@pytest.mark.parametrize(
    "when",
    [
        {"Modality": "MR"},
        {"Modality": "CT", "BodyPartExamined": "CHEST"},
        {"SliceThickness": {"range": {"max": 2.9}}},
        {"SliceThickness": "thin"},
        {"BodyPartExamined": {"matches": "hea"}},
        {"peer": "10.2.0.0/16"},
        {"not": {"ImageType": "AXIAL"}},
        {"PatientID": {"present": True}},
        {"any": [{"Modality": "MR"}, {"SeriesDescription": "x"}]},
    ],
)
def test_a_series_that_does_not_fit_is_left_alone(when: Any) -> None:
    assert not matches(when)


@pytest.mark.parametrize("attribute", ["SeriesDescription", "StudyDescription", "ProcedureCodeSequence.CodeMeaning"])
@pytest.mark.parametrize(
    "comparison", ["x", ["x"], {"matches": "*"}, {"range": {"min": 0}}, {"range": {"max": 0}}, {"equals": 0}]
)
def test_neither_a_comparison_nor_its_opposite_matches_by_accident_where_the_attribute_is_missing(
    attribute: str, comparison: Any
) -> None:
    assert not matches({attribute: comparison})
    assert not matches({"not": {attribute: comparison}})
    assert not matches({"not": {"not": {attribute: comparison}}})
    assert not matches({"not": {"any": [{"Modality": "MR"}, {attribute: comparison}]}})
    assert matches({"any": [{attribute: comparison}, {"Modality": "CT"}]})


def test_text_in_a_number_attribute_is_not_in_any_range_nor_outside_it() -> None:
    odd = facts(attributes={"00180050": {"vr": "DS", "Value": ["about 3"]}})
    assert not matches({"SliceThickness": {"range": {"min": 0}}}, odd)
    assert not matches({"not": {"SliceThickness": {"range": {"min": 0}}}}, odd)


def test_the_explanation_names_the_absent_attribute() -> None:
    decision = outcome(rule({"Modality": "CT", "EchoTime": {"range": {"max": 5}}}, name="ct"))
    assert decision.trace[0].explanation == "rule 'ct' did not match because EchoTime is absent"


def test_the_explanation_says_what_was_found_instead() -> None:
    decision = outcome(rule({"Modality": "MR", "BodyPartExamined": "HEAD"}))
    assert decision.trace[0].explanation == "rule 'r' did not match because Modality is 'CT', not 'MR'"


def test_an_explanation_does_not_show_who_the_patient_is() -> None:
    decision = outcome(rule({"PatientName": "Other^One"}), rule({"PatientName": {"matches": "muster*"}}, name="s"))
    assert "Muster" not in decision.model_dump_json()


def test_rules_are_asked_by_priority_then_by_name_and_a_stop_ends_it() -> None:
    decision = outcome(
        rule(name="c", then={"project": "c"}),
        rule(name="b", then={"project": "b", "stop": True}),
        rule(name="a", then={"project": "a"}),
        rule(name="z", then={"project": "z"}, priority=5),
    )
    assert [step.rule for step in decision.trace] == ["z", "a", "b", "c"]
    assert decision.projects == ("z", "a", "b")
    assert decision.trace[-1].outcome == "stopped"
    assert "rule 'b' stopped" in decision.trace[-1].explanation


def test_a_disabled_rule_does_nothing_and_says_so() -> None:
    decision = outcome(rule(enabled=False))
    assert (decision.projects, decision.trace[0].outcome) == ((), "disabled")


def test_a_result_made_here_matches_no_rule_unless_the_rule_says_so() -> None:
    result = facts(source="result", algorithm="ct-tissue", depth=1)
    decision = outcome(rule(name="a"), rule(name="b", source="result"), rule(name="c", source="any"), of=result)
    assert [step.outcome for step in decision.trace] == ["other-source", "matched", "matched"]
    assert outcome(rule(source="result")).trace[0].outcome == "other-source"


def test_a_chain_of_runs_ends_at_its_limit() -> None:
    follow = rule(source="result", then={"algorithms": [{"name": "b"}]})
    assert outcome(follow, of=facts(source="result", depth=3, projects=["p"]), chain_depth=4).runs
    decision = outcome(follow, of=facts(source="result", depth=4, projects=["p"]), chain_depth=4)
    assert not decision.runs
    assert "4 runs led here" in decision.trace[0].notes[0]


def test_runs_belong_to_the_rules_project_or_to_all_the_series_is_in() -> None:
    decision = outcome(
        rule(name="a", then={"project": "trial"}),
        rule(name="b", then={"algorithms": [{"name": "x", "parameters": {"k": 1}}]}),
        rule(name="c", then={"project": "other", "algorithms": [{"name": "y", "version": "1.0"}]}),
    )
    found = [(run.project, run.algorithm, run.version, run.rule) for run in decision.runs]
    assert found == [("trial", "x", None, "b"), ("other", "x", None, "b"), ("other", "y", "1.0", "c")]
    alone = outcome(rule(then={"algorithms": [{"name": "x"}]}), default_project="inbox")
    assert [run.project for run in alone.runs] == ["inbox"]


def test_two_rules_that_want_the_same_run_get_one() -> None:
    then = {"project": "trial", "algorithms": [{"name": "x"}]}
    decision = outcome(rule(name="a", then=then), rule(name="b", then=then))
    assert [run.rule for run in decision.runs] == ["a"]


def test_late_objects_run_an_algorithm_again_only_if_the_rule_says_so() -> None:
    late = facts(revision=2, ran=["a", "b"])
    algorithms = [{"name": "x"}]
    decision = outcome(
        rule(name="a", then={"project": "p", "algorithms": algorithms}),
        rule(name="b", then={"project": "q", "algorithms": algorithms, "again": True}),
        rule(name="c", then={"project": "s", "algorithms": algorithms}),
        of=late,
    )
    assert [run.rule for run in decision.runs] == ["b", "c"]
    assert "again" in decision.trace[0].notes[0]


def test_names_in_ae_titles_become_project_and_dataset() -> None:
    when = {"called_ae": {"matches": "kp-{project}"}, "calling_ae": {"matches": "kp-{dataset}"}}
    sent = facts(called_ae=["KP-TRIAL"], calling_ae=["kp-set_1", "CT2"])
    decision = outcome(rule(when, {"project": "{project}", "dataset": "{dataset}"}), of=sent)
    assert decision.projects == ("trial",)
    assert [(item.project, item.name) for item in decision.datasets] == [("trial", "set_1")]


def test_a_sender_cannot_make_a_project_by_naming_it() -> None:
    then = {"project": "{project}", "algorithms": [{"name": "x"}]}
    decision = outcome(
        rule({"called_ae": {"matches": "kp-{project}"}}, then),
        of=facts(called_ae="kp-nobody"),
        known_projects=frozenset({"trial"}),
    )
    assert (decision.projects, decision.runs) == ((), ())
    assert "project 'nobody' is not assigned because there is no such project" in decision.trace[0].notes


def test_a_name_that_cannot_be_a_project_is_refused_with_its_reason() -> None:
    decision = outcome(
        rule({"called_ae": {"matches": "{project}*"}}, {"project": "{project}"}), of=facts(called_ae="-_x")
    )
    assert decision.projects == ()
    assert "cannot be the name of a project" in decision.trace[0].notes[0]


def test_what_a_pattern_under_not_captured_is_not_used() -> None:
    when = {"any": [{"called_ae": {"matches": "kp-{p}"}}, {"not": {"calling_ae": {"matches": "x{q}"}}}]}
    decision = outcome(rule(when, {"project": "{p}"}))
    assert (decision.trace[0].outcome, decision.projects) == ("matched", ())


def test_an_address_in_its_ipv6_form_is_the_same_peer() -> None:
    assert matches({"peer": "10.1.0.0/16"}, facts(peer="::ffff:10.1.2.3"))
    assert not matches({"not": {"peer": "10.1.0.0/16"}}, facts(peer="a socket"))
