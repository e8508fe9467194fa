"""Images as files, in the layout that the OCI image specification gives: brought out of an engine's store, checked, kept each blob once.

Not here: how images are built (build.py), what is in them (bill.py), and sending them to a registry (load.py, registry.py).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEXES = {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
LAYER = "application/vnd.oci.image.layer.v1.tar"
UNCOMPRESSED = {LAYER, "application/vnd.docker.image.rootfs.diff.tar"}
NAME = "org.opencontainers.image.ref.name"


class Unusable(Exception):
    """An image that cannot be taken: which one, why, what to do."""


@dataclass(frozen=True)
class Kept:
    """An image in a layout.

    Attributes
    ----------
    digest
        Of its manifest.
    bytes
        Sum of its blobs, as they are stored and sent.
    blobs
        Digests of its configuration and its layers, in the manifest's order.
    platform
        System and architecture, `linux/amd64`.
    created
        As its configuration says.
    labels
        Of its configuration.
    """

    name: str
    digest: str
    bytes: int
    blobs: tuple[str, ...]
    platform: str
    created: str
    labels: dict[str, str]

    @property
    def layers(self) -> tuple[str, ...]:
        """Digests of the layers, the lowest first."""
        return self.blobs[1:]


class Layout:
    """A folder in the OCI layout; made if there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "oci-layout").exists():
            (folder / "blobs" / "sha256").mkdir(parents=True)
            (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
            self._write_index([])

    def path(self, digest: str) -> Path:
        """Where a blob lies."""
        return self.folder / "blobs" / digest.replace(":", "/")

    def read(self, digest: str) -> Any:
        """A blob of JSON, decoded."""
        return json.loads(self.path(digest).read_bytes())

    def index(self) -> list[dict[str, Any]]:
        """Descriptors of what the layout holds."""
        return list(json.loads((self.folder / "index.json").read_bytes())["manifests"])

    def take(self, source: Layout, name: str, reference: str | None = None) -> Kept:
        """Take an image from another layout: every blob checked against its digest, layers that are not compressed compressed.

        Parameters
        ----------
        name
            Repository and tag in this layout.
        reference
            What it is called in the other one; None: the only one there.
        """
        found = source.choose(reference)
        content = source.path(found["digest"]).read_bytes()
        manifest = json.loads(content)
        kinds = {layer["mediaType"] for layer in manifest["layers"]}
        as_it_is = found["mediaType"] == MANIFEST and not kinds & UNCOMPRESSED
        for layer in manifest["layers"]:
            if layer["mediaType"] in UNCOMPRESSED:
                layer.update(self._compress(source, layer["digest"]))
            else:
                self._copy(source, layer["digest"])
        self._copy(source, manifest["config"]["digest"])
        if not as_it_is:
            content = json.dumps(_as_oci(manifest), separators=(",", ":")).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.path(digest).write_bytes(content)
        entry = {"mediaType": MANIFEST, "digest": digest, "size": len(content), "annotations": {NAME: name}}
        others = [other for other in self.index() if other["annotations"][NAME] != name]
        self._write_index(sorted([*others, entry], key=lambda one: str(one["annotations"][NAME])))
        return self.kept(name)

    def kept(self, name: str) -> Kept:
        """An image of this layout."""
        digest = str(self.choose(name)["digest"])
        manifest = self.read(digest)
        configuration = self.read(manifest["config"]["digest"])
        blobs = (manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"]))
        return Kept(
            name=name,
            digest=digest,
            bytes=sum(self.path(one).stat().st_size for one in {digest, *blobs}),
            blobs=blobs,
            platform=f"{configuration['os']}/{configuration['architecture']}",
            created=str(configuration.get("created", "")),
            labels=configuration.get("config", {}).get("Labels") or {},
        )

    def choose(self, reference: str | None = None) -> dict[str, Any]:
        """The descriptor of the manifest that a name stands for."""
        found = [one for one in self.index() if reference is None or one.get("annotations", {}).get(NAME) == reference]
        seen = 0
        while any(one["mediaType"] in INDEXES for one in found) and seen < 4:
            seen += 1
            inner: list[dict[str, Any]] = []
            for one in found:
                inner += self.read(one["digest"])["manifests"] if one["mediaType"] in INDEXES else [one]
            # Statements about how an image was built are no images.
            found = [one for one in inner if one.get("platform", {}).get("os") != "unknown"]
        if len(found) != 1:
            names = sorted(str(one.get("annotations", {}).get(NAME)) for one in self.index())
            raise Unusable(
                f"{self.folder} holds {len(found)} images called {reference or '(anything)'}, and one is needed; "
                f"there are {', '.join(names)}"
            )
        return found[0]

    def layer(self, digest: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
        """The members of a layer, in its order, each with its content if it is a file."""
        with tarfile.open(self.path(digest), "r:*") as members:
            for member in members:
                yield member, members.extractfile(member) if member.isreg() else None

    def _copy(self, source: Layout, digest: str) -> None:
        target = self.path(digest)
        if target.exists():
            return
        partial = target.with_suffix(".part")
        found = hashlib.sha256()
        with source.path(digest).open("rb") as old, partial.open("wb") as new:
            while block := old.read(1 << 20):
                found.update(block)
                new.write(block)
        if f"sha256:{found.hexdigest()}" != digest:
            partial.unlink()
            raise Unusable(f"the blob {digest} of {source.folder} is damaged: build the image again")
        partial.rename(target)

    def _compress(self, source: Layout, digest: str) -> dict[str, Any]:
        """Store a layer compressed, the same way each time; digest and size of that."""
        partial = self.folder / "layer.part"
        with source.path(digest).open("rb") as old, partial.open("wb") as new:
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=new, mtime=0) as compressed:
                shutil.copyfileobj(old, compressed, 1 << 20)
        with partial.open("rb") as content:
            found = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        partial.replace(self.path(found))
        return {"digest": found, "size": self.path(found).stat().st_size}

    def _write_index(self, manifests: list[dict[str, Any]]) -> None:
        kind = "application/vnd.oci.image.index.v1+json"
        content = {"schemaVersion": 2, "mediaType": kind, "manifests": manifests}
        (self.folder / "index.json").write_text(json.dumps(content, separators=(",", ":")))


def export(program: str, reference: str, folder: Path) -> Layout:
    """Bring an image out of the store of docker, podman or buildah into an empty folder.

    Docker writes layers as they lie in its store, often not compressed, and knows the layout since version 25.
    """
    if program == "docker":
        archive = folder.with_suffix(".tar")
        _run("docker", "save", "--output", str(archive), reference)
        try:
            return unpack(archive, folder)
        finally:
            archive.unlink(missing_ok=True)
    _run(program, "push", "--quiet", "--format", "oci", reference, f"oci:{folder}")
    return Layout(folder)


def unpack(archive: Path, folder: Path) -> Layout:
    """The OCI layout in a tar file, as `docker save` and `skopeo copy ... oci-archive:` write it."""
    with tarfile.open(archive, "r:") as members:
        members.extractall(folder, filter="data")
    if not (folder / "index.json").is_file():
        raise Unusable(
            f"{archive.name} is not in the OCI layout, which `docker save` writes since Docker 25: update it, "
            "or take podman or buildah (ENGINE=)"
        )
    return Layout(folder)


def _as_oci(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the media types of the OCI specification, its layers compressed by gzip."""
    configuration = manifest["config"] | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    layers = [layer | {"mediaType": LAYER + "+gzip"} for layer in manifest["layers"]]
    return {"schemaVersion": 2, "mediaType": MANIFEST, "config": configuration, "layers": layers}


def _run(*line: str) -> None:
    outcome = subprocess.run(line, capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        raise Unusable(f"`{' '.join(line[:5])}` ended with {outcome.returncode}: {outcome.stderr.strip()[-1000:]}")
