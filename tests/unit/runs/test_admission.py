"""Runs start in a fair order and never more at once than the site allows."""

from hypothesis import given
from hypothesis import strategies as st

from insitu.database import Database
from insitu.runs import executions
from insitu.runs.admission import admit, choose
from insitu.runs.identity import RunInput


@given(
    st.lists(st.sampled_from("abc"), max_size=30),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)),
    st.integers(0, 10),
)
def test_never_more_than_is_free_each_once_and_none_left_while_there_is_room(
    projects: list[str], load: dict[str, int], free: int
) -> None:
    waiting = [(str(number), project) for number, project in enumerate(projects)]
    chosen = choose(waiting, load, free)
    assert len(chosen) == min(free, len(waiting))
    assert len(set(chosen)) == len(chosen)


def test_a_project_with_many_runs_does_not_keep_another_waiting() -> None:
    waiting = [("1", "big"), ("2", "big"), ("3", "big"), ("4", "small")]
    assert choose(waiting, {"big": 2}, 2) == ["4", "1"]


def test_within_a_project_the_first_asked_is_the_first_started() -> None:
    assert choose([("1", "p"), ("2", "p"), ("3", "p")], {}, 2) == ["1", "2"]


def test_admission_counts_what_already_runs(database: Database, algorithm: str) -> None:
    with database.transaction() as connection:
        for number in range(4):
            item = RunInput(
                name="image", series_instance_uid=f"1.2.{number}", revision=1, content_digest=f"{number:064d}"
            )
            executions.request(
                connection, project="inbox", algorithm_digest=algorithm, publish_version="1", inputs=[item],
                parameters={}, requested_by="test",
            )  # fmt: skip
    with database.transaction() as connection:
        first = admit(connection, 2)
    with database.transaction() as connection:
        assert admit(connection, 2) == []
        executions.finish(connection, first[0], "succeeded")
        second = admit(connection, 2)
    assert len(first) == 2
    assert len(second) == 1
