"""What builds images, with engines that are scripts: which one is taken, and what it is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ANSWERS = """#!/bin/sh
echo "$@" >> "{log}"
case "$1 $2" in
  "images --format") echo "sha256:0123456789ab 12.5 MB sha256:ba9876543210" ;;
  "images --json") echo "[{{}}]" ;;
esac
"""
STUB = "#!/bin/sh\necho 'Cannot connect to the daemon' >&2\nexit 1\n"


def build(folder: Path, engines: dict[str, str], *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run docker/build.py where only the given engines are installed."""
    programs = folder / "bin"
    programs.mkdir()
    for name, script in engines.items():
        (programs / name).write_text(script.format(log=folder / "log"))
        (programs / name).chmod(0o755)
    line = [sys.executable, str(ROOT / "docker" / "build.py"), *arguments]
    environment = {"PATH": f"{programs}:/usr/bin:/bin", **variables}
    for other in ("docker", "podman", "buildah"):
        if other not in engines:
            (programs / other).write_text(STUB)
            (programs / other).chmod(0o755)
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)


def test_an_engine_that_does_not_answer_is_passed_over(tmp_path: Path) -> None:
    """Many machines have a docker client without its server."""
    outcome = build(tmp_path, {"docker": STUB, "buildah": ANSWERS}, "--json", "object-store", REVISION="1" * 40)
    assert outcome.returncode == 0, outcome.stderr
    (image,) = json.loads(outcome.stdout)
    assert (image["id"], image["bytes"]) == ("0123456789ab", 12_500_000)
    assert "build --layers --timestamp" in (tmp_path / "log").read_text()


def test_no_engine_is_one_sentence(tmp_path: Path) -> None:
    outcome = build(tmp_path, {}, "object-store")
    assert outcome.returncode == 1
    assert outcome.stderr.strip().startswith("images: none of docker, podman and buildah is installed and answers")
    assert "Traceback" not in outcome.stderr


def test_what_a_site_sets_reaches_the_engine_and_a_mirror_only_as_a_secret(tmp_path: Path) -> None:
    outcome = build(
        tmp_path,
        {"buildah": ANSWERS},
        "ct-tissue",
        BASE_IMAGE="registry.hospital.example/python:3.11",
        GO_IMAGE="registry.hospital.example/go:1",
        REGISTRY="registry.hospital.example/",
        VERSION="1.2.3",
        PIP_CONFIG_FILE="/etc/mirror.conf",
        REVISION="2" * 40,
    )
    assert outcome.returncode == 0, outcome.stderr
    said = (tmp_path / "log").read_text()
    assert "--tag registry.hospital.example/insitu/ct-tissue:1.2.3 " in said
    assert "--build-arg BASE_IMAGE=registry.hospital.example/python:3.11 " in said
    assert f"--build-arg REVISION={'2' * 40} " in said
    assert "--secret id=pip,src=/etc/mirror.conf " in said
    assert "GO_IMAGE" not in said
    assert "mirror.conf" not in said.replace("--secret id=pip,src=/etc/mirror.conf", "")


def test_a_name_that_is_no_image_says_which_there_are(tmp_path: Path) -> None:
    outcome = build(tmp_path, {"buildah": ANSWERS}, "plattform")
    assert outcome.returncode == 1
    assert "there is no image 'plattform'; there are platform, airflow, object-store, ct-tissue" in outcome.stderr


@pytest.mark.parametrize("dockerfile", sorted(path.relative_to(ROOT) for path in ROOT.glob("*/*/Dockerfile")), ids=str)
def test_a_dockerfile_ends_as_a_numeric_user_with_labels_and_takes_any_base(dockerfile: Path) -> None:
    lines = (ROOT / dockerfile).read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert all(user.replace(":", "").isdigit() and not user.startswith("0") for user in users)
    assert lines[-6].startswith("LABEL org.opencontainers.image.title=")
    for line in lines:
        if line.startswith("FROM "):
            assert line.split()[1] in {"${BASE_IMAGE}", "${GO_IMAGE}", "scratch", "uv"}, line


def test_an_image_is_dated_by_what_it_is_made_from_alone(tmp_path: Path) -> None:
    """Else a change of one image's lock would make new layers of all."""
    outcome = build(tmp_path, {"buildah": ANSWERS}, "airflow", "ct-tissue")
    assert outcome.returncode == 0, outcome.stderr
    parts = {
        "airflow": [
            "requirements/uv.txt",
            "requirements/airflow.txt",
            "docker/airflow",
            "docker/enrol.py",
            "docker/slim.py",
        ],
        "ct-tissue": ["extensions/ct-tissue/Dockerfile", "extensions/ct-tissue/requirements.txt"],
    }
    told = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("build ")]
    for (name, paths), line in zip(parts.items(), told, strict=True):
        log = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct", "--", *paths]
        changed = subprocess.run(log, capture_output=True, text=True, check=True).stdout.strip()
        assert f"--timestamp {changed or '0'} " in line, name
