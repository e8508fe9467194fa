"""`docker/bundle.py`: one archive, the same for the same commit, with everything in it and each layer once."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.helm import need_helm

from .small import Source, layer, make_bundle, unpack

BASE = layer({"usr/bin/base": b"base" * 1000})


def read(bundle: Path, digest: str) -> Any:
    """A blob of JSON of the layout."""
    return json.loads((bundle / "images" / "blobs" / digest.replace(":", "/")).read_bytes())


def test_it_is_the_same_byte_for_byte_and_holds_what_a_site_needs(
    images: Source, archive: Path, tmp_path: Path
) -> None:
    made = make_bundle(tmp_path, *(f"{name}=oci:{images.folder}:{name}" for name in ("ct-tissue", "platform")))
    assert made.returncode == 0, made.stderr
    assert (tmp_path / archive.name).read_bytes() == archive.read_bytes()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert (tmp_path / f"{archive.name}.sha256").read_text() == f"{digest}  {archive.name}\n"
    assert f"{archive.stat().st_size / 1e6:.0f} MB, 2 images" in made.stdout

    folder = unpack(archive, tmp_path / "unpacked")
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    summed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert summed == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"SHA256SUMS"}
    assert {
        "LICENSE",
        "README.md",
        "images.json",
        "load",
        "load.py",
        "registry.py",
        "sbom.cdx.json",
        "docs/offline.md",
    } <= summed
    assert os.access(folder / "load", os.X_OK)
    # The base is there once: three layers, two configurations, two manifests
    assert len(list((folder / "images" / "blobs" / "sha256").iterdir())) == 7

    names = {image["name"]: image for image in json.loads((folder / "images.json").read_text())["images"]}
    assert {name: image["value"] for name, image in names.items()} == {
        "platform": "images.platform",
        "ct-tissue": "algorithms.images.ct-tissue",
    }
    for image in names.values():
        manifest = read(folder, image["digest"])
        assert [manifest["config"]["digest"], *(one["digest"] for one in manifest["layers"])] == image["blobs"]


def test_nothing_of_the_machine_that_made_it_is_in_the_archive(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}
    assert {member.mtime for member in members} == {1_700_000_000}


def test_the_digest_of_an_image_is_that_of_the_engine(images: Source, archive: Path, tmp_path: Path) -> None:
    folder = unpack(archive, tmp_path / "unpacked")
    index = json.loads((images.folder / "index.json").read_text())["manifests"]
    found = {image["digest"] for image in json.loads((folder / "images.json").read_text())["images"]}
    assert found == {entry["digest"] for entry in index}


def test_the_chart_of_the_bundle_is_one_that_helm_renders(archive: Path, tmp_path: Path) -> None:
    folder = unpack(archive, tmp_path / "unpacked")
    line = [
        need_helm(),
        "template",
        "insitu",
        str(folder / "insitu-0.1.0.tgz"),
        "--set",
        "networkPolicy.apiServer.cidrs={192.0.2.1/32}",
    ]
    rendered = subprocess.run(line, capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    assert "image: insitu/platform:0.1.0" in rendered.stdout


def test_what_docker_saves_is_compressed_and_stays_the_same_content(tmp_path: Path) -> None:
    """Docker keeps layers unpacked, with media types of its own, beside statements of how an image was built."""
    source = Source(tmp_path / "saved", docker=True)
    code = layer({"code": b"code"})
    source.add("platform", [BASE, code])
    source.add_statement()
    archive = source.archive()
    made = make_bundle(tmp_path / "output", f"platform=oci-archive:{archive}")
    assert made.returncode == 0, made.stderr
    folder = unpack(tmp_path / "output" / "insitu-bundle-0.1.0.tar", tmp_path / "unpacked")
    (image,) = json.loads((folder / "images.json").read_text())["images"]
    manifest = read(folder, image["digest"])
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert {one["mediaType"] for one in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    contents = [
        gzip.decompress((folder / "images" / "blobs" / one["digest"].replace(":", "/")).read_bytes())
        for one in manifest["layers"]
    ]
    assert contents == [BASE, code]
    unpacked = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in contents]
    assert read(folder, manifest["config"]["digest"])["rootfs"]["diff_ids"] == unpacked


@pytest.mark.parametrize(
    ("engine", "script"),
    [
        ("docker", '[ "$1 $2 $4" = "save --output insitu/platform:0.1.0" ] && cp "{archive}" "$3"'),
        ("podman", '[ "$*" = "push --quiet --format oci insitu/platform:0.1.0 $6" ] && cp -r "{folder}" "${6#oci:}"'),
    ],
)
def test_an_image_is_asked_of_the_engine_that_has_it(tmp_path: Path, engine: str, script: str) -> None:
    """The engines are scripted: what they are told is what their manuals say."""
    source = Source(tmp_path / "saved", docker=engine == "docker")
    source.add("platform", [BASE])
    archive = source.archive()
    programs = tmp_path / "bin"
    programs.mkdir()
    told = script.replace("{archive}", str(archive)).replace("{folder}", str(source.folder))
    (programs / engine).write_text(f'#!/bin/bash\n[ "$1" = images ] && exit 0\n{told}\n')
    (programs / engine).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    made = make_bundle(tmp_path / "output", "platform=insitu/platform:0.1.0", ENGINE=engine, PATH=path)
    assert made.returncode == 0, made.stderr
    assert "insitu/platform:0.1.0" in made.stdout
    refused = make_bundle(tmp_path / "output", "platform=insitu/platform:other", ENGINE=engine, PATH=path)
    assert refused.returncode == 1
    assert f"`{engine} " in refused.stderr


def test_a_damaged_image_is_not_bundled(tmp_path: Path) -> None:
    source = Source(tmp_path / "source")
    digest = source.add("platform", [BASE])
    layers = json.loads(source.blob(digest).read_text())["layers"]
    source.blob(layers[0]["digest"]).write_bytes(b"something else")
    made = make_bundle(tmp_path / "output", f"platform=oci:{source.folder}:platform")
    assert made.returncode == 1
    assert f"the blob {layers[0]['digest']}" in made.stderr
    assert list((tmp_path / "output").iterdir()) == []


def test_what_is_not_there_is_one_sentence(images: Source, tmp_path: Path) -> None:
    old = tmp_path / "old.tar"
    with tarfile.open(old, "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    for image, said in (
        (f"platfrom=oci:{images.folder}:platform", "there is no image 'platfrom'"),
        (f"platform=oci-archive:{old}", "since Docker 25"),
        ("platform=oci:/nothing/here", "there is no /nothing/here"),
        (f"platform=oci:{images.folder}:other", "holds 0 images called other"),
        (f"platform=oci:{images.folder}", "holds 2 images"),
    ):
        made = make_bundle(tmp_path, image)
        assert made.returncode == 1
        assert said in made.stderr
        assert "Traceback" not in made.stderr
