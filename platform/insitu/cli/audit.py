"""`insitu audit list|verify`, over the API of the running platform."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .client import call

app = typer.Typer(help="Read and verify the audit trail.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_events(
    actor: Annotated[str | None, typer.Option(help="Who did it.")] = None,
    action: Annotated[str | None, typer.Option(help="What was done: login, view, run, rule-change, ...")] = None,
    kind: Annotated[str | None, typer.Option(help="Kind of thing: study, series, run, account, ...")] = None,
    resource: Annotated[str | None, typer.Option(help="UID or name of the thing.")] = None,
    project: Annotated[str | None, typer.Option(help="Project it happened in.")] = None,
    patient: Annotated[str | None, typer.Option(help="Patient ID: about this patient's images.")] = None,
    since: Annotated[datetime | None, typer.Option(help="From this time on (of this machine's zone).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List events, the newest first."""
    query = {
        "actor": actor, "action": action, "kind": kind, "resource": resource, "project": project, "patient": patient,
        "since": since.astimezone().isoformat() if since else None,
        "until": until.astimezone().isoformat() if until else None,
        "limit": str(limit),
    }  # fmt: skip
    events = call("GET", "/api/v1/audit", params={name: value for name, value in query.items() if value is not None})
    if as_json:
        typer.echo(json.dumps(events["events"]))
        return
    table = Table("at", "who", "what", "kind", "resource", "project", "outcome")
    for item in events["events"]:
        table.add_row(
            item["at"][:19], item["actor"], item["action"], item["kind"], item["resource"], item["project"] or "",
            item["outcome"],
        )  # fmt: skip
    Console().print(table)


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Check that no event was changed, removed or put in. Exit status 1 where one was."""
    answer = call("GET", "/api/v1/audit/verification", timeout=3600)
    if as_json:
        typer.echo(json.dumps(answer))
    elif answer["ok"]:
        typer.echo(f"The audit trail is whole: {answer['sequence']} events are sealed, {answer['waiting']} wait.")
    else:
        typer.echo(f"The audit trail is NOT whole: {answer['reason']}.", err=True)
    if not answer["ok"]:
        raise typer.Exit(1)
