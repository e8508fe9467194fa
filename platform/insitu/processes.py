"""The processes of a running platform as the supervisor records them (`supervisor/state.json` in the home).

Not here: starting and ending them (insitu_services.supervisor) and showing them (insitu.cli.status).
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from insitu.settings import Settings

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ProcessRecord(BaseModel):
    """One supervised process. It leads a session of its own, whose number is its pid."""

    model_config = ConfigDict(extra="forbid")

    name: str
    pid: int | None = None
    ticks: int | None = None  # start time in clock ticks since boot: tells it from a later process of the same number
    started_at: float | None = None  # seconds since the epoch
    restarts: int = 0
    ready: bool = False


class State(BaseModel):
    """What the supervisor tells others about the platform."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    boot: str
    pid: int
    ticks: int
    started_at: float
    ready_seconds: float | None = None  # from the start until everything was ready; None before
    http: str
    dicom: str
    airflow_http: str
    processes: list[ProcessRecord] = []


def state_file(settings: Settings) -> Path:
    """Where the state of this installation is recorded."""
    return settings.home / "supervisor" / "state.json"


def boot() -> str:
    """Identifier of the machine's present boot; process numbers mean nothing in another one."""
    return BOOT_ID.read_text().strip()


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (proc(5), field 22); None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def alive(pid: int | None, ticks: int | None) -> bool:
    """Whether the very process of that number and start time lives."""
    return pid is not None and ticks is not None and start_ticks(pid) == ticks


def read(settings: Settings) -> State | None:
    """The recorded state; None where there is none, or one that this version cannot read."""
    try:
        return State.model_validate_json(state_file(settings).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def running(settings: Settings) -> State | None:
    """The recorded state if the supervisor that wrote it lives."""
    state = read(settings)
    if state is None or state.boot != boot() or not alive(state.pid, state.ticks):
        return None
    return state


def members(session: int) -> list[int]:
    """Processes of a session that are alive (zombies are not)."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        pid = int(entry)
        try:
            if os.getsid(pid) == session and start_ticks(pid) is not None:
                found.append(pid)
        except ProcessLookupError:
            continue
    return found
