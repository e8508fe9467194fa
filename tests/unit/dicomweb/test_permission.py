"""What a caller may not see does not exist for them, at every address."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import httpx
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
    site.hidden, site.alone = other.SOPInstanceUID, alone.SOPInstanceUID
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


def routes(site) -> list[str]:
    """Path template of every DICOMweb resource that GET answers, read from the application's own description."""
    wadl = ElementTree.fromstring(site.get("/").content)  # noqa: S314 - our own
    found = []
    for resource in wadl.iter("{http://wadl.dev.java.net/2009/02}resource"):
        if any(method.get("name") == "GET" for method in resource):
            found.append(resource.get("path", ""))
    assert len(found) > 25
    return [path for path in found if path != "/"]


def filled(path: str, series: str, instance: str, study: str = "1.2.3") -> str:
    """The template with values in it."""
    values = {
        "study": study,
        "series": series,
        "instance": instance,
        "numbers": "1",
        "number": "1",
        "path:path": "7FE00010",
    }
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, f"tell this test what to put into {path}"
    return path


JSON = "application/dicom+json"
XML = 'multipart/related; type="application/dicom+xml"'


def test_no_route_shows_a_forbidden_series_of_a_shared_study(shared):
    shared.become(heart="reader")
    ways = [("GET", "*/*"), ("GET", f"{XML}, */*; q=0.1"), ("HEAD", "*/*")]
    templates = routes(shared)
    with httpx.Client(base_url=f"{shared.url}/dicom-web", headers=shared.headers, timeout=60) as client:
        for template, (method, accept) in itertools.product(templates, ways):
            where, headers = (method, template, accept), {"Accept": accept}
            hidden = client.request(method, filled(template, "1.2.3.5", shared.hidden), headers=headers)
            strange = client.request(method, filled(template, "1.2.9.1", shared.alone, "1.2.9"), headers=headers)
            crossed = client.request(method, filled(template, "1.2.3.4", shared.hidden), headers=headers)
            for answer in (hidden, strange, crossed):
                assert answer.status_code in (200, 204, 404), where
                told = answer.content if answer.status_code == 200 else b""  # a refusal repeats what was asked for
                for secret in (shared.hidden, "1.2.3.5", shared.alone, "1.2.9.1", "P9"):
                    assert secret.encode() not in told, where
                assert int(answer.headers.get("X-Total-Count", 0)) <= 2, where
            search = template.endswith(("/instances", "/series", "/studies"))
            if "{series}" in template and not search:
                assert hidden.status_code == 404, where
            if "{study}" in template and not search:
                assert strange.status_code == 404, where
            if "{instance}" in template:
                assert crossed.status_code == 404, where
    shared.become(brain="reader")
    with httpx.Client(base_url=f"{shared.url}/dicom-web", headers=shared.headers, timeout=60) as client:
        for template in templates:
            assert client.get(filled(template, "1.2.3.5", shared.hidden)).status_code == 200, template


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
