"""Nothing goes without a rule; a rule takes what is old enough and nothing that something keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from pydicom.dataset import Dataset

from insitu.archive import datasets, holds, links, retention
from insitu.archive.blobs import FileBlobStore
from insitu.archive.retention import Facts, judge
from insitu.archive.store import Archive, Receipt, Stored
from insitu.audit import trail
from insitu.database import Database
from insitu.settings import RetentionRule, Settings

from .index_dump import complete, dump

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]
TODAY = date(2026, 6, 1)
OLD = Facts("1.1", "1.1.1", "CT", frozenset(("inbox",)), date(2025, 6, 1), date(2020, 1, 1))
RULE = RetentionRule(name="old", project="inbox", days=365)


@pytest.mark.parametrize(
    ("rule", "facts", "goes"),
    [
        ({}, {}, True),
        ({}, {"arrived": date(2025, 6, 2)}, None),
        ({"days": 366}, {}, None),
        ({"project": "heads"}, {}, None),
        ({"project": "*"}, {"projects": frozenset()}, True),
        ({"modalities": ("MR",)}, {}, None),
        ({"modalities": ("MR", "CT")}, {}, True),
        ({"age": "study-date", "days": 2000}, {}, True),
        ({"age": "study-date"}, {"study_date": None}, None),
        ({"age": "study-date"}, {"study_date": date(2026, 5, 1)}, None),
        ({}, {"held": True}, False),
        ({"keep": ()}, {"held": True}, False),
        ({}, {"complete": False}, False),
        ({}, {"in_dataset": True}, False),
        ({}, {"has_results": True}, False),
        ({}, {"is_result": True}, False),
        ({"keep": ("in-dataset",)}, {"has_results": True, "is_result": True}, True),
        ({"keep": ("in-dataset",)}, {"in_dataset": True}, False),
    ],
)
def test_a_rule_takes_something_else_than_it_says(
    rule: dict[str, object], facts: dict[str, object], goes: bool | None
) -> None:
    changed = RetentionRule.model_validate({**RULE.model_dump(), **rule})
    verdict = judge([changed], replace(OLD, **facts), TODAY)  # type: ignore[arg-type]
    assert (verdict.goes if verdict else None) is goes


def test_a_rule_that_keeps_hides_one_that_takes() -> None:
    keeps = RULE.model_copy(update={"name": "keeps", "keep": ("in-dataset",)})
    takes = RULE.model_copy(update={"name": "takes", "keep": ()})
    verdict = judge([keeps, takes], replace(OLD, in_dataset=True), TODAY)
    assert verdict is not None
    assert (verdict.rule.name, verdict.goes) == ("takes", True)
    assert judge([], OLD, TODAY) is None


@pytest.mark.parametrize(
    ("text", "expected"), [("20240131", date(2024, 1, 31)), ("2024", None), ("", None), (None, None)]
)
def test_a_study_date_that_is_none_counts_as_one(text: str | None, expected: date | None) -> None:
    assert retention.parse_date(text) == expected


def test_the_rules_are_carried_out_on_what_is_due_and_nothing_else(
    database: Database, archive: Archive, blobs: FileBlobStore, settings: Settings, receipt: Receipt, make: Make,
    encode: Encode, store: Store, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = {name: make() for name in ("goes", "held", "dataset", "shared", "result", "input", "other")}
    made["other"].Modality = "MR"
    for item in made.values():
        store(receipt, encode(item))
    archive.close_receipt(receipt)
    complete(database, settings)
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('heads')")
        found = connection.execute("SELECT id, series_instance_uid FROM series").fetchall()
        ids = {row["series_instance_uid"]: row["id"] for row in found}
        series = {name: ids[item.SeriesInstanceUID] for name, item in made.items()}
        holds.place(connection, blobs, made["held"].StudyInstanceUID, "court order 7", "anna")
        datasets.add(connection, settings, series["dataset"], "inbox", "trial")
        links.link(connection, settings, series["shared"], "heads", "anna")
        connection.execute("UPDATE series SET execution = 'r-1' WHERE id = %s", (series["result"],))
        connection.execute(
            "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
            " VALUES ('d', 'tissue', '1', '{}', '', 'anna')"
        )
        connection.execute(
            "INSERT INTO run (identity, project, algorithm, publish_version, inputs, parameters)"
            " VALUES ('r', 'inbox', 'd', '1', jsonb_build_array(jsonb_build_object('series_instance_uid', %s::text)), '{}')",
            (made["input"].SeriesInstanceUID,),
        )
        connection.execute(
            "INSERT INTO execution (id, run, number, requested_by, state) VALUES ('r-1', 'r', 1, 'anna', 'succeeded')"
        )
        connection.execute(
            "INSERT INTO execution_result (execution, sop_instance_uid, series_instance_uid, kind) VALUES ('r-1', %s, %s, 'SEG')",
            (made["result"].SOPInstanceUID, made["result"].SeriesInstanceUID),
        )
    rule = RetentionRule(name="old-ct", project="inbox", modalities=("CT",), days=30)
    later = datetime.now(UTC).date() + timedelta(days=40)
    monkeypatch.setattr(retention, "_FACTS", retention._FACTS.replace("LIMIT 500", "LIMIT 2"))
    before = dump(database)
    assert list(retention.due(database, [], later)) == []
    assert list(retention.due(database, [rule])) == [], "what arrived today is not 30 days old"
    verdicts = {verdict.facts.series: verdict.kept for verdict in retention.due(database, [rule], later)}
    assert {name: verdicts.get(item.SeriesInstanceUID) for name, item in made.items()} == {
        "goes": (), "held": ("held",), "dataset": ("in-dataset",), "shared": (), "result": ("is-result",),
        "input": ("has-results",), "other": None,
    }  # fmt: skip
    assert dump(database) == before, "a dry run changes nothing"
    gone, stayed = retention.apply(archive, [rule], threading.Event(), seconds_each=0, today=later)
    assert (gone.series, gone.instances, gone.unlinked, stayed) == (1, 1, 1, [])
    left = {row["series_instance_uid"] for row in dump(database)["series"]}
    assert left == {item.SeriesInstanceUID for name, item in made.items() if name != "goes"}
    with database.transaction() as connection:
        (event,) = trail.events(connection, action="delete")
        (unlinked,) = trail.events(connection, action="unlink")
    assert (event["actor"], event["detail"]["rule"]) == ("retention", "old-ct")
    assert "old-ct" in event["detail"]["reason"]
    assert unlinked["resource"] == made["shared"].SeriesInstanceUID
    gone, _ = retention.apply(archive, [rule], threading.Event(), seconds_each=0, today=later)
    assert gone == retention.deletion.Deleted()


def test_nothing_is_deleted_by_default() -> None:
    settings = Settings()
    assert (settings.retention, settings.retention_automatic) == ((), False)
