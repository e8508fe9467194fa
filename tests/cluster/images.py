"""The images of the tests: built once per content of what they are made from, kept in the user's cache, and brought into the cluster.

Not here: how an image is built (docker/build.py) and how it gets into a cluster (cluster.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from .cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "insitu-tests"
STORAGE = CACHE / "containers"
ARCHIVES = CACHE / "images"
KEPT = 3
COMMON = (
    "LICENSE",
    "pyproject.toml",
    ".dockerignore",
    "docker/build.py",
    "docker/enrol.py",
    "docker/slim.py",
    "requirements/uv.txt",
)
CODE = ("platform", "operators", "dags")
INPUTS: dict[str, tuple[str, ...]] = {
    "platform": (
        *COMMON, *CODE, "docker/platform", "requirements/platform.txt", "services", "extensions", "services/viewer",
    ),
    "airflow": (*COMMON, *CODE, "docker/airflow", "requirements/airflow.txt"),
    "object-store": ("docker/object-store",),
}  # fmt: skip
BASE_SCRIPT = Path(__file__).with_name("base_image.sh")


class Images:
    """Builds and loads images when a test asks for them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._loaded: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        """The reference of an image that is in the cluster: `images["platform"]`, or the name of an algorithm package."""
        if name not in self._loaded:
            tag = tagged(name)
            present = self._cluster.images()
            if self._cluster.load_by in {"testcluster", "containerd", "kind"} and f"docker.io/{tag}" in present:
                self._loaded[name] = tag
            else:
                self._loaded[name] = self._cluster.load(archive(name), tag)
        return self._loaded[name]

    @cache  # noqa: B019 - one object per session
    def by_digest(self, name: str) -> str:
        """The reference by digest of an image in the cluster's registry."""
        return self._cluster.push(archive(name), tagged(name))


def tagged(name: str) -> str:
    """Name and tag: the tag is the content of what the image is made from."""
    return f"insitu/{name}:test-{content(inputs(name))}"


def inputs(name: str) -> tuple[str, ...]:
    """Files and folders of the clone that an image is made from."""
    if name in INPUTS:
        return INPUTS[name]
    if not (ROOT / "extensions" / name / "Dockerfile").is_file():
        raise KeyError(f"there is no image {name!r}: neither one of {', '.join(INPUTS)} nor a package in extensions/")
    return (f"extensions/{name}", "docker/build.py")


def content(paths: tuple[str, ...]) -> str:
    """Twelve digits that change when a file that git would take changes."""
    line = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    names = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split("\0")
    digest = hashlib.sha256(BASE_SCRIPT.read_bytes())
    for name in sorted({name for name in names if name}):
        path = ROOT / name
        if path.is_file():
            digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def archive(name: str) -> Path:
    """The image as docker-archive; built where the cache has none."""
    tag = tagged(name)
    path = ARCHIVES / f"{tag.replace('/', '-').replace(':', '-')}.tar"
    with _alone():
        if not path.exists():
            build(name, tag.rpartition(":")[2])
            _save(tag, path)
            _forget_old(name)
    os.utime(path)
    return path


def build(name: str, tag: str, *engine_arguments: str, dated: str | None = None) -> dict[str, Any]:
    """Build one image under a tag, its layers dated as git says or by the seconds `dated`; what docker/build.py says of it."""
    _need_buildah()
    variables = environment() | {"VERSION": tag, "BASE_IMAGE": base_image(), "GO_IMAGE": ""}
    if dated:
        variables["SOURCE_DATE_EPOCH"] = dated
    if name == "object-store":
        variables["GO_IMAGE"] = go_image()
        engine_arguments += (
            f"--volume={_go('GOMODCACHE')}:/root/go/pkg/mod",
            f"--volume={_go('GOCACHE')}:/root/.cache/go-build",
        )
    if engine_arguments:
        variables["BUILD_ARGUMENTS"] = " ".join(engine_arguments)
    line = [sys.executable, str(ROOT / "docker" / "build.py"), "--quiet", "--json", name]
    outcome = subprocess.run(line, env=variables, capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        pytest.fail(f"the image {name} is not built: {outcome.stderr[-6000:]}")
    (image,) = json.loads(outcome.stdout)
    return dict(image)


def environment() -> dict[str, str]:
    """Variables of builds: a store of the tests' own, and how this machine reaches its package registry."""
    STORAGE.mkdir(parents=True, exist_ok=True)
    configuration = STORAGE / "storage.conf"
    text = f'[storage]\ndriver = "overlay"\ngraphroot = "{STORAGE}/root"\nrunroot = "{STORAGE}/run"\n'
    if not configuration.exists() or configuration.read_text() != text:
        configuration.write_text(text)
    variables = os.environ | {
        "ENGINE": "buildah",
        "CONTAINERS_STORAGE_CONF": str(configuration),
        "BUILDAH_ISOLATION": "chroot",
    }
    # Built files are the machine's own business; secrets of a build are mounted, never copied.
    candidates = {
        "CA_FILE": [os.environ.get("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt"],
        "PIP_CONFIG_FILE": [os.environ.get("PIP_CONFIG_FILE"), "~/.config/pip/pip.conf", "/etc/pip.conf"],
        "UV_CONFIG_FILE": [os.environ.get("UV_CONFIG_FILE"), "~/.config/uv/uv.toml", "/etc/uv/uv.toml"],
    }
    for variable, paths in candidates.items():
        for path in paths:
            if path and Path(path).expanduser().is_file():
                variables[variable] = str(Path(path).expanduser())
                break
    return variables


def base_image() -> str:
    """A Debian with Python 3.11, made once by debootstrap; INSITU_TEST_BASE_IMAGE names another."""
    return os.environ.get("INSITU_TEST_BASE_IMAGE") or _made("base")


def go_image() -> str:
    """The base with this machine's Go; INSITU_TEST_GO_IMAGE names another."""
    if os.environ.get("INSITU_TEST_GO_IMAGE"):
        return os.environ["INSITU_TEST_GO_IMAGE"]
    if shutil.which("go") is None:
        pytest.skip("needs Go to build the S3 server")
    return _made("go")


def _go(variable: str) -> str:
    """Where this machine's Go keeps what it has fetched and compiled: a build in the image need not do it again."""
    return subprocess.run(["go", "env", variable], capture_output=True, text=True, check=True).stdout.strip()


def store(*line: str) -> str:
    """Run buildah or skopeo on the tests' store."""
    outcome = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        raise RuntimeError(f"{' '.join(line)[:300]} ended with {outcome.returncode}: {outcome.stderr[-2000:]}")
    return outcome.stdout


@contextmanager
def contents(reference: str) -> Iterator[Path]:
    """The files of an image of the tests' store, as a folder of this machine that must not be changed."""
    container = store("buildah", "from", "--pull-never", f"localhost/{reference}").strip()
    try:
        yield Path(store("buildah", "mount", container).strip())
    finally:
        store("buildah", "rm", container)


def inspect(reference: str) -> dict[str, Any]:
    """The configuration of an image of the tests' store, as the OCI image specification has it."""
    return dict(json.loads(store("skopeo", "inspect", "--config", f"containers-storage:localhost/{reference}")))


def _made(kind: str) -> str:
    name = f"localhost/insitu-tests-{kind}:{hashlib.sha256(BASE_SCRIPT.read_bytes()).hexdigest()[:12]}"
    if name not in store("buildah", "images", "--format", "{{.Name}}:{{.Tag}}").split():
        _need_buildah()
        outcome = subprocess.run(
            [str(BASE_SCRIPT), kind, name], env=environment(), capture_output=True, text=True, check=False
        )
        if outcome.returncode != 0:
            pytest.fail(f"the base image of the tests is not made: {(outcome.stdout + outcome.stderr)[-4000:]}")
    return name


def _need_buildah() -> None:
    for program in ("buildah", "debootstrap", "skopeo"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} (Debian package {program})")


def _save(tag: str, path: Path) -> None:
    ARCHIVES.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    store(
        "skopeo",
        "copy",
        "--quiet",
        "--insecure-policy",
        f"containers-storage:localhost/{tag}",
        f"docker-archive:{unfinished}:{tag}",
    )
    unfinished.rename(path)


def _forget_old(name: str) -> None:
    """Keep the newest archives and images of a name."""
    archives = sorted(ARCHIVES.glob(f"insitu-{name}-test-*.tar"), key=lambda path: path.stat().st_mtime)
    for path in archives[:-KEPT]:
        path.unlink()
        tag = path.stem.removeprefix(f"insitu-{name}-")
        subprocess.run(
            ["buildah", "rmi", f"localhost/insitu/{name}:{tag}"], env=environment(), capture_output=True, check=False
        )


@contextmanager
def _alone() -> Iterator[None]:
    """One build at a time on this machine, whoever asks."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
