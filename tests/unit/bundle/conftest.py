"""A bundle of two small images, and a registry to load it into."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .registries import Registry, running
from .small import Source, layer, make_bundle, unpack

BASE = layer({"usr/lib/os-release": b'ID=debian\nVERSION_ID="12"\n', "big": bytes(range(256)) * 4000})


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A layout with two images on one base."""
    source = Source(tmp_path_factory.mktemp("images") / "source")
    source.add("platform", [BASE, layer({"opt/insitu/code": b"platform"})])
    source.add("ct-tissue", [BASE, layer({"algorithm/code": b"ct", "noise": os.urandom(3_000_000)})])
    return source


@pytest.fixture(scope="session")
def archive(images: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of both images."""
    output = tmp_path_factory.mktemp("bundle")
    made = make_bundle(output, *(f"{name}=oci:{images.folder}:{name}" for name in ("platform", "ct-tissue")))
    assert made.returncode == 0, made.stderr
    return output / "insitu-bundle-0.1.0.tar"


@pytest.fixture
def bundle(archive: Path, tmp_path: Path) -> Path:
    """The unpacked bundle."""
    folder = tmp_path / "carried"
    folder.mkdir()
    return unpack(archive, folder)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry without TLS and logins."""
    with running(tmp_path / "registry") as started:
        yield started
    shutil.rmtree(tmp_path / "registry")
