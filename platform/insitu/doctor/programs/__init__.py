"""Programs that the doctor runs in pods of its own, as the text of `python -c`: they need nothing but their image's packages.

Each takes what it is to do from the environment variable ASKED and prints one line of JSON. Not here: what the answers mean.
"""

from __future__ import annotations

from pathlib import Path


def text(name: str) -> str:
    """The source of a program."""
    return Path(__file__).with_name(f"{name}.py").read_text()
