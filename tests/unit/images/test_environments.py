"""What makes an image's environment small and lets it find our code: on an environment of a few files."""

import importlib.util
import struct
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with one package, whose library comes under two names, and its tests."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    package = packages(folder) / "one"
    (package / "tests").mkdir(parents=True)
    (package / "tests" / "test_one.py").write_text("assert True\n")
    (package / "__init__.py").write_text("VALUE = 1\n")
    (package / "__init__.pyi").write_text("VALUE: int\n")
    (folder / ".lock").touch(mode=0o666)
    for name in ("libone.so", "libone.so.1", "libone.so.1.2"):
        (package / name).write_bytes(b"a library")
    return folder


def packages(folder: Path) -> Path:
    """Where an environment keeps packages."""
    return folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"


def test_an_environment_loses_tests_and_copies_and_keeps_its_names(environment: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "docker" / "slim.py"), str(environment)], check=True)
    package = packages(environment) / "one"
    assert not (environment / ".lock").exists(), "everybody could write it"
    assert sorted(path.name for path in package.iterdir()) == [
        "__init__.py", "__pycache__", "libone.so", "libone.so.1", "libone.so.1.2",
    ]  # fmt: skip
    assert (package / "libone.so").is_symlink()
    assert (package / "libone.so").read_bytes() == b"a library"


def test_bytecode_is_used_whatever_time_a_source_has(environment: Path) -> None:
    """Else each start would compile everything again, on a read-only root for nothing."""
    subprocess.run([sys.executable, str(ROOT / "docker" / "slim.py"), str(environment)], check=True)
    source = packages(environment) / "one" / "__init__.py"
    compiled = Path(importlib.util.cache_from_source(str(source)))
    (flags,) = struct.unpack("<I", compiled.read_bytes()[4:8])
    assert flags == 0b01, "hash-based, not checked"


def test_enrolled_code_is_found_with_its_version_and_its_command(environment: Path, tmp_path: Path) -> None:
    root = tmp_path / "code"
    (root / "platform" / "mine").mkdir(parents=True)
    (root / "platform" / "mine" / "__init__.py").write_text("def main():\n    print('mine works')\n")
    (root / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "4.5.6"\nlicense = "Apache-2.0"\n'
        '[project.scripts]\nmine = "mine:main"\nother = "elsewhere:main"\n'
    )
    line = [sys.executable, str(ROOT / "docker" / "enrol.py"), str(root), "--venv", str(environment), "platform"]
    subprocess.run(line, check=True)
    said = subprocess.run([str(environment / "bin" / "mine")], capture_output=True, text=True, check=True).stdout
    assert said == "mine works\n"
    asked = [str(environment / "bin" / "python"), "-c", "import importlib.metadata as m; print(m.version('mine'))"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == "4.5.6\n"
    assert not (environment / "bin" / "other").exists(), "its module is not in this image"
