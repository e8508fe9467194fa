"""Which launcher an installation has: the cluster's where INSITU_LAUNCHER_FILE names its configuration, else this machine's."""

from __future__ import annotations

import os
from pathlib import Path

from .kubernetes.configuration import FILE_VARIABLE, load_configuration
from .specification import Launcher


def launcher_for(jobs: Path) -> Launcher:
    """The launcher of this installation.

    Parameters
    ----------
    jobs : pathlib.Path
        Folder of the jobs, where they are processes of this machine.

    Raises
    ------
    Invalid
        The configuration of the cluster's launcher is wrong.
    """
    file = os.environ.get(FILE_VARIABLE)
    if file:
        from .kubernetes.launcher import KubernetesLauncher

        return KubernetesLauncher(load_configuration(Path(file)))
    from .process import ProcessLauncher

    return ProcessLauncher(jobs)
