"""The images: what is in them and what is not, that they run with the fewest rights, and that a second build gives the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from . import images as built
from .cluster import Namespace
from .images import Images

NAMES = ("platform", "airflow", "object-store", "ct-tissue", "mr-tissue")
USERS = {"platform": "10001:10001", "airflow": "10001:10001", "object-store": "10001:10001"}
LARGEST = {"platform": 400e6, "airflow": 900e6, "object-store": 60e6}
LABELS = ("title", "version", "revision", "source", "licenses", "description")
WRITABLE = {"/var/lib/insitu", "/data"}  # where volumes are mounted
HOME = [{"name": "tmp", "mountPath": path} for path in ("/tmp", "/var/lib/insitu")]

# Whatever lost its debugging symbols or its neighbours is loaded, and does its work once.
WORK = """
import importlib.metadata, subprocess, sys
import numpy, PIL.Image, gdcm, httptools, openjpeg, psutil, psycopg, pydicom, sqlalchemy, uvloop, yaml, minio, highdicom
import insitu.dicom.software
from insitu_services.api import app
assert yaml.CSafeLoader and psycopg.pq.__impl__ == "binary" and gdcm.Version.GetVersion()
values = numpy.arange(64 * 64, dtype=numpy.uint16).reshape(64, 64)
assert numpy.allclose(numpy.linalg.inv(numpy.eye(8) * 2), numpy.eye(8) / 2)
from openjpeg.utils import decode, encode_array
assert (decode(encode_array(values)) == values).all()
import jpeg_ls
assert (jpeg_ls.decode(jpeg_ls.encode(values)) == values).all()
said = subprocess.run(["dciodvfy", "/etc/passwd"], capture_output=True, text=True)
assert "Information Object Not found" in said.stderr, said
print(importlib.metadata.version("insitu"), sys.executable)
"""


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Name of an image that is built."""
    built.archive(request.param)
    return str(request.param)


def test_the_user_is_a_number_and_the_labels_say_what_it_is(name: str) -> None:
    configuration = built.inspect(built.tagged(name))["config"]
    assert configuration["User"] == USERS.get(name, "65534:65534")
    labels = configuration["Labels"]
    assert {label for label in LABELS if f"org.opencontainers.image.{label}" not in labels} == set()
    assert labels["org.opencontainers.image.version"] == built.tagged(name).rpartition(":")[2]
    assert re.fullmatch(r"[0-9a-f]{40}(-modified)?", labels["org.opencontainers.image.revision"])


def test_nothing_lends_rights_and_everything_can_be_read_and_nothing_written(name: str) -> None:
    lending, unreadable, writable = [], [], []
    with built.contents(built.tagged(name)) as root:
        for path, status in walk(root):
            mode = status.st_mode
            if path.startswith("/dev/"):  # a container has its own
                continue
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                lending.append(path)
            if path.startswith(("/opt/", "/algorithm", "/usr/bin/versitygw")) and not mode & stat.S_IROTH:
                unreadable.append(path)
            theirs = status.st_uid not in {0} and not path.startswith(("/var/", "/run/", "/etc/", "/home/"))
            if (
                path not in WRITABLE
                and not mode & stat.S_ISVTX
                and ((mode & stat.S_IWOTH and not stat.S_ISLNK(mode)) or theirs)
            ):
                writable.append(path)
    assert (lending, unreadable, writable) == ([], [], [])


def test_no_installer_no_compiler_and_nothing_of_the_builder_is_left(name: str) -> None:
    """What the base brings is the site's choice: only what our layers add is looked at."""
    reference = built.tagged(name)
    secrets = builders_secrets()
    with built.contents(built.base_image().removeprefix("localhost/")) as root:
        base = {path for path, _ in walk(root)}
    found = []
    with built.contents(reference) as root:
        for path, status in walk(root):
            if path in base or not stat.S_ISREG(status.st_mode):
                continue
            leaf = path.rpartition("/")[2]
            if re.fullmatch(
                r"pip\d*|uv|uvx|gcc|cc|strip|ld|apt-get|pip\.conf|uv\.toml|ca\.pem|direct_url\.json|\.git|\.gitconfig|\.git-credentials|\.netrc",
                leaf,
            ):
                found.append(path)
            if (
                re.search(r"/(tests|\.cache|\.venv)/|^/(root|home|build|run|var/cache|var/lib/apt)/", path)
                and status.st_size
            ):
                found.append(path)
            if status.st_size < 4_000_000 and leaf != "METADATA":  # descriptions of packages name their home
                content = (root / path.lstrip("/")).read_bytes()
                found.extend(f"{path} names {secret}" for secret in secrets if secret.encode() in content)
    assert found == []
    environment = " ".join(built.inspect(reference)["config"]["Env"]) + json.dumps(built.inspect(reference)["history"])
    assert [secret for secret in secrets if secret in environment] == []


@pytest.mark.parametrize("name", LARGEST)
def test_an_image_is_no_larger_than_it_may_be(name: str) -> None:
    bytes_unpacked = built.archive(name).stat().st_size
    assert bytes_unpacked < LARGEST[name], f"{name} has {bytes_unpacked / 1e6:.0f} MB unpacked"


@pytest.mark.slow
def test_a_second_build_gives_the_same_files(name: str) -> None:
    reference = built.tagged(name)
    again = f"insitu/{name}:again"
    built.build(name, "again", "--no-cache", dated=date(reference))
    try:
        with built.contents(reference) as one, built.contents(again) as other:
            assert listing(one) == listing(other)
        layers = [built.inspect(tag)["rootfs"]["diff_ids"] for tag in (reference, again)]
        assert layers[0] == layers[1]
    finally:
        built.store("buildah", "rmi", f"localhost/{again}")


def test_a_change_of_code_leaves_the_large_layer_as_it_is(tmp_path: Path) -> None:
    built.archive("platform")
    before = built.inspect(built.tagged("platform"))["rootfs"]["diff_ids"]
    copy = tmp_path / "clone"
    for part in (*built.inputs("platform"), "build/viewer"):
        source = built.ROOT / part
        target = copy / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    (copy / "platform" / "insitu" / "another.py").write_text("VALUE = 1\n")
    dated = {"SOURCE_DATE_EPOCH": date(built.tagged("platform")), "REVISION": "0" * 40}
    variables = built.environment() | {"VERSION": "changed", "BASE_IMAGE": built.base_image()} | dated
    line = [sys.executable, str(copy / "docker" / "build.py"), "--quiet", "platform"]
    outcome = subprocess.run(line, env=variables, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    try:
        after = built.inspect("insitu/platform:changed")["rootfs"]["diff_ids"]
        changed = [index for index, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
        assert len(changed) == 1, f"layers {changed} of {len(before)} changed"
    finally:
        built.store("buildah", "rmi", "localhost/insitu/platform:changed")


def test_the_platform_works_with_a_read_only_root_and_no_rights(images: Images, namespace: Namespace) -> None:
    code, said = namespace.run_pod("work", images["platform"], ["python", "-c", WORK], volumeMounts=HOME)
    assert code == 0, said
    assert said.split() == ["0.1.0", "/opt/insitu/venv/bin/python"]
    code, said = namespace.run_pod("command", images["platform"], ["insitu", "--help"], volumeMounts=HOME)
    assert code == 0, said
    assert "doctor" in said


def test_airflow_works_with_a_read_only_root_and_no_rights(images: Images, namespace: Namespace) -> None:
    command = ["python", "-c", "import insitu_operators.preload, algorithm_run; print(algorithm_run.__name__)"]
    variables = [
        {"name": "PYTHONPATH", "value": "/opt/insitu/dags"},
        {"name": "INSITU_LAUNCHER_FILE", "value": "/nothing"},
    ]
    code, said = namespace.run_pod("dag", images["airflow"], command, volumeMounts=HOME, env=variables)
    assert (code, said.split()[-1:]) == (0, ["algorithm_run"]), said
    code, said = namespace.run_pod("version", images["airflow"], ["airflow", "version"], volumeMounts=HOME)
    assert code == 0, said
    assert re.search(r"^3\.\d+", said, re.MULTILINE), said


def test_the_object_store_works_with_a_read_only_root_and_no_rights(images: Images, namespace: Namespace) -> None:
    code, said = namespace.run_pod("version", images["object-store"], ["/usr/bin/versitygw", "--version"])
    assert code == 0, said
    assert "versitygw" in said.lower() or "Version" in said


@pytest.mark.parametrize("package", ["ct-tissue", "mr-tissue"])
def test_an_algorithm_named_by_digest_starts_with_what_it_imports(
    images: Images, namespace: Namespace, package: str
) -> None:
    program = package.replace("-", "_")
    script = f"import nibabel, numpy, scipy.ndimage, {program}, pathlib; print(pathlib.Path('golden').is_dir())"
    reference = images.by_digest(package)
    assert re.search(r"@sha256:[0-9a-f]{64}$", reference)
    code, said = namespace.run_pod("imports", reference, ["python", "-c", script])
    assert (code, said.split()) == (0, ["True"]), said


def walk(root: Path) -> list[tuple[str, os.stat_result]]:
    """Absolute path inside the image, and status, of all that is in it."""
    found = []
    for folder, folders, files in os.walk(root):
        for leaf in [*folders, *files]:
            path = Path(folder, leaf)
            found.append(("/" + str(path.relative_to(root)), path.lstat()))
    return found


def listing(root: Path) -> dict[str, tuple[int, int, int, str]]:
    """Mode, owner and content per path; no times."""
    lines = {}
    for path, status in walk(root):
        whole = root / path.lstrip("/")
        content = ""
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(whole.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(whole)
        lines[path] = (status.st_mode, status.st_uid, status.st_gid, content)
    return lines


def builders_secrets() -> list[str]:
    """What of this machine must not be in an image: where it gets packages from, its name, the folder of the clone."""
    texts = [
        Path(path).read_text()
        for key, path in built.environment().items()
        if key in {"PIP_CONFIG_FILE", "UV_CONFIG_FILE"}
    ]
    texts += [value for key, value in os.environ.items() if re.search(r"(?i)index|proxy|mirror", key)]
    hosts = {host for text in texts for host in re.findall(r"https?://(?:[^@/\s]*@)?([\w.-]+\.\w+)", text)}
    return sorted({*hosts, str(built.ROOT), str(built.CACHE)})


def date(reference: str) -> str:
    """What the layers of an image are dated with, in seconds since 1970."""
    created = re.sub(r"\.\d+", "", built.inspect(reference)["created"]).replace("Z", "+00:00")
    return str(int(datetime.fromisoformat(created).timestamp()))
