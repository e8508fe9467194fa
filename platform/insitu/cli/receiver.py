"""`insitu receiver restart`: new receiver processes in place of those that run, without an association being lost or refused.

Not here: how the receiver does that (insitu_services.receiver.parent).
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from insitu import processes
from insitu.errors import Unavailable
from insitu.settings import Settings, load

app = typer.Typer(no_args_is_help=True)

SECONDS = 120.0  # until the new processes take what comes
LOOK_EVERY = 0.1  # seconds
LOOK_AT = "Look into the receiver's log"


@app.callback()
def receiver() -> None:
    """The DICOM receiver's processes."""


@app.command()
def restart(
    home: Annotated[Path | None, typer.Option(help="Folder of the installation.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take over a new version or new settings of insitu.yaml: new processes take what comes, open associations go on to their end."""
    settings = load(home)
    pid = replace(settings)
    told = f"Replaced. The earlier processes end with their associations, after {settings.drain_seconds:.0f} s at the latest."
    typer.echo(json.dumps({"pid": pid, "replaced": True}) if as_json else told)


def replace(settings: Settings) -> int:
    """Ask the receiver of a running platform to replace its processes, and wait until it has; its process number.

    Raises
    ------
    Unavailable
        It does not run, does not take the new settings, or does not get there in time.
    """
    state = processes.running(settings)
    record = next((each for each in state.processes if each.name == "receiver"), None) if state else None
    if record is None or record.pid is None or not processes.alive(record.pid, record.ticks):
        raise Unavailable(
            "The receiver does not run in this home", value=str(settings.home), remedy="Start it with `insitu up`"
        )
    log = settings.logs / "receiver.log"
    begin = log.stat().st_size
    os.kill(record.pid, signal.SIGHUP)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for message in _messages(log, begin):
            if message == "replaced":
                return record.pid
            if message.startswith("the receiver is not replaced"):
                raise Unavailable(
                    "The receiver goes on as before", why=message.partition(": ")[2], remedy="Correct insitu.yaml"
                )
        if not processes.alive(record.pid, record.ticks):
            raise Unavailable("The receiver ended", value=str(record.pid), remedy=LOOK_AT)
        time.sleep(LOOK_EVERY)
    raise Unavailable("The receiver's processes were not replaced in time", value=f"{SECONDS:.0f} s", remedy=LOOK_AT)


def _messages(log: Path, begin: int) -> Iterator[str]:
    """What the log says after `begin`, or from its start where it was turned over meanwhile."""
    with log.open("rb") as stream:
        stream.seek(begin if log.stat().st_size >= begin else 0)
        for line in stream:
            try:
                yield str(json.loads(line)["message"])
            except (ValueError, KeyError, TypeError):
                continue  # another program's line, or one that is being written
