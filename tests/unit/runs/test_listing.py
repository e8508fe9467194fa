"""The waterfall tells where the time of a run went."""

from datetime import UTC, datetime, timedelta

from insitu.runs.listing import step_times, waterfall

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_a_bar_lasts_until_the_next_stage_and_the_last_until_the_end() -> None:
    bars = waterfall({"requested": at(5), "acknowledged": at(0), "published": at(9)}, at(10))
    assert [(bar["stage"], bar["start"], bar["seconds"]) for bar in bars] == [
        ("acknowledged", 0, 5),
        ("requested", 5, 4),
        ("published", 9, 1),
    ]


def test_a_run_that_goes_on_has_an_open_bar() -> None:
    assert waterfall({"requested": at(0)}, None)[0]["seconds"] is None


def test_a_run_without_stages_has_no_bars() -> None:
    assert waterfall({}, None) == []


def test_steps_count_from_when_they_began_not_from_when_the_platform_heard_of_it() -> None:
    steps = [{"name": "fetch", "started_at": at(3).timestamp(), "finished_at": None, "exit_code": 0}]
    events = [
        {"stage": "fetch", "at": at(4), "detail": {}},
        {"stage": "ended", "at": at(9), "detail": {"steps": steps}},
    ]
    assert step_times(events) == {"fetch": at(3)}
    assert step_times(events[:1]) == {}
