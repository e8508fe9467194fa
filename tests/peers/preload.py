"""Small C libraries for LD_PRELOAD, built once with the system's compiler and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def library(source: Path) -> Path:
    """The shared library of a C file; built where it is not there yet.

    Raises
    ------
    FileNotFoundError
        There is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("a C compiler (Debian: gcc) is needed to build " + source.name)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "insitu-tests"
    folder.mkdir(parents=True, exist_ok=True)
    built = folder / f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    if not built.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch, "library.so")
            subprocess.run(
                [compiler, "-O2", "-shared", "-fPIC", "-Wall", "-o", made, source, "-ldl", "-lpthread"], check=True
            )
            made.replace(built)  # at once, also where two test runs build it
    return built


LOOPBACK = Path(__file__).with_name("loopback.c")
