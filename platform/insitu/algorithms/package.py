"""An algorithm package as files: its digest, a checked copy, and the Python environment built from its lock.

    algorithm.yaml   requirements.txt (with hashes)   the code   golden/...

Not here: the manifest's fields (manifest), which packages are installed (registry).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from insitu.errors import Invalid, Unavailable
from insitu.settings import Settings

from . import manifest as manifests
from .manifest import FILE_NAME, Manifest

LARGEST_PACKAGE = 4_000_000_000  # bytes
MOST_FILES = 20_000
COMPLETE = ".insitu-complete"  # stands in an environment that was built to its end
BUILD_SECONDS = 1800.0


def files(package: Path) -> list[Path]:
    """The files that belong to a package, relative, in order; hidden ones and compiled Python do not belong to it.

    Raises
    ------
    Invalid
        There is a link or a special file, or too much.
    """
    found: list[Path] = []
    size = 0
    for path in _walk(package):
        if path.is_symlink() or not path.is_file():
            raise Invalid(
                "A package may hold regular files only",
                value=str(path.relative_to(package)),
                why="it is a link or a device",
            )
        found.append(path.relative_to(package))
        size += path.stat().st_size
        if len(found) > MOST_FILES or size > LARGEST_PACKAGE:
            raise Invalid(
                "The package is too large",
                value=str(package),
                why=f"{MOST_FILES} files, {LARGEST_PACKAGE} bytes at most",
            )
    return sorted(found, key=lambda path: path.as_posix())


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "__pycache__" or entry.suffix == ".pyc":
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        else:
            yield entry


def digest(package: Path) -> str:
    """`sha256:...` over names, executability and content of the package's files in order; equal on every machine."""
    total = hashlib.sha256(b"insitu package 1\0")
    for path in files(package):
        with (package / path).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
            executable = os.fstat(stream.fileno()).st_mode & 0o100
        name = path.as_posix().encode()
        total.update(len(name).to_bytes(4, "big") + name + (b"x" if executable else b"-") + content)
    return f"sha256:{total.hexdigest()}"


def check(package: Path) -> Manifest:
    """The manifest of a package whose files are all there.

    Raises
    ------
    Invalid
        The manifest has mistakes or names files that are missing; every one is listed.
    """
    manifest = manifests.read(package)
    wanted = {"environment.lock": manifest.environment.lock}
    if manifest.golden is not None:
        wanted |= {f"golden.inputs.{name}": path for name, path in manifest.golden.inputs.items()}
        wanted |= {f"golden.segmentations.{name}": path for name, path in manifest.golden.segmentations.items()}
        if manifest.golden.measurements is not None:
            wanted["golden.measurements"] = manifest.golden.measurements
    present = {path.as_posix() for path in files(package)}
    missing = [f"{where}: {path} is not in the package" for where, path in wanted.items() if path not in present]
    for part in manifest.entrypoint:
        is_script = part.endswith((".py", ".sh")) or part.startswith("./")
        if is_script and not part.startswith("/") and PurePosixPath(part).as_posix() not in present:
            missing.append(f"entrypoint: {part} is not in the package")
    if missing:
        raise Invalid(f"The package {manifest.name} is not complete", value=str(package), why="; ".join(missing))
    return manifest


def copy(package: Path, target: Path) -> None:
    """Copy the files of a package to `target`, which appears complete or not at all."""
    if target.is_dir():
        return
    partial = target.with_name(f"{target.name}.part-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    for path in files(package):
        place = partial / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / path, place)
        place.chmod(0o755 if (package / path).stat().st_mode & 0o100 else 0o644)
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # somebody else installed the same one meanwhile
            raise
        shutil.rmtree(partial, ignore_errors=True)


def pack(package: Path, stream: IO[bytes]) -> None:
    """Write a package as a tar archive, for the way to the platform."""
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in files(package):
            archive.add(package / path, arcname=path.as_posix(), recursive=False)


def unpack(stream: IO[bytes], target: Path) -> None:
    """Read a package from a tar archive, taking regular files inside of it only.

    Raises
    ------
    Invalid
        It is no tar archive, holds something else than plain files below its root, or is too large.
    """
    size = count = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:*") as archive:
            for member in archive:
                if member.isdir():
                    continue
                name = PurePosixPath(member.name)
                if not member.isfile() or name.is_absolute() or ".." in name.parts:
                    raise Invalid("The package archive holds something else than plain files", value=member.name)
                size, count = size + member.size, count + 1
                if size > LARGEST_PACKAGE or count > MOST_FILES:
                    raise Invalid(
                        "The package is too large", why=f"{MOST_FILES} files, {LARGEST_PACKAGE} bytes at most"
                    )
                content = archive.extractfile(member)
                if content is None:
                    raise Invalid("The package archive cannot be read", value=member.name)
                place = target / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("wb") as out:
                    shutil.copyfileobj(content, out, 1 << 20)
                place.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Invalid("The package archive cannot be read", why=f"{type(error).__name__}: {error}") from error
    if not (target / FILE_NAME).is_file():
        raise Invalid("The package archive has no manifest", why=f"{FILE_NAME} must lie at its root")


def base_python() -> Path:
    """The Python that environments are made from: the one below the platform's own environment."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


def environment_folder(settings: Settings, package: Path, manifest: Manifest) -> Path:
    """Folder of the virtual environment of a package; packages with the same lock share one."""
    key = hashlib.sha256((package / manifest.environment.lock).read_bytes())
    key.update(f"\0{base_python()}\0{sys.version}\0{os.uname().machine}".encode())
    return settings.environments / key.hexdigest()[:32]


def ensure_environment(settings: Settings, package: Path, manifest: Manifest) -> Path:
    """Build the virtual environment of a package unless it is there, and return its folder.

    Only wheels are taken: building from source would run the package's code outside of the isolation.

    Raises
    ------
    Unavailable
        `uv` is missing.
    Invalid
        The lock cannot be installed: a hash is missing or wrong, a package is not to be had.
    """
    folder = environment_folder(settings, package, manifest)
    if (folder / COMPLETE).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            _build(folder, package / manifest.environment.lock, f"{manifest.name} {manifest.version}")
            (folder / COMPLETE).touch()
    return folder


def _build(folder: Path, lock: Path, name: str) -> None:
    uv = find_uv()
    steps = [[*uv, "venv", "--no-config", "--no-python-downloads", "--python", str(base_python()), str(folder)]]
    if any(line.strip() and not line.lstrip().startswith("#") for line in lock.read_text().splitlines()):
        steps.append(
            [*uv, "pip", "install", "--python", str(folder / "bin" / "python"), "--require-hashes",
             "--only-binary", ":all:", "--compile-bytecode", "-r", str(lock)]
        )  # fmt: skip
    for step in steps:
        try:
            done = subprocess.run(
                step, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False,
                cwd=lock.parent, env={**os.environ, "UV_NO_PROGRESS": "1"},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"The environment of {name} could not be built", why=str(error)) from error
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise Invalid(
                f"The environment of {name} could not be built",
                value=lock.name,
                why=" ".join(done.stderr.split())[-600:],
                remedy="The lock must list every package with hashes, as `uv pip compile --generate-hashes` writes it",
            )


def find_uv() -> list[str]:
    """Command line of `uv`: on the PATH, where `make` puts it, or as a module of this Python.

    Raises
    ------
    Unavailable
        It is nowhere.
    """
    found = shutil.which("uv")
    if found:
        return [found]
    beside = Path(sys.prefix).parent / "build" / "uv" / "bin" / "uv"
    if beside.exists():
        return [str(beside)]
    done = subprocess.run([sys.executable, "-m", "uv", "--version"], capture_output=True, check=False)
    if done.returncode == 0:
        return [sys.executable, "-m", "uv"]
    raise Unavailable(
        "The environment of an algorithm cannot be built",
        why="uv is not installed",
        remedy="Install it: python3 -m pip install uv",
    )
