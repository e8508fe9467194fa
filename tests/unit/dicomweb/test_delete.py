"""Deleting by DICOMweb: only with the right, only with a reason, only what is one's own."""

from __future__ import annotations

import httpx
import pytest

PATIENCE = 60


@pytest.fixture
def shared(site, make):
    """Study 1.2.3: series 1.2.3.4 in `heart` (2 instances), 1.2.3.5 in `brain`."""
    site.project("heart")
    site.project("brain")
    site.images = [make(1), make(2)]
    site.take(*site.images, project="heart")
    site.take(make(1, SeriesInstanceUID="1.2.3.5"), project="brain")
    return site


def delete(site, path: str, **options) -> httpx.Response:
    """DELETE below /dicom-web."""
    headers = site.headers | options.pop("headers", {})
    return httpx.delete(f"{site.url}/dicom-web{path}", headers=headers, timeout=PATIENCE, **options)


WHY = {"reason": "sent by mistake"}


def test_a_lead_deletes_an_instance_and_then_the_rest_of_his_study(shared):
    shared.become(heart="lead")
    instance = f"/studies/1.2.3/series/1.2.3.4/instances/{shared.images[0].SOPInstanceUID}"
    assert delete(shared, instance, params=WHY).status_code == 204
    assert shared.get(instance).status_code == 404
    assert len(shared.found("/studies/1.2.3/instances")) == 1
    response = delete(shared, "/studies/1.2.3", headers={"X-Insitu-Reason": "sent by mistake"})
    assert response.status_code == 204
    assert response.headers["X-Insitu-Deleted"] == "studies=0, series=1, instances=1"
    assert shared.found("/studies") == []
    shared.become(brain="reader")  # the other house keeps its series
    assert len(shared.found("/studies/1.2.3/instances")) == 1


def test_without_a_reason_nothing_is_deleted(shared):
    shared.become(heart="lead")
    for parameters in ({}, {"reason": " "}, {"reason": "x" * 600}):
        response = delete(shared, "/studies/1.2.3/series/1.2.3.4", params=parameters)
        assert response.status_code == 400, parameters
        assert response.headers["Content-Type"] == "application/problem+json"
    assert len(shared.found("/studies/1.2.3/instances")) == 2


def test_a_parameter_that_deleting_does_not_know_is_refused_and_nothing_is_deleted(shared):
    shared.become(heart="lead")
    for parameters in ({"reson": "sent by mistake"}, {"PatientID": "P1"}, {"instance": "1.2.3"}):
        response = delete(shared, "/studies/1.2.3", params=WHY | parameters)
        assert response.status_code == 400, parameters
        assert next(iter(parameters)) in response.json()["detail"]
    assert len(shared.found("/studies/1.2.3/instances")) == 2


def test_who_may_only_read_or_store_deletes_nothing(shared):
    for role in ("reader", "researcher"):
        shared.become(heart=role)
        assert delete(shared, "/studies/1.2.3", params=WHY).status_code == 403
    shared.become(heart="reader", brain="lead")  # a lead elsewhere is none here
    assert delete(shared, "/studies/1.2.3/series/1.2.3.4", params=WHY).status_code == 403
    shared.become(heart="reader")
    assert len(shared.found("/studies/1.2.3/instances")) == 2


def test_what_one_may_not_see_cannot_be_deleted_and_is_not_told_of(shared):
    shared.become(brain="lead")
    for path in ("/studies/1.2.3/series/1.2.3.4", "/studies/9.9.9"):
        assert delete(shared, path, params=WHY).status_code == 404, path
    shared.become(heart="reader")
    assert len(shared.found("/studies/1.2.3/instances")) == 2
