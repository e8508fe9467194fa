"""`insitu conflict ...`: other objects under known SOP Instance UIDs: list, inspect, decide. Through the API of the running platform."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .archive import AsJson
from .client import call

app = typer.Typer(no_args_is_help=True)
Conflict = Annotated[str, typer.Argument(help="As `insitu conflict list` shows it.")]
Reason = Annotated[str, typer.Option(help="Why, at least 3 characters; it stands in the audit trail. No patient data.")]


@app.callback()
def _conflict() -> None:
    """Other objects under known SOP Instance UIDs."""


@app.command("list")
def list_conflicts(limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100, as_json: AsJson = False) -> None:
    """List them, the newest first."""
    rows = call("GET", "/api/v1/conflicts", params={"limit": limit})["conflicts"]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("There are no conflicts.")
        return
    table = Table("conflict", "at", "from", "instance")
    for row in rows:
        sender = row["calling_ae"] or row["principal"] or row["channel"]
        table.add_row(row["id"], row["at"][:19], sender, row["sop_instance_uid"])
    Console().print(table)


@app.command("inspect")
def inspect(conflict: Conflict, as_json: AsJson = False) -> None:
    """Show one, with the attributes that differ; not their values."""
    answer = call("GET", f"/api/v1/conflicts/{conflict}")
    if as_json:
        typer.echo(json.dumps(answer))
        return
    differences = answer.pop("differences")
    for name, value in answer.items():
        if value is not None:
            typer.echo(f"{name:28} {value}")
    for item in differences:
        typer.echo(f"({item['tag'][:4]},{item['tag'][4:]}) {item['keyword'] or 'private':40} {item['change']}")


@app.command("keep")
def keep(conflict: Conflict, reason: Reason, as_json: AsJson = False) -> None:
    """The first object stays what counts; the second goes for good."""
    _resolve(conflict, "keep", reason, as_json)


@app.command("replace")
def replace(conflict: Conflict, reason: Reason, as_json: AsJson = False) -> None:
    """The second object counts from now on; the first goes for good."""
    _resolve(conflict, "replace", reason, as_json)


def _resolve(conflict: str, resolution: str, reason: str, as_json: bool) -> None:
    answer = call("POST", f"/api/v1/conflicts/{conflict}/resolve", json={"resolution": resolution, "reason": reason})
    typer.echo(json.dumps(answer) if as_json else "Decided.")
