"""What holds for every rule set and every series, also for attributes that are nonsense."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.routing import text
from insitu.routing.conditions import parse, written
from insitu.routing.evaluate import decide
from insitu.routing.facts import Facts
from insitu.routing.model import RuleSet
from insitu.routing.patterns import compile_pattern

KEYWORDS = (
    "Modality",
    "SliceThickness",
    "BodyPartExamined",
    "PatientName",
    "ImageType",
    "ProcedureCodeSequence.CodeValue",
)
TAGS = ("00080060", "00180050", "00180015", "00100010", "00080008", "00081032")

scalars = st.one_of(st.text(max_size=8), st.integers(-9, 9), st.floats(allow_nan=True), st.booleans(), st.none())
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
elements = st.one_of(
    junk,
    st.fixed_dictionaries(
        {
            "vr": st.sampled_from(["CS", "DS", "PN", "SQ", "LO"]),
            "Value": st.lists(st.sampled_from(["CT", "MR", 3, "3"]) | junk, max_size=3),
        }
    ),
)
texts = st.lists(st.sampled_from(["CT1", "kp-trial", "kp-a_b", "", "10.0.0.1", "::1", "nowhere", "é\x00"]), max_size=3)
all_facts = st.builds(
    lambda attributes, **rest: Facts.model_validate({"attributes": attributes, **rest}),
    attributes=st.dictionaries(st.sampled_from(TAGS), elements, max_size=5),
    calling_ae=texts, called_ae=texts, peer=texts, channel=texts,
    source=st.sampled_from(["received", "result"]), algorithm=st.sampled_from([None, "a", "b"]),
    depth=st.integers(0, 6), projects=st.lists(st.sampled_from(["p", "q"]), max_size=2), ran=st.lists(st.sampled_from(["r0", "r1"])),
)  # fmt: skip
operators = st.one_of(
    st.sampled_from(["CT", "3", 3, 2.5]),
    st.lists(st.sampled_from(["CT", "MR", 3]), min_size=1, max_size=2),
    st.builds(lambda limit: {"range": {"min": limit, "max": limit + 2}}, st.integers(-3, 3)),
    st.builds(lambda limit: {"range": {"max": limit}}, st.integers(-3, 3)),
    st.builds(lambda pattern: {"matches": pattern}, st.sampled_from(["*", "C?", "kp-{x}", "{x}*", "*1"])),
)
leaves = st.one_of(
    st.builds(lambda key, operator: {key: operator}, st.sampled_from([*KEYWORDS, "calling_ae"]), operators).filter(
        lambda leaf: not ("calling_ae" in leaf and "range" in str(leaf))
    ),
    st.builds(lambda key, value: {key: {"present": value}}, st.sampled_from([*KEYWORDS, "called_ae"]), st.booleans()),
    st.sampled_from([{"peer": "10.0.0.0/8"}, {"peer": ["::/0"]}, {"algorithm": "a"}, {"channel": "dimse"}]),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"all": parts}, st.lists(inner, max_size=3)),
        st.builds(lambda parts: {"any": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=6,
)
actions = st.sampled_from(
    [
        {"project": "p"},
        {"stop": True},
        {"algorithms": [{"name": "a"}]},
        {"project": "q", "dataset": "d", "algorithms": [{"name": "b"}]},
    ]
)


@st.composite
def rule_sets(draw: Any) -> RuleSet:
    rules = [
        {
            "name": f"r{number}", "when": draw(conditions), "then": draw(actions), "priority": draw(st.integers(0, 1)),
            "enabled": draw(st.booleans()), "source": draw(st.sampled_from(["received", "result", "any"])),
        }
        for number in range(draw(st.integers(0, 4)))
    ]  # fmt: skip
    return RuleSet.model_validate({"rules": rules})


many = settings(max_examples=100, deadline=None)


@many
@given(rule_sets(), all_facts)
def test_deciding_never_fails_and_always_gives_the_same(rules: RuleSet, facts: Facts) -> None:
    decision = decide(rules, facts)
    assert decide(rules, facts) == decision
    assert len(decision.trace) == len(rules.rules)


@many
@given(rule_sets(), all_facts, st.randoms(use_true_random=False))
def test_the_order_in_the_file_does_not_matter(rules: RuleSet, facts: Facts, random: Any) -> None:
    shuffled = list(rules.rules)
    random.shuffle(shuffled)
    assert decide(RuleSet(rules=tuple(shuffled)), facts) == decide(rules, facts)


@many
@given(rule_sets(), all_facts)
def test_a_disabled_rule_changes_nothing(rules: RuleSet, facts: Facts) -> None:
    with_them, without = decide(rules, facts), decide(RuleSet(rules=tuple(r for r in rules.rules if r.enabled)), facts)
    assert (with_them.projects, with_them.datasets, with_them.runs) == (
        without.projects,
        without.datasets,
        without.runs,
    )


@many
@given(conditions, st.booleans())
def test_without_attributes_only_a_question_for_absence_matches(condition: dict[str, Any], negated: bool) -> None:
    when = {"not": condition} if negated else condition
    decision = decide(RuleSet.model_validate({"rules": [{"name": "r", "when": when, "then": {"stop": True}}]}), Facts())
    if "present" not in str(condition) and "'all': []" not in str(condition):
        assert decision.trace[0].outcome == "not-matched"


@many
@given(conditions, all_facts)
def test_a_condition_and_its_opposite_never_both_match(condition: dict[str, Any], facts: Facts) -> None:
    rules = [
        {"name": "yes", "source": "any", "when": condition, "then": {"project": "p"}},
        {"name": "no", "source": "any", "when": {"not": condition}, "then": {"project": "q"}},
    ]
    assert len(decide(RuleSet.model_validate({"rules": rules}), facts).projects) < 2


@many
@given(rule_sets())
def test_rules_survive_being_written_and_read_again(rules: RuleSet) -> None:
    assert text.load(text.dump(rules)) == rules
    assert RuleSet.model_validate(rules.model_dump(mode="json")) == rules


@many
@given(conditions)
def test_a_condition_is_read_back_as_it_was_written(condition: dict[str, Any]) -> None:
    once = written(parse(condition))
    assert written(parse(once)) == once


@many
@given(st.text(alphabet="ab*?-{}", min_size=1, max_size=8), st.text(alphabet="ab-", max_size=12))
def test_a_pattern_without_names_matches_as_a_simple_reference_does(pattern: str, value: str) -> None:
    if "{" in pattern or "}" in pattern:
        return

    def reference(p: str, v: str) -> bool:
        if not p:
            return not v
        if p[0] == "*":
            return reference(p[1:], v) or (bool(v) and reference(p, v[1:]))
        return bool(v) and p[0] in ("?", v[0]) and reference(p[1:], v[1:])

    assert (compile_pattern(pattern).match(value) is not None) == reference(pattern, value)


def test_a_malicious_value_does_not_hold_up_the_dispatcher() -> None:
    pattern = compile_pattern("*a" * 60 + "*{x}-{y}*b")
    assert (
        pattern.match("a-" * 2000) is None
    )  # exponential or cubic matching would not end within the test's time limit
