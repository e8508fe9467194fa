"""Build the images: `python3 docker/build.py [NAME...]`, or `make images`.

With docker, podman or buildah, whichever answers. What differs between sites is given by the environment (docs/images.md):
BASE_IMAGE, GO_IMAGE, REGISTRY, VERSION, SOURCE, ENGINE, and for builds behind a private mirror PIP_CONFIG_FILE, UV_CONFIG_FILE, CA_FILE.

Not here: pushing, or what an image contains (the Dockerfiles). Standard library only, so that nothing has to be installed first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("docker", "podman", "buildah")
# What an image's large layers are made from, which dates its files: not the last commit, so that they are the same in every version with
# the same locks, and nothing of another image, so that layers of an earlier build with the same content have the same dates.
DATED_BY = {
    "platform": (
        *(f"requirements/{name}.txt" for name in ("uv", "platform")),
        "docker/platform",
        "docker/enrol.py",
        "docker/slim.py",
    ),
    "airflow": (
        *(f"requirements/{name}.txt" for name in ("uv", "airflow")),
        "docker/airflow",
        "docker/enrol.py",
        "docker/slim.py",
    ),
    "object-store": ("docker/object-store",),
}
SECRETS = {"pip": "PIP_CONFIG_FILE", "uv": "UV_CONFIG_FILE", "ca": "CA_FILE"}


@dataclass(frozen=True)
class Image:
    """One image that was built: its name, its identity in the local store, its layers' size in bytes."""

    name: str
    id: str
    bytes: int


def fail(message: str) -> NoReturn:
    """End with one sentence."""
    raise SystemExit(f"images: {message}")


def sources() -> dict[str, tuple[Path, Path]]:
    """Dockerfile and build context per image."""
    found = {
        name: (ROOT / "docker" / name / "Dockerfile", ROOT if name != "object-store" else ROOT / "docker" / name)
        for name in ("platform", "airflow", "object-store")
    }
    for dockerfile in sorted(ROOT.glob("extensions/*/Dockerfile")):
        found[dockerfile.parent.name] = (dockerfile, dockerfile.parent)
    return found


def engine() -> str:
    """The program that builds: named by ENGINE, or the first that is there and answers."""
    named = os.environ.get("ENGINE")
    for candidate in [named] if named else ENGINES:
        if shutil.which(candidate) and answers(candidate):
            return candidate
    if named:
        fail(f"ENGINE={named} is not installed or does not answer (tried `{' '.join(question(named))}`)")
    fail("none of docker, podman and buildah is installed and answers; install one (Debian: `apt-get install buildah`)")


def question(candidate: str) -> list[str]:
    """What only a working engine answers: a client without its server does not."""
    return [candidate, "images", "-q"]


def answers(candidate: str) -> bool:
    """Whether an engine works here."""
    try:
        outcome = subprocess.run(question(candidate), capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return outcome.returncode == 0


def git(*arguments: str) -> str:
    """Git's answer; empty in a source archive without its history."""
    outcome = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return outcome.stdout.strip() if outcome.returncode == 0 else ""


def revision() -> str:
    """The commit, with `-modified` where what is built is not what was committed."""
    commit = os.environ.get("REVISION") or git("rev-parse", "HEAD") or "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}-modified" if changed and "REVISION" not in os.environ else commit


def version() -> str:
    """VERSION of the environment, or the project's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return os.environ.get("VERSION") or str(project["version"])


def epoch(name: str) -> str:
    """Seconds since 1970 that date an image's layers: SOURCE_DATE_EPOCH, or the last change of what the large ones are made from."""
    package = (f"extensions/{name}/Dockerfile", f"extensions/{name}/requirements.txt")
    changed = git("log", "-1", "--format=%ct", "--", *DATED_BY.get(name, package))
    return os.environ.get("SOURCE_DATE_EPOCH") or changed or "0"


def reference(name: str) -> str:
    """Name and tag of an image."""
    registry = os.environ.get("REGISTRY", "").rstrip("/")
    return f"{registry}/insitu/{name}:{version()}" if registry else f"insitu/{name}:{version()}"


def command(program: str, name: str) -> list[str]:
    """The command line that builds one image."""
    dockerfile, context = sources()[name]
    line = {
        "docker": ["docker", "buildx", "build", "--output", "type=docker,rewrite-timestamp=true"],
        "podman": ["podman", "build", "--layers", "--timestamp", epoch(name)],
        "buildah": ["buildah", "build", "--layers", "--timestamp", epoch(name)],
    }[program]
    line = [*line, "--network", "host", "--file", str(dockerfile), "--tag", reference(name)]
    arguments = {"VERSION": version(), "REVISION": revision(), "SOURCE": os.environ.get("SOURCE", "")}
    for argument in ("BASE_IMAGE", "GO_IMAGE"):
        if os.environ.get(argument) and f"ARG {argument}" in dockerfile.read_text(encoding="utf-8"):
            arguments[argument] = os.environ[argument]
    for argument, value in arguments.items():
        line += ["--build-arg", f"{argument}={value}"]
    # Once more as text: buildah takes a label whose variable has another value now from the layers of an earlier build.
    for label in ("version", "revision", "source"):
        line += ["--label", f"org.opencontainers.image.{label}={arguments[label.upper()]}"]
    for secret, variable in SECRETS.items():
        if os.environ.get(variable):
            line += ["--secret", f"id={secret},src={os.environ[variable]}"]
    return [*line, *os.environ.get("BUILD_ARGUMENTS", "").split(), str(context)]


def build(program: str, name: str, quiet: bool) -> Image:
    """Build one image and look at it."""
    if name == "platform" and not (ROOT / "build" / "viewer" / "index.html").exists():
        fail("the image viewer is not there yet, and the platform's image carries it: `make viewer`")
    outcome = subprocess.run(
        command(program, name),
        env=os.environ | {"SOURCE_DATE_EPOCH": epoch(name)},
        stdout=subprocess.PIPE if quiet else sys.stderr,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )
    if outcome.returncode != 0:
        if quiet:
            print(outcome.stdout[-6000:], file=sys.stderr)
        fail(f"{program} could not build {reference(name)} (exit code {outcome.returncode}); what it said stands above")
    return look(program, name)


def look(program: str, name: str) -> Image:
    """Identity and size of a built image."""
    line = {
        "docker": ["docker", "image", "inspect", reference(name)],
        "podman": ["podman", "image", "inspect", reference(name)],
        "buildah": ["buildah", "images", "--json", reference(name)],
    }[program]
    (found, *_) = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    if program != "buildah":
        return Image(reference(name), str(found["Id"]).removeprefix("sha256:"), int(found["Size"]))
    detail = subprocess.run(
        ["buildah", "images", "--format", "{{.ID}} {{.Size}} {{.Digest}}", "--no-trunc", reference(name)],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    number, unit = detail[1:3]
    factor = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[unit.upper()]
    return Image(reference(name), detail[0].removeprefix("sha256:"), int(float(number) * factor))


def main(arguments: Sequence[str] | None = None) -> None:
    """Build what is named, or all."""
    parser = argparse.ArgumentParser(description="Build the images of Insitu.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(sources())}; all without")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="print what the engine says only if it fails")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.names) - set(sources()))
    if unknown:
        fail(f"there is no image {unknown[0]!r}; there are {', '.join(sources())}")
    program = engine()
    images = [build(program, name, given.quiet) for name in given.names or sources()]
    if given.json:
        print(json.dumps([asdict(image) for image in images], indent=2))
        return
    width = max(len(image.name) for image in images)
    for image in images:
        print(f"{image.name:<{width}}  {image.id[:12]}  {image.bytes / 10**6:6.0f} MB")


if __name__ == "__main__":
    main()
