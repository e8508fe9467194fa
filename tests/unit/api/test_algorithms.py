"""Installing algorithms over the API: who may, what is refused, what is audited."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from insitu.algorithms import package as packages

from ... import doubles


def archive(package: Path) -> dict[str, Any]:
    """A package as the upload that the command line sends."""
    stream = io.BytesIO()
    packages.pack(package, stream)
    return {"package": ("package.tar", stream.getvalue(), "application/x-tar")}


def test_a_site_admin_installs_and_everybody_sees_it(house: Any, tmp_path: Path) -> None:
    package = doubles.build("well", tmp_path / "packages")
    admin, reader = house.account("admin", site_admin=True), house.account("reader", alpha="reader")
    with house.client(admin) as client:
        first = client.post("/api/v1/algorithms", files=archive(package))
        again = client.post("/api/v1/algorithms", files=archive(package))
    assert (first.status_code, again.status_code) == (201, 201), first.text
    assert first.json()["digest"] == again.json()["digest"] == packages.digest(package)
    assert first.json()["trusted"] is False
    with house.client(reader) as client:
        (listed,) = client.get("/api/v1/algorithms").json()["algorithms"]
        shown = client.get("/api/v1/algorithms/double-well@1.0.0").json()
        refused = client.post("/api/v1/algorithms", files=archive(package))
    assert listed["name"] == "double-well"
    assert shown["manifest"]["entrypoint"] == ["python", "main.py"]
    assert refused.status_code == 403
    with house.context.database.transaction() as connection:
        actions = connection.execute(
            "SELECT actor, resource FROM audit_event WHERE action = 'algorithm-install'"
        ).fetchall()
    assert {(row["actor"], row["resource"]) for row in actions} == {("admin", "double-well")}


def test_a_disabled_algorithm_says_so(house: Any, tmp_path: Path) -> None:
    package = doubles.build("well", tmp_path / "packages")
    with house.client(house.account("admin", site_admin=True)) as client:
        client.post("/api/v1/algorithms", files=archive(package)).raise_for_status()
        assert client.patch("/api/v1/algorithms/double-well", json={"enabled": False}).json()["enabled"] is False
        assert client.get("/api/v1/algorithms/double-well").json()["enabled"] is False


def test_what_is_no_package_is_refused_and_leaves_nothing(house: Any, tmp_path: Path) -> None:
    broken = doubles.build("well", tmp_path / "packages", version="one")
    with house.client(house.account("admin", site_admin=True)) as client:
        no_archive = client.post("/api/v1/algorithms", files={"package": ("package.tar", b"text", "application/x-tar")})
        no_manifest = client.post("/api/v1/algorithms", files=archive(broken))
        assert client.get("/api/v1/algorithms").json() == {"algorithms": []}
    assert no_archive.status_code == no_manifest.status_code == 422
    assert "version:" in no_manifest.json()["detail"]
    assert list((house.context.settings.home / "incoming").iterdir()) == []
