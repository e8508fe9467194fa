"""Packages as files, and what is installed on a site."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from insitu.algorithms import manifest as manifests
from insitu.algorithms import package as packages
from insitu.algorithms import registry
from insitu.database import Database
from insitu.errors import Conflict, Invalid, NotFound
from insitu.settings import Settings

from ... import doubles


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty home."""
    return Settings(home=tmp_path / "home")


def test_the_digest_covers_content_names_and_executability_only(tmp_path: Path) -> None:
    one, other = doubles.build("well", tmp_path / "one"), doubles.build("well", tmp_path / "other")
    assert packages.digest(one) == packages.digest(other)
    (other / "__pycache__").mkdir()
    (other / "__pycache__" / "main.cpython-311.pyc").write_bytes(b"compiled")
    (other / ".cache").write_text("hidden")
    assert packages.digest(one) == packages.digest(other)
    (other / "main.py").chmod(0o755)
    assert packages.digest(one) != packages.digest(other)
    (other / "main.py").chmod(0o644)
    (other / "nifti.py").rename(other / "mifti.py")
    assert packages.digest(one) != packages.digest(other)


def test_a_package_with_a_link_is_refused(tmp_path: Path) -> None:
    package = doubles.build("well", tmp_path)
    (package / "secrets").symlink_to("/etc")
    with pytest.raises(Invalid, match="regular files only"):
        packages.digest(package)


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    package = doubles.build("well", tmp_path, golden={"inputs": {"image": "golden/image.nii.gz"}})
    (package / "requirements.txt").unlink()
    (package / "main.py").unlink()
    with pytest.raises(Invalid) as caught:
        packages.check(package)
    for name in ("requirements.txt", "main.py", "golden/image.nii.gz"):
        assert name in str(caught.value)


def test_a_package_comes_out_of_its_archive_as_it_went_in(tmp_path: Path) -> None:
    package = doubles.build("well", tmp_path / "in")
    stream = io.BytesIO()
    packages.pack(package, stream)
    stream.seek(0)
    packages.unpack(stream, tmp_path / "out")
    assert packages.digest(tmp_path / "out") == packages.digest(package)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_an_archive_cannot_write_outside(name: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 3
        archive.addfile(member, io.BytesIO(b"bad"))
    stream.seek(0)
    with pytest.raises(Invalid):
        packages.unpack(stream, tmp_path / "target")
    assert not (tmp_path / "outside").exists()


def test_an_archive_with_a_link_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("algorithm.yaml")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    stream.seek(0)
    with pytest.raises(Invalid):
        packages.unpack(stream, tmp_path / "target")


def test_an_environment_is_built_once_and_starts(tmp_path: Path, settings: Settings) -> None:
    package = doubles.build("well", tmp_path)
    manifest = manifests.read(package)
    folder = packages.ensure_environment(settings, package, manifest)
    assert folder == packages.environment_folder(settings, package, manifest)
    built = (folder / packages.COMPLETE).stat().st_mtime_ns
    assert packages.ensure_environment(settings, package, manifest) == folder
    assert (folder / packages.COMPLETE).stat().st_mtime_ns == built
    said = subprocess.run(
        [folder / "bin" / "python", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True
    )
    assert said.stdout.strip() == str(folder)


def test_an_environment_without_hashes_is_refused(tmp_path: Path, settings: Settings) -> None:
    package = doubles.build("well", tmp_path)
    (package / "requirements.txt").write_text("six==1.17.0\n")
    with pytest.raises(Invalid, match="hash"):
        packages.ensure_environment(settings, package, manifests.read(package))
    assert not packages.environment_folder(settings, package, manifests.read(package)).exists()


def test_installing_copies_the_package_and_is_idempotent(
    tmp_path: Path, settings: Settings, database: Database
) -> None:
    package = doubles.build("well", tmp_path)
    for _ in range(2):
        with database.transaction() as connection:
            installed = registry.install(connection, settings, package, "anna")
    assert installed.digest == packages.digest(package) == packages.digest(installed.location)
    assert installed.location.is_relative_to(settings.home)
    assert (installed.trusted, installed.enabled) == (False, True)
    with database.transaction() as connection:
        assert [item.name for item in registry.listed(connection)] == ["double-well"]
        assert registry.find(connection, "double-well") == registry.find(connection, "double-well@1.0.0")


def test_another_package_under_a_known_version_is_refused(
    tmp_path: Path, settings: Settings, database: Database
) -> None:
    package = doubles.build("well", tmp_path)
    with database.transaction() as connection:
        first = registry.install(connection, settings, package, "anna")
    (package / "main.py").write_text("changed")
    with pytest.raises(Conflict), database.transaction() as connection:
        registry.install(connection, settings, package, "anna")
    with database.transaction() as connection:
        assert registry.find(connection, "double-well").digest == first.digest


def test_the_last_enabled_version_is_the_one_a_bare_name_means(
    tmp_path: Path, settings: Settings, database: Database
) -> None:
    for version in ("1.0.0", "2.0.0"):
        package = doubles.build("well", tmp_path / version, version=version)
        with database.transaction() as connection:
            registry.install(connection, settings, package, "anna")
    with database.transaction() as connection:
        assert registry.find(connection, "double-well").version == "2.0.0"
        registry.enable(connection, "double-well@2.0.0", False)
        assert registry.find(connection, "double-well").version == "1.0.0"
        with pytest.raises(Invalid, match="Several versions"):
            registry.enable(connection, "double-well", False)
        with pytest.raises(NotFound):
            registry.find(connection, "double-well@3.0.0")
