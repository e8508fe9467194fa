"""The bill of materials: everything that is in an image stands in it, nothing that was taken away again; it is valid CycloneDX."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

from .small import ROOT, Source, layer, make_bundle, unpack

STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Description: GNU C Library
 with a line more

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
COPYRIGHT = b"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: LGPL-2.1+ or MIT

License: MIT
 Permission is hereby granted
"""
SITE = "opt/insitu/venv/lib/python3.11/site-packages"


def metadata(name: str, version: str, *lines: str) -> bytes:
    """METADATA of a Python package."""
    return "\n".join(
        ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines, "", "Version: 9 of the text"]
    ).encode()


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The bill of a bundle of two images."""
    folder = tmp_path_factory.mktemp("bill")
    base = layer(
        {
            "usr/lib/os-release": b'ID=debian\nVERSION_ID="12"\n',
            "var/lib/dpkg/status": STATUS,
            "usr/share/doc/libc6/copyright": COPYRIGHT,
            f"{SITE}/pip-24.0.dist-info/METADATA": metadata("pip", "24.0"),
            "usr/lib/python3/old-1.0.dist-info/METADATA": metadata("old", "1.0"),
        }
    )
    code = layer(
        {
            f"{SITE}/.wh.pip-24.0.dist-info": b"",
            "usr/lib/python3/.wh..wh..opq": b"",
            f"{SITE}/Ruamel.Yaml-0.18.dist-info/METADATA": metadata(
                "Ruamel.Yaml", "0.18", "License-Expression: MIT OR Apache-2.0"
            ),
            f"{SITE}/six-1.17.dist-info/METADATA": metadata(
                "six", "1.17", "Classifier: License :: OSI Approved :: MIT License"
            ),
            f"{SITE}/insitu-0.1.0.dist-info/METADATA": metadata("insitu", "0.1.0", "License-Expression: Apache-2.0"),
            "var/lib/dpkg/status.d/dicom3tools": STATUS.split(b"\n\n")[0].replace(b"libc6", b"dicom3tools"),
            "opt/insitu/build/viewer/1.js": b'"../../node_modules/react/index.js"',
            "opt/insitu/build/viewer/2.js.gz": gzip.compress(b'"../../node_modules/@cornerstonejs/core/a.js"'),
        }
    )
    labels = {"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.revision": "2" * 40}
    source = Source(folder / "source")
    source.add("platform", [base, code], labels)
    source.add("ct-tissue", [base])
    made = make_bundle(folder, *(f"{name}=oci:{source.folder}:{name}" for name in ("platform", "ct-tissue")))
    assert made.returncode == 0, made.stderr
    text = (unpack(folder / "insitu-bundle-0.1.0.tar", folder / "unpacked") / "sbom.cdx.json").read_text()
    assert make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6).validate_str(text) is None
    return json.loads(text)


def by_url(bill: Any) -> dict[str, Any]:
    """Components by their package URL without qualifiers."""
    return {component["purl"].partition("?")[0]: component for component in bill["components"] if "purl" in component}


def licences(component: Any) -> list[str]:
    """Licences of a component as they are written."""
    return [
        entry.get("expression") or entry["license"].get("id") or entry["license"]["name"]
        for entry in component["licenses"]
    ]


def test_what_is_in_the_images_stands_in_it_and_what_was_removed_does_not(bill: Any) -> None:
    found = {url for url in by_url(bill) if not url.startswith(("pkg:oci/", "pkg:helm/"))}
    ohif = json.loads((ROOT / "services" / "viewer" / "ohif.json").read_text())
    assert found == {
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14",
        "pkg:deb/debian/dicom3tools@2.36-9%2Bdeb12u14",
        "pkg:pypi/ruamel-yaml@0.18",
        "pkg:pypi/six@1.17",
        f"pkg:npm/%40ohif/app@{ohif['version']}",
        "pkg:npm/react",
        "pkg:npm/%40cornerstonejs/core",
        "pkg:pypi/pip@24.0",  # ct-tissue has it still
        "pkg:pypi/old@1.0",
    }


def test_it_says_which_image_needs_what(bill: Any) -> None:
    needs = {entry["ref"]: set(entry.get("dependsOn", [])) for entry in bill["dependencies"]}
    found = {url: component["bom-ref"] for url, component in by_url(bill).items() if url.startswith("pkg:oci/")}
    images = {url.split("/")[1].split("@")[0]: reference for url, reference in found.items()}
    assert set(images) == {"platform", "ct-tissue"}
    assert set(images.values()) < needs["bundle"]
    parts = {name: {ref.partition("?")[0] for ref in needs[image]} for name, image in images.items()}
    assert "pkg:pypi/pip@24.0" not in parts["platform"]
    assert "pkg:pypi/six@1.17" in parts["platform"] - parts["ct-tissue"]
    assert "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14" in parts["platform"] & parts["ct-tissue"]
    viewer = next(ref for ref in needs if ref.startswith("pkg:npm/%40ohif"))
    assert needs[viewer] == {"pkg:npm/react", "pkg:npm/%40cornerstonejs/core"}


def test_licences_and_hashes_are_those_of_the_packages(bill: Any) -> None:
    found = by_url(bill)
    assert licences(found["pkg:deb/debian/libc6@2.36-9%2Bdeb12u14"]) == ["LGPL-2.1+", "MIT"]
    assert licences(found["pkg:pypi/ruamel-yaml@0.18"]) == ["MIT OR Apache-2.0"]
    assert licences(found["pkg:pypi/six@1.17"]) == ["MIT License"]
    ohif = json.loads((ROOT / "services" / "viewer" / "ohif.json").read_text())
    viewer = found[f"pkg:npm/%40ohif/app@{ohif['version']}"]
    integrity = base64.b64decode(ohif["integrity"].removeprefix("sha512-")).hex()
    assert viewer["hashes"] == [{"alg": "SHA-512", "content": integrity}]
    (platform,) = [component for url, component in found.items() if url.startswith("pkg:oci/platform")]
    assert platform["hashes"][0]["content"] in platform["bom-ref"]
    assert platform["properties"] == [{"name": "insitu:revision", "value": "2" * 40}]


def test_the_modules_of_a_go_program_are_those_that_go_itself_finds(tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("needs Go, with which")
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "main.go").write_text('package main\nimport "fmt"\nfunc main() { fmt.Println(1) }\n')
    (tmp_path / "program" / "go.mod").write_text("module example.test/program\ngo 1.21\n")
    built = subprocess.run(
        ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(tmp_path / "made"), "."],
        cwd=tmp_path / "program", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    programs = [Path(str(shutil.which("go"))), tmp_path / "made"]
    programs += (Path.home() / ".cache" / "insitu-tests").glob("versitygw-*/versitygw")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import bill; print(bill.go_modules(open(sys.argv[2], 'rb').read()))"
    for program in programs:
        ours = subprocess.run(
            [sys.executable, "-c", code, str(ROOT / "docker"), str(program)], capture_output=True, text=True, check=True
        ).stdout
        theirs = subprocess.run(
            ["go", "version", "-m", str(program)], capture_output=True, text=True, check=True
        ).stdout
        expected = [line.strip() for line in theirs.replace(f"{program}: ", "", 1).splitlines()]
        assert [line.strip() for line in ours.strip().splitlines()] == expected
