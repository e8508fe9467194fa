"""Generated secrets of an installation: one file each, mode 0600, made once and never shown.

Not here: passwords of people (insitu.identity).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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
    """
    file = folder / name
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        text = secrets.token_hex(length)
        write(file, text)
        return text


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
