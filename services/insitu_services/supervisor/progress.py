"""How far the bootstrap is, as it notes it for the supervisor (`supervisor/bootstrap.json` in the home)."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from insitu.settings import Settings
from insitu_services.prepare import secrets


class Progress(BaseModel):
    """The note: `prepared` once the processes may start; `failed` names packages that could not be installed, and why."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    prepared: bool = False
    failed: dict[str, str] = {}

    def save(self, settings: Settings) -> None:
        """Write it down."""
        secrets.write(_file(settings), self.model_dump_json())


def read(settings: Settings) -> Progress:
    """The note; an empty one where there is none."""
    try:
        return Progress.model_validate_json(_file(settings).read_bytes())
    except (FileNotFoundError, ValidationError):
        return Progress()


def forget(settings: Settings) -> None:
    """Remove the note of an earlier start."""
    _file(settings).unlink(missing_ok=True)


def _file(settings: Settings) -> Path:
    return settings.home / "supervisor" / "bootstrap.json"
