"""`insitu status`: how the platform of a home is, or the one that INSITU_URL names.

Not here: the record that it reads (insitu.processes), and what would keep it from working (doctor).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from insitu import processes
from insitu.errors import Invalid, Unavailable
from insitu.processes import ProcessRecord, State
from insitu.runs import engine_environment
from insitu.settings import Settings, load

app = typer.Typer()

Home = Annotated[Path | None, typer.Option(help="Folder of the installation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def status(home: Home = None, as_json: AsJson = False) -> None:
    """Show the processes, components and addresses of the platform. Exit status 1 where it does not run or cannot store.

    Where INSITU_URL names a platform, in a cluster for example, its components are shown; its processes are not this machine's.
    """
    elsewhere = os.environ.get("INSITU_URL")
    if elsewhere and home is None:
        found = facts_from(elsewhere)
        if as_json:
            typer.echo(json.dumps(found, indent=1))
        else:
            _show_components(found["components"])
        if found["status"] == "away":
            raise typer.Exit(1)
        return
    settings = load(home)
    state = processes.running(settings)
    if state is None:
        raise Unavailable(
            "The platform does not run in this home", value=str(settings.home), remedy="Start it with `insitu up`"
        )
    facts = facts_of(settings, state)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        _show(facts)
    if not facts["ready"] or any(component["state"] == "away" for component in facts["components"].values()):
        raise typer.Exit(1)


def facts_of(settings: Settings, state: State) -> dict[str, Any]:
    """What `insitu status` tells, as plain values."""
    from insitu.health import Health
    from insitu.runs.launch import isolation

    components = Health(settings, settings.database_dsn("cli")).look()
    rows = [_process(record) for record in state.processes]
    return {
        "ready": state.ready_seconds is not None and all(row["ready"] for row in rows),
        "ready_seconds": state.ready_seconds,
        "home": str(settings.home),
        "web": f"http://{state.http}",
        "dicom": state.dicom,
        "ae_title": settings.ae_title,
        "airflow": f"http://{state.airflow_http}",
        "isolation": isolation.probe().kind,
        "versions": {"insitu": metadata.version("insitu"), "airflow": _airflow_version(settings)},
        "supervisor": {"pid": state.pid, "uptime_seconds": round(time.time() - state.started_at)},
        "memory_bytes": sum(row["memory_bytes"] for row in rows) + memory(state.pid, alone=True),
        "processes": rows,
        "components": {name: asdict(component) for name, component in components.items()},
    }


def facts_from(url: str) -> dict[str, Any]:
    """What a platform at a base URL says of its components: `/readyz`, with the URL as `web`.

    Raises
    ------
    Unavailable
        It does not answer, or is no platform.
    """
    import httpx

    remedy = "Look at the address in INSITU_URL, and at the platform's pods or its `insitu up`"
    try:
        answer = httpx.get(f"{url.rstrip('/')}/readyz", timeout=30, trust_env=False)
        found = answer.json()
        return {"web": url, "status": found["status"], "components": dict(found["components"])}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        why = str(error) if isinstance(error, httpx.HTTPError) else "its answer is no list of components"
        raise Unavailable("The platform does not say how it is", value=url, why=why, remedy=remedy) from error


def _process(record: ProcessRecord) -> dict[str, Any]:
    lives = processes.alive(record.pid, record.ticks)
    return {
        "name": record.name,
        "pid": record.pid if lives else None,
        "ready": record.ready and lives,
        "restarts": record.restarts,
        "uptime_seconds": round(time.time() - record.started_at) if lives and record.started_at else None,
        "memory_bytes": memory(record.pid) if lives and record.pid else 0,
    }


def memory(pid: int, *, alone: bool = False) -> int:
    """Proportional set size in bytes of a process and, unless `alone`, its descendants; 0 where it cannot be read."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *([] if alone else process.children(recursive=True))]
    except psutil.Error:
        return 0
    total = 0
    for member in family:
        try:
            total += int(member.memory_full_info().pss)
        except psutil.Error:  # it ended just now, or it is somebody else's
            continue
    return total


def _airflow_version(settings: Settings) -> str | None:
    try:
        return engine_environment.version(engine_environment.python(settings))
    except Invalid:
        return None


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"{'ready' if facts['ready'] else 'not ready'}, for {span(facts['supervisor']['uptime_seconds'])}")
    console.print(f"  web        {facts['web']}")
    console.print(f"  DICOM      {facts['dicom']}, AE title {facts['ae_title']}")
    console.print(f"  home       {facts['home']}")
    isolation = facts["isolation"]
    console.print(
        "  isolation  "
        + ("not isolated: only shipped and trusted algorithms run" if isolation == "none" else f"by {isolation}")
    )
    console.print(f"  versions   Insitu {facts['versions']['insitu']}, Airflow {facts['versions']['airflow']}")
    table = Table(box=None, pad_edge=False)
    for heading in ("process", "state", "pid", "up", "restarts", "memory"):
        table.add_column(heading, justify="left" if heading in ("process", "state") else "right")
    for row in facts["processes"]:
        table.add_row(
            row["name"],
            "ready" if row["ready"] else ("starting" if row["pid"] else "down"),
            str(row["pid"] or ""),
            span(row["uptime_seconds"]) if row["uptime_seconds"] is not None else "",
            str(row["restarts"]),
            f"{row['memory_bytes'] / 1e6:.0f} MB",
        )
    table.add_row("together", "", "", "", "", f"{facts['memory_bytes'] / 1e6:.0f} MB")
    console.print(table)
    console.print()
    _show_components(facts["components"])


def _show_components(components: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("component", "state", ""):
        table.add_column(heading)
    for name, component in components.items():
        table.add_row(name, component["state"], component["says"])
    Console(highlight=False).print(table)


def span(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
