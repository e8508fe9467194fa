"""The algorithm's output files, taken over without trust: no links followed, regular files only, within limits.

Not here: what they contain (publish, insitu.dicom).
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from insitu.runs.outcomes import Failure

from .report import StepFailed


def take(folder: Path, name: str, target: Path, limit: int) -> Path:
    """Copy an output file to where the algorithm cannot reach it.

    Parameters
    ----------
    folder : pathlib.Path
        The output folder.
    name : str
        File name, without folder.
    target : pathlib.Path
        Folder for the copy.
    limit : int
        Largest size in bytes.

    Returns
    -------
    pathlib.Path
        The copy.

    Raises
    ------
    StepFailed
        The file is missing, is a link or something else than a file, or is larger than the limit.
    """
    try:
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            # Non-blocking, so that a named pipe in its place cannot make this step wait.
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)
        finally:
            os.close(inside)
    except FileNotFoundError as error:
        raise StepFailed(
            Failure.OUTPUT_MISSING, f"The algorithm ended well but did not write its output {name}"
        ) from error
    except OSError as error:
        raise StepFailed(
            Failure.OUTPUT_MALFORMED, f"The output {name} is a link or cannot be opened ({error.strerror})"
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StepFailed(Failure.OUTPUT_MALFORMED, f"The output {name} is not a regular file")
        if status.st_size > limit:
            raise StepFailed(
                Failure.OUTPUT_TOO_LARGE, f"The output {name} has {status.st_size} bytes, the limit is {limit}"
            )
        target.mkdir(parents=True, exist_ok=True)
        copy = target / name
        with os.fdopen(os.dup(descriptor), "rb") as stream, copy.open("wb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)
    finally:
        os.close(descriptor)
    return copy
