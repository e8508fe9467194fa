"""Take out of a virtual environment what a running service never reads, and compile the rest: `slim.py VENV`.

Not here: installing. Uses the interpreter that will run the environment, its standard library, and `strip`. The result is the same for the
same packages: bytecode is bound to the content of its source, not to the time of a file.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from py_compile import PycInvalidationMode

# Packages whose folders of this name are their own tests and data of tests; what imports one of them is no running service.
TESTS = {"tests", "test", "SelfTest"}
TAG = str(sysconfig.get_config_var("SOABI"))
# What compilers need, and what an editor needs.
SUFFIXES = {".pyi", ".pyx", ".pxd", ".h", ".hpp", ".c", ".cpp", ".a", ".lib"}


def remove_unused(packages: Path) -> None:
    """Remove tests, sources of compiled modules and bytecode of other interpreters."""
    for folder in sorted((path for path in packages.rglob("*") if path.is_dir()), reverse=True):
        if folder.name == "__pycache__" or (folder.name in TESTS and folder.parent != packages):
            shutil.rmtree(folder)
    for path in packages.rglob("*"):
        if path.is_file() and path.suffix in SUFFIXES:
            path.unlink()


def link_duplicates(packages: Path) -> None:
    """Keep equal files of one folder once, under the longest name: wheels cannot hold links, so that libraries come once per name."""
    for folder in sorted({path.parent for path in packages.rglob("*.so*")}):
        kept: dict[str, Path] = {}
        for path in sorted(folder.glob("*.so*"), key=lambda path: (-len(path.name), path.name)):
            if path.is_symlink() or not path.is_file():
                continue
            same = kept.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
            if same != path:
                path.unlink()
                path.symlink_to(same.name)


def strip_symbols(packages: Path) -> None:
    """Take the symbols for debuggers out of extension modules; bundled libraries, which repair tools have changed, stay as they are."""
    modules = [
        path
        for path in packages.rglob("*.so")
        if path.suffixes[-2:-1] in ([".abi3"], [f".{TAG}"]) and not path.is_symlink()
    ]
    for path in sorted(modules):
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)


def shorten_tables(packages: Path) -> None:
    """Write large tables without their indentation."""
    for path in packages.rglob("*.json"):
        if path.stat().st_size > 1_000_000:
            content = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def main() -> None:
    """Reduce and compile one environment."""
    environment = Path(sys.argv[1])
    (packages,) = environment.glob("lib/python3.*/site-packages")
    for name in (".lock", ".gitignore"):  # of the installer; everybody may write the first
        (environment / name).unlink(missing_ok=True)
    remove_unused(packages)
    link_duplicates(packages)
    strip_symbols(packages)
    shorten_tables(packages)
    compileall.compile_dir(packages, quiet=2, workers=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    main()
