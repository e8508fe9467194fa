"""Generated secrets of an installation: one file each, mode 0600, made once and never shown. In a cluster they are given.

Not here: passwords of people (insitu.identity).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from insitu.errors import Invalid


def secret(folder: Path, name: str, *, length: int = 32) -> str:
    """The secret `name`, made now where it is not there yet.

    Parameters
    ----------
    folder : Path
        `Settings.secrets`.
    name : str
        File name.
    length : int
        Random bytes; the text is hexadecimal, so that it needs no escape in a connection string or an ini file.

    Raises
    ------
    Invalid
        It is not there, and the folder cannot be written.
    """
    file = folder / name
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        text = secrets.token_hex(length)
        try:
            write(file, text)
        except OSError as error:
            raise Invalid(
                "A secret is missing and cannot be made here", value=str(file), why=str(error.strerror),
                remedy="Put it there; where the folder is a Secret of a cluster, add it as a key",
            ) from error  # fmt: skip
        return text


def given(folder: Path, name: str) -> str | None:
    """The secret `name`; None where it is not there. None is ever made."""
    try:
        return (folder / name).read_text().strip()
    except FileNotFoundError:
        return None


def write(file: Path, text: str) -> None:
    """Write a file that only its owner may read; whole or not at all."""
    partial = file.with_name(f"{file.name}.part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(file)
