"""Algorithms in a cluster: run by an image that nobody can exchange unseen, and by nothing of the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from insitu.algorithms import package as packages
from insitu.algorithms import registry
from insitu.cli import app
from insitu.database import Connection, Database
from insitu.errors import Invalid
from insitu.runs import executions, preparation
from insitu.settings import Settings
from insitu_services.prepare import packages as shipped

from ... import doubles

IMAGE = f"registry.example:5000/algorithms/well@sha256:{'a' * 64}"
ANOTHER = f"registry.example:5000/algorithms/well@sha256:{'b' * 64}"


@pytest.fixture
def cluster(tmp_path: Path) -> Settings:
    """Settings of a process in a cluster, whose home is empty."""
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "step-key").write_text("key")
    return Settings(home=home, launcher="kubernetes", gateway_url="http://gateway.insitu.internal:8090")


def execution(connection: Connection, digest: str) -> Any:
    """A locked row of an execution that was asked for."""
    connection.execute("INSERT INTO project (name) VALUES ('inbox') ON CONFLICT DO NOTHING")
    requested = executions.request(
        connection, project="inbox", algorithm_digest=digest, publish_version="1", inputs=[], parameters={}, requested_by="test"
    )  # fmt: skip
    return executions.get(connection, requested.execution, lock=True)


@pytest.mark.parametrize(
    "image", [None, "registry.example/well:latest", "well", f"{IMAGE[:-1]}", f"-{IMAGE}", f"{IMAGE} "]
)
def test_without_an_image_by_digest_nothing_is_installed(
    tmp_path: Path, cluster: Settings, database: Database, image: str | None
) -> None:
    package = doubles.build("well", tmp_path)
    with pytest.raises(Invalid, match=r"--image REGISTRY/NAME@sha256:DIGEST|as REGISTRY/NAME@sha256:DIGEST"):
        with database.transaction() as connection:
            registry.install(connection, cluster, package, "anna", image=image)
    with database.transaction() as connection:
        assert registry.listed(connection) == []


def test_a_job_names_the_image_and_no_file_of_this_process(
    tmp_path: Path, cluster: Settings, database: Database
) -> None:
    package = doubles.build("well", tmp_path)
    with database.transaction() as connection:
        installed = registry.install(connection, cluster, package, "anna", image=IMAGE)
        assert installed.image == IMAGE
        row = execution(connection, installed.digest)
        job = preparation.specification(connection, cluster, row)
        assert (job.algorithm.image, job.algorithm.environment) == (IMAGE, None)
        assert job.gateway_url == "http://gateway.insitu.internal:8090"
        events = executions.history(connection, row["id"])
    assert [event["detail"] for event in events if event["stage"] == "prepared"] == [{"image": IMAGE}]
    assert not (cluster.home / "algorithms").exists()
    assert not cluster.environments.exists()
    # An image that was built anew from the same package is what later runs use.
    with database.transaction() as connection:
        assert registry.install(connection, cluster, package, "anna", image=ANOTHER).image == ANOTHER
        assert len(registry.listed(connection)) == 1


def test_an_algorithm_from_before_the_cluster_says_what_it_lacks(
    tmp_path: Path, cluster: Settings, database: Database
) -> None:
    package = doubles.build("well", tmp_path)
    with database.transaction() as connection:
        installed = registry.install(connection, cluster, package, "anna", image=IMAGE)
        connection.execute("UPDATE algorithm SET image = NULL")
        with pytest.raises(Invalid, match="This algorithm has no image"):
            preparation.specification(connection, cluster, execution(connection, installed.digest))


def test_shipped_packages_get_the_images_that_the_settings_name(cluster: Settings, database: Database) -> None:
    names = sorted(manifest.parent.name for manifest in shipped.folder().glob("*/algorithm.yaml"))
    images = {name: f"registry.example/{name}@sha256:{'c' * 64}" for name in names[1:]}
    failed = shipped.install(cluster.model_copy(update={"algorithm_images": images}), database)
    assert list(failed) == names[:1], "one without an image keeps others from being installed"
    with database.transaction() as connection:
        found = {item.image for item in registry.listed(connection)}
    assert found == set(images.values())


def test_on_one_machine_the_image_is_noted_and_not_used(tmp_path: Path, database: Database) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.secrets.mkdir(parents=True)
    (settings.secrets / "step-key").write_text("key")
    package = doubles.build("well", tmp_path)
    with database.transaction() as connection:
        installed = registry.install(connection, settings, package, "anna", image=IMAGE)
        assert packages.digest(installed.location) == installed.digest
        job = preparation.specification(connection, settings, execution(connection, installed.digest))
    assert job.algorithm.image is None
    assert job.algorithm.environment is not None


def test_the_command_tells_the_mistake_before_anything_is_sent(tmp_path: Path) -> None:
    package = doubles.build("well", tmp_path)
    result = CliRunner().invoke(app, ["algorithm", "install", str(package), "--image", "well:latest", "--json"])
    assert result.exit_code != 0
    assert "named by its digest" in str(result.exception)
