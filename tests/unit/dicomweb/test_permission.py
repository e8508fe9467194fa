"""What a caller may not see does not exist for them, at every address."""

from __future__ import annotations

import pytest


@pytest.fixture
def shared(site, make):
    """One study with a series in project `heart` (2 instances) and one in `brain` (1), and a study in `brain` only."""
    site.project("heart")
    site.project("brain")
    images = [make(1, Modality="CT"), make(2, Modality="CT")]
    other = make(1, SeriesInstanceUID="1.2.3.5", Modality="MR", SliceThickness="9")
    alone = make(1, StudyInstanceUID="1.2.9", SeriesInstanceUID="1.2.9.1", PatientID="P9")
    site.take(*images, project="heart")
    site.take(other, alone, project="brain")
    site.hidden = other.SOPInstanceUID
    site.shown = images[0].SOPInstanceUID
    return site


def test_a_study_with_a_forbidden_series_shows_and_counts_the_others(shared):
    shared.become(heart="reader")
    (study,) = shared.found("/studies")
    assert study["0020000D"]["Value"] == ["1.2.3"]
    assert study["00080061"]["Value"] == ["CT"]
    assert study["00201206"]["Value"] == [1]
    assert study["00201208"]["Value"] == [2]
    assert [s["0020000E"]["Value"][0] for s in shared.found("/studies/1.2.3/series")] == ["1.2.3.4"]
    assert len(shared.found("/instances")) == 2
    assert len(shared.found("/series")) == 1
    assert len(shared.client.retrieve_study("1.2.3")) == 2
    assert len(shared.get("/studies/1.2.3/metadata").json()) == 2
    shared.become(heart="reader", brain="reader")
    assert len(shared.found("/studies")) == 2
    assert len(shared.found("/instances")) == 4


def test_a_search_by_a_forbidden_series_tells_nothing(shared):
    shared.become(heart="reader")
    for parameters in ({"ModalitiesInStudy": "MR"}, {"Modality": "MR"}, {"SliceThickness": "9"}, {"PatientID": "P9"}):
        response = shared.get("/studies", params=parameters)
        assert (response.json(), response.headers["X-Total-Count"]) == ([], "0"), parameters


def test_everything_of_a_forbidden_series_is_not_found(shared):
    shared.become(heart="reader")
    series, instance = "/studies/1.2.3/series/1.2.3.5", f"/studies/1.2.3/series/1.2.3.5/instances/{shared.hidden}"
    paths = [series, f"{series}/metadata", f"{series}/thumbnail", instance, "/studies/1.2.9", "/studies/1.2.9/metadata"]
    paths += ["/studies/1.2.9/thumbnail"]
    paths += [f"{instance}/{what}" for what in ("metadata", "frames/1", "frames/1/rendered", "frames/1/thumbnail")]
    paths += [f"{instance}/{what}" for what in ("bulkdata/7FE00010", "rendered", "thumbnail")]
    # a visible series does not open a door to an instance of another one
    paths.append(f"/studies/1.2.3/series/1.2.3.4/instances/{shared.hidden}")
    for path in paths:
        response = shared.get(path)
        assert response.status_code == 404, path
        assert response.headers["Content-Type"] == "application/problem+json"
    shared.become(brain="reader")
    for path in paths[:-1]:
        assert shared.get(path).status_code == 200, path


def test_a_stranger_to_all_projects_is_refused_everywhere(shared):
    shared.become()
    instance = f"/studies/1.2.3/series/1.2.3.4/instances/{shared.shown}"
    for path in ("/studies", "/series", "/instances", "/studies/1.2.3", instance, f"{instance}/frames/1"):
        assert shared.get(path).status_code == 403, path


def test_storing_needs_the_right_in_the_project_that_is_named(shared, make):
    from_another_house = make(1, StudyInstanceUID="1.2.7", SeriesInstanceUID="1.2.7.1")
    shared.become(heart="researcher", brain="reader")
    file = shared.file(from_another_house)
    assert shared.store(file).status_code == 403  # the default project
    assert shared.store(file, path="/studies?project=brain").status_code == 403
    assert shared.store(file, path="/studies?project=heart").status_code == 200
    assert len(shared.found("/studies", StudyInstanceUID="1.2.7")) == 1
    shared.become(brain="lead")
    assert shared.found("/studies", StudyInstanceUID="1.2.7") == []
    # the same object again in another project adds a link and tells nothing of the first
    assert (
        shared.store(file, path="/studies?project=brain").json()
        == shared.store(file, path="/studies?project=brain").json()
    )
    assert len(shared.found("/studies", StudyInstanceUID="1.2.7")) == 1


def test_what_was_looked_at_and_taken_out_stands_in_the_audit_trail(shared):
    shared.become(heart="reader")
    shared.get("/studies/1.2.3/metadata")
    shared.get("/studies/1.2.3/series/1.2.3.4")
    with shared.context.database.transaction() as connection:
        rows = connection.execute(
            "SELECT actor, action, kind, resource, detail FROM audit_event ORDER BY id"
        ).fetchall()
    assert [(r["actor"], r["action"], r["kind"], r["resource"]) for r in rows] == [
        (shared.name, "view", "study", "1.2.3"),
        (shared.name, "export", "series", "1.2.3.4"),
    ]
    assert rows[0]["detail"] == {"study": "1.2.3", "instances": 2}
