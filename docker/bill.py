"""The bill of materials of a bundle, in CycloneDX 1.6: what is in the images, read from their files.

Debian's packages by dpkg's own record, Python's by their metadata, Go's modules by what the compiler wrote into the program, the viewer by
its lock and by what its build was bundled from. Not here: what is known to be wrong with any of them.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import Parser
from pathlib import Path

from cyclonedx.contrib.license.exceptions import InvalidSpdxLicenseException
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator
from packageurl import PackageURL

from layout import Kept, Layout

WANTED = re.compile(
    r"var/lib/dpkg/status|var/lib/dpkg/status\.d/[^/]+|usr/share/doc/[^/]+/copyright|(usr/lib|etc)/os-release|.*\.dist-info/METADATA"
    r"|opt/insitu/build/viewer/.*\.js(\.gz)?"
)
PROGRAMS = re.compile(r"(.*/)?s?bin/[^/]+")
GO = b"\xff Go buildinf:"
BUNDLED = re.compile(rb"node_modules/((?:@[a-z0-9._-]+/)?[a-z0-9][a-z0-9._-]*)/")
NAMESPACE = uuid.UUID("4b1f5ab5-3a64-5b0c-9f0b-6f3d2a9c1d57")  # of the serial numbers of our bills


@dataclass
class Contents:
    """The files of one image that say what is in it, by path without a leading slash."""

    files: dict[str, bytes] = field(default_factory=dict)

    def apply(self, changes: Iterable[tuple[str, bytes | None]]) -> None:
        """Lay one layer over it. None takes a path away, with all below it; a path that ends in `/` only what is below it."""
        for path, content in changes:
            if content is not None:
                self.files[path] = content
                continue
            folder = path if path.endswith("/") else path + "/"
            for gone in [one for one in self.files if one == path or one.startswith(folder)]:
                del self.files[gone]

    def matching(self, pattern: str) -> Iterator[tuple[str, bytes]]:
        """Path and content of the files whose whole path matches, in order."""
        for path in sorted(self.files):
            if re.fullmatch(pattern, path):
                yield path, self.files[path]


class Reader:
    """Reads images; a layer that several have is read once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._layers: dict[str, list[tuple[str, bytes | None]]] = {}

    def contents(self, image: Kept) -> Contents:
        """What says what is in an image."""
        contents = Contents()
        for digest in image.layers:
            if digest not in self._layers:
                self._layers[digest] = list(self._changes(digest))
            contents.apply(self._layers[digest])
        return contents

    def _changes(self, digest: str) -> Iterator[tuple[str, bytes | None]]:
        kept: list[tuple[str, bytes]] = []
        for member, content in self._layout.layer(digest):
            path = member.name.removeprefix("./").lstrip("/")
            folder, _, leaf = path.rpartition("/")
            if leaf == ".wh..wh..opq":
                yield folder + "/", None
            elif leaf.startswith(".wh."):
                yield f"{folder}/{leaf.removeprefix('.wh.')}".lstrip("/"), None
            elif content is not None and WANTED.fullmatch(path):
                kept.append((path, content.read()))
            elif content is not None and member.mode & 0o111 and PROGRAMS.fullmatch(path):
                found = go_modules(content.read())
                if found is not None:
                    kept.append((path, b"Go " + found.encode()))
        yield from kept  # what a layer takes away is of the layers below it


class Bill:
    """Collects the components of a bundle.

    Parameters
    ----------
    version
        Of the bundle.
    seconds
        When it was made, since 1970.
    viewer_lock
        What names the published build of the viewer, its version, integrity and licence.
    """

    def __init__(self, version: str, seconds: int, viewer_lock: Path) -> None:
        self.bom = Bom()
        self.bom.metadata.timestamp = datetime.fromtimestamp(seconds, UTC)
        self._licences = LicenseFactory()
        self._known: dict[str, Component] = {}
        self._version = version
        self._viewer_lock = viewer_lock
        self._bundle = self._component("insitu-bundle", version, ComponentType.APPLICATION, reference="bundle")
        self._bundle.licenses.add(self._licences.make_with_id("Apache-2.0"))
        self.bom.metadata.component = self._bundle

    def add_chart(self, version: str, digest: str) -> None:
        """The Helm chart, with the SHA-256 of its archive."""
        chart = self._component(
            "insitu", version, ComponentType.APPLICATION, PackageURL("helm", None, "insitu", version)
        )
        chart.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest))
        chart.licenses.add(self._licences.make_with_id("Apache-2.0"))
        self.bom.components.add(chart)
        self.bom.register_dependency(self._bundle, [chart])

    def add_image(self, image: Kept, contents: Contents) -> int:
        """An image and what is in it; the number of components that it depends on."""
        repository, _, tag = image.name.rpartition(":")
        leaf = repository.rpartition("/")[2]
        url = PackageURL("oci", None, leaf, image.digest, {"tag": tag, "arch": image.platform.partition("/")[2]})
        container = self._component(repository, tag, ComponentType.CONTAINER, url)
        container.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=image.digest.partition(":")[2]))
        container.description = image.labels.get("org.opencontainers.image.title")
        self._license(container, [image.labels.get("org.opencontainers.image.licenses", "")], whole=True)
        container.properties.add(
            Property(name="insitu:revision", value=image.labels.get("org.opencontainers.image.revision", ""))
        )
        parts = [*self._debian(contents), *self._python(contents), *self._go(contents), *self._viewer(contents)]
        for part in (container, *parts):
            self.bom.components.add(part)
        self.bom.register_dependency(self._bundle, [container])
        self.bom.register_dependency(container, parts)
        return len(parts)

    def text(self) -> str:
        """As JSON, the same for the same content; `ValueError` where it does not fulfil CycloneDX's schema."""
        self.bom.serial_number = uuid.uuid5(NAMESPACE, " ".join([self._version, *sorted(self._known)]))
        written = str(JsonV1Dot6(self.bom).output_as_string(indent=1))
        wrong = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6).validate_str(written)
        if wrong is not None:
            raise ValueError(f"the bill of materials does not fulfil the schema of CycloneDX 1.6: {wrong}")
        return written + "\n"

    def _component(
        self,
        name: str,
        version: str | None,
        kind: ComponentType,
        url: PackageURL | None = None,
        reference: str | None = None,
        group: str | None = None,
    ) -> Component:
        """A component, made once for all images."""
        key = reference or (url.to_string() if url else f"{kind.value}:{name}@{version}")
        if key not in self._known:
            self._known[key] = Component(name=name, version=version, type=kind, purl=url, bom_ref=key, group=group)
        return self._known[key]

    def _debian(self, contents: Contents) -> Iterator[Component]:
        system = {}
        for _, content in contents.matching("(usr/lib|etc)/os-release"):
            system = dict(re.findall(r'(?m)^(\w+)="?([^"\n]*)"?$', content.decode()))
        if system:
            yield self._component(system.get("ID", "linux"), system.get("VERSION_ID"), ComponentType.OPERATING_SYSTEM)
        distribution = f"{system.get('ID', 'debian')}-{system.get('VERSION_ID', 'unknown')}"
        for path, content in contents.matching(r"var/lib/dpkg/status(\.d/[^/]+)?"):
            if path.endswith(".md5sums"):
                continue
            for paragraph in re.split(r"\n\n+", content.decode("utf-8", "replace")):
                entry = Parser().parsestr(paragraph, headersonly=True)
                name, version = entry.get("Package"), entry.get("Version")
                if (
                    not name
                    or not version
                    or "installed" not in (entry.get("Status") or "install ok installed").split()
                ):
                    continue
                qualifiers = {"arch": entry.get("Architecture", ""), "distro": distribution}
                url = PackageURL("deb", system.get("ID", "debian"), name, version, qualifiers)
                package = self._component(name, version, ComponentType.LIBRARY, url)
                text = contents.files.get(f"usr/share/doc/{name}/copyright", b"").decode("utf-8", "replace")
                self._license(package, sorted(debian_licences(text)))
                yield package

    def _python(self, contents: Contents) -> Iterator[Component]:
        for _, content in contents.matching(r".*\.dist-info/METADATA"):
            entry = Parser().parsestr(content.decode("utf-8", "replace"), headersonly=True)
            name, version = str(entry["Name"]), str(entry["Version"])
            if name == "insitu":  # ours, and not from PyPI
                package = self._component(name, version, ComponentType.APPLICATION)
            else:
                url = PackageURL("pypi", None, re.sub(r"[-_.]+", "-", name).lower(), version)
                package = self._component(name, version, ComponentType.LIBRARY, url)
            expression = entry.get("License-Expression")
            stated = (entry.get("License") or "").strip()
            classified = [
                line.rpartition("::")[2].strip()
                for line in entry.get_all("Classifier", [])
                if line.startswith("License ::") and line.rpartition("::")[2].strip() != "OSI Approved"
            ]
            if expression:
                self._license(package, [expression], whole=True)
            elif stated and len(stated) < 80 and "\n" not in stated and stated.upper() != "UNKNOWN":
                self._license(package, [stated])
            else:
                self._license(package, classified)
            yield package

    def _go(self, contents: Contents) -> Iterator[Component]:
        for _, content in contents.matching(PROGRAMS.pattern):
            if not content.startswith(b"Go "):
                continue
            lines = [line.split("\t") for line in content.decode().split("\n")]
            release = lines[0][0].removeprefix("Go go").split(" ")[0]
            url = PackageURL("golang", None, "stdlib", release)
            yield self._component("stdlib", release, ComponentType.LIBRARY, url)
            for number, line in enumerate(lines):
                if line[0] not in {"mod", "dep"} or len(line) < 3:
                    continue
                following = lines[number + 1] if number + 1 < len(lines) else [""]
                name, version, *_ = (following if following[0] == "=>" else line)[1:]
                if version == "(devel)":
                    continue
                group, _, leaf = name.rpartition("/")
                url = PackageURL("golang", group or None, leaf, version)
                yield self._component(name, version, ComponentType.LIBRARY, url)

    def _viewer(self, contents: Contents) -> Iterator[Component]:
        if not any(contents.matching(r"opt/insitu/build/viewer/.*\.js(\.gz)?")):
            return
        stated = json.loads(self._viewer_lock.read_bytes())
        viewer = self._npm(stated["package"], stated["version"])
        algorithm, _, integrity = stated["integrity"].partition("-")
        if algorithm == "sha512":
            viewer.hashes.add(HashType(alg=HashAlgorithm.SHA_512, content=base64.b64decode(integrity).hex()))
        self._license(viewer, [stated["licence"]])
        names: set[str] = set()
        for path, content in contents.matching(r"opt/insitu/build/viewer/.*\.js(\.gz)?"):
            text = gzip.decompress(content) if path.endswith(".gz") else content
            names |= {name.decode() for name in BUNDLED.findall(text)}
        parts = []
        for name in sorted(names - {stated["package"]}):
            part = self._npm(name, None)
            part.properties.add(Property(name="insitu:version", value="not stated by the viewer's published build"))
            parts.append(part)
            self.bom.components.add(part)
        self.bom.register_dependency(viewer, parts)
        yield viewer

    def _npm(self, name: str, version: str | None) -> Component:
        group, _, leaf = name.rpartition("/")
        url = PackageURL("npm", group or None, leaf, version)
        return self._component(leaf, version, ComponentType.LIBRARY, url, group=group or None)

    def _license(self, component: Component, names: Iterable[str], whole: bool = False) -> None:
        """Say under which licences a component is; `whole`: the one name is an expression that says it all."""
        if component.licenses:
            return
        made: list[License] = [
            self._licences.make_from_string(name) if whole else self._named(name) for name in names if name
        ]
        for licence in made:
            component.licenses.add(licence)

    def _named(self, name: str) -> License:
        """By its identifier at SPDX where it is one, else as the package calls it."""
        try:
            return self._licences.make_with_id(name)
        except InvalidSpdxLicenseException:
            return self._licences.make_with_name(name)


def debian_licences(text: str) -> set[str]:
    """Short names of the licences in a machine-readable copyright file of Debian; empty for another form."""
    if "copyright-format" not in text[:400]:
        return set()
    names: set[str] = set()
    for line in re.findall(r"(?m)^License:[ \t]*(\S.*)$", text):
        names |= {name.strip() for name in re.split(r"\s+(?:and|or)\s+|,", line) if name.strip()}
    return {name for name in names if len(name) < 80}


def go_modules(program: bytes) -> str | None:
    """What `go version -m` says of a program: its Go and its modules, a line each; None for a program that is not of Go 1.18 or newer.

    The form is that of Go's own package debug/buildinfo: two strings, each after its length as a variable-length integer.
    """
    start = program.find(GO) if program.startswith(b"\x7fELF") else -1
    if start < 0 or len(program) < start + 33 or not program[start + 15] & 2:
        return None
    place = start + 32
    strings = []
    for _ in range(2):
        length = shift = 0
        while True:
            byte = program[place]
            place += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        strings.append(program[place : place + length])
        place += length
    version, modules = strings
    # The second one stands between two marks of 16 bytes.
    return version.decode() + "\n" + modules[16:-16].decode() if len(modules) > 32 else version.decode()
