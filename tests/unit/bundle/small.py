"""Small images as an engine brings them out, in the OCI layout, and bundles of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.helm import need_helm

ROOT = Path(__file__).parents[3]
OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


def layer(files: Mapping[str, bytes], programs: Sequence[str] = ()) -> bytes:
    """A layer as a tar archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o755 if path in programs else 0o644
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


class Source:
    """A layout that is filled with images.

    Parameters
    ----------
    docker
        As `docker save` writes it: layers as they lie in its store, not compressed, with its media types.
    """

    def __init__(self, folder: Path, docker: bool = False) -> None:
        self.folder = folder
        self._docker = docker
        self._manifests: list[dict[str, Any]] = []
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def add(self, name: str, layers: Sequence[bytes], labels: Mapping[str, str] | None = None) -> str:
        """Add an image; the digest of its manifest."""
        configuration = {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Labels": dict(labels or {})},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]},
        }
        kinds = (
            (f"{DOCKER}.distribution.manifest.v2+json", f"{DOCKER}.container.image.v1+json", f"{DOCKER}.image.rootfs.diff.tar")
            if self._docker
            else (f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar+gzip")
        )  # fmt: skip
        manifest = {
            "schemaVersion": 2,
            "mediaType": kinds[0],
            "config": self._store(json.dumps(configuration).encode(), kinds[1]),
            "layers": [self._store(one if self._docker else gzip.compress(one, mtime=0), kinds[2]) for one in layers],
        }
        entry = self._store(json.dumps(manifest).encode(), kinds[0])
        self._manifests.append(entry | {"annotations": {"org.opencontainers.image.ref.name": name}})
        self.write()
        return str(entry["digest"])

    def add_statement(self) -> None:
        """Put beside the one image a statement of how it was built, as builders do: an index of both takes its place."""
        statement = self._store(b'{"layers": []}', f"{OCI}.manifest.v1+json")
        statement["platform"] = {"os": "unknown", "architecture": "unknown"}
        (image,) = self._manifests
        both = [image | {"platform": {"os": "linux", "architecture": "amd64"}}, statement]
        index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": both}
        self._manifests = [self._store(json.dumps(index).encode(), f"{OCI}.index.v1+json")]
        self.write()

    def write(self) -> None:
        """Write the index."""
        index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": self._manifests}
        (self.folder / "index.json").write_text(json.dumps(index))

    def archive(self) -> Path:
        """The layout as one tar file."""
        path = self.folder.with_suffix(".tar")
        with tarfile.open(path, "w") as tar:
            tar.add(self.folder, "")
        return path

    def blob(self, digest: str) -> Path:
        """Where a blob lies."""
        return self.folder / "blobs" / digest.replace(":", "/")

    def _store(self, content: bytes, kind: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blob(digest).write_bytes(content)
        return {"mediaType": kind, "digest": digest, "size": len(content)}


def make_bundle(output: Path, *images: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`docker/bundle.py --image NAME=REFERENCE ...`."""
    line = [sys.executable, str(ROOT / "docker" / "bundle.py"), "--output", str(output)]
    for image in images:
        line += ["--image", image]
    environment = {name: value for name, value in os.environ.items() if name not in {"VERSION", "REGISTRY", "ENGINE"}}
    environment |= {"HELM": need_helm(), "SOURCE_DATE_EPOCH": "1700000000", "REVISION": "1" * 40, **variables}
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False, timeout=240)


def unpack(bundle: Path, folder: Path) -> Path:
    """Unpack a bundle; the folder with `load`."""
    with tarfile.open(bundle) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


def load(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Start the bundle's `load`, without logins and proxies of this machine."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    return subprocess.run(
        [str(folder / "load"), *arguments], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
