"""The admin's generated password: kept in a file until it was shown, so that a crash in between does not lose it."""

from __future__ import annotations

from pathlib import Path

from insitu.settings import Settings
from insitu_services.prepare import secrets
from insitu_services.prepare.people import ADMIN

__all__ = ["ADMIN", "file", "keep", "shown", "waiting"]


def file(settings: Settings) -> Path:
    """Where it waits to be shown."""
    return settings.secrets / "first-password"


def keep(settings: Settings, password: str) -> None:
    """Keep it until it was shown."""
    secrets.write(file(settings), password)


def waiting(settings: Settings) -> str | None:
    """The password, where it was not shown yet."""
    try:
        return file(settings).read_text()
    except FileNotFoundError:
        return None


def shown(settings: Settings) -> None:
    """Forget it."""
    file(settings).unlink(missing_ok=True)
