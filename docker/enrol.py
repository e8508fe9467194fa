"""Make code that lies in a folder known to a virtual environment: `enrol.py ROOT --venv VENV PART...`.

Writes into VENV what an editable install of pyproject.toml would (paths, metadata, the command), and nothing else, so that the large layer
of dependencies and the small one of our code stay apart: no package is built, nothing is fetched. Compiles the code. Standard library only.
"""

from __future__ import annotations

import argparse
import compileall
import shutil
import sys
import tomllib
from pathlib import Path
from py_compile import PycInvalidationMode

COMMAND = """#!{python}
import sys

from {module} import {function}

sys.exit({function}())
"""


def main() -> None:
    """Enrol one root."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("parts", nargs="+", help="folders of the root that are put on the path")
    given = parser.parse_args()
    root, venv = given.root, given.venv
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    for cache in list(root.rglob("__pycache__")):
        shutil.rmtree(cache)
    packages = venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "_insitu.pth").write_text("".join(f"{root / part}\n" for part in given.parts))
    information = packages / f"{project['name']}-{project['version']}.dist-info"
    information.mkdir(exist_ok=True)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\nLicense-Expression: {project['license']}\n"
    )
    (information / "INSTALLER").write_text("docker/enrol.py\n")
    (venv / "bin").mkdir(parents=True, exist_ok=True)
    for name, target in project["scripts"].items():
        module, function = target.split(":")
        if not any((root / part / module.split(".")[0]).is_dir() for part in given.parts):
            continue
        command = venv / "bin" / name
        command.write_text(COMMAND.format(python=venv / "bin" / "python", module=module, function=function))
        command.chmod(0o755)
    for part in given.parts:
        compileall.compile_dir(root / part, quiet=2, workers=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    main()
