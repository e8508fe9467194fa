"""Where the workflow engine is installed on this machine: Airflow's own virtual environment and its version.

Not here: running it (insitu_services.supervisor.airflow) and talking to it (engine).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from insitu.errors import Invalid
from insitu.settings import Settings


def python(settings: Settings) -> Path:
    """Python of Airflow's virtual environment.

    Raises
    ------
    Invalid
        It is not there.
    """
    found = settings.airflow_python or Path(sys.prefix).parent / ".venv-airflow" / "bin" / "python"
    if not os.access(found, os.X_OK):
        raise Invalid(
            "Airflow's virtual environment is not there",
            value=str(found),
            remedy="Install it with `make setup`, or name its Python in INSITU_AIRFLOW_PYTHON",
        )
    return found


def version(python: Path) -> str | None:
    """The installed version of Airflow, read from its files (importing it takes seconds); None where it is not there."""
    found = sorted(python.parent.parent.glob("lib/python*/site-packages/apache_airflow_core-*.dist-info"))
    return found[0].name.removeprefix("apache_airflow_core-").removesuffix(".dist-info") if found else None
