"""`insitu transfer send|list|show|retry|cancel`, over the API of the running platform.

Not here: sending files without the archive (send).
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from insitu.errors import Invalid

from .client import call

app = typer.Typer(help="Send studies and series to other nodes, with retries.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def send(
    to: Annotated[str, typer.Option(help="Name of a node; see `insitu node list`.")],
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option(help="Series Instance UID.")] = None,
    way: Annotated[
        str | None, typer.Option(help="dimse or stow; by default DIMSE where the node has an address.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Queue a study or series for a node."""
    if (study is None) == (series is None):
        raise Invalid("Name either --study or --series")
    body = {"to": to, "study": study, "series": series, "way": way}
    made = call("POST", "/api/v1/transfers", json={key: value for key, value in body.items() if value is not None})
    if as_json:
        typer.echo(json.dumps(made))
    else:
        typer.echo(f"Queued {made['waiting']} objects. Look: insitu transfer show {made['id']}")


@app.command("list")
def list_transfers(
    state: Annotated[str | None, typer.Option(help="queued, done, failed or cancelled.")] = None,
    node: Annotated[str | None, typer.Option(help="Only those to this node.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List transfers, the newest first."""
    query: dict[str, Any] = {"state": state, "node": node, "limit": limit}
    found = call("GET", "/api/v1/transfers", params={key: value for key, value in query.items() if value is not None})
    if as_json:
        typer.echo(json.dumps(found["transfers"]))
        return
    table = Table("id", "to", "state", "sent", "waiting", "failed", "asked by", "reason")
    for item in found["transfers"]:
        table.add_row(
            item["id"], item["node"], "sending" if item["active"] else item["state"],
            str(item["sent"] + item["warning"]), str(item["waiting"]), str(item["failed"]),
            item["rule"] or item["requested_by"], item["reason"] or "",
        )  # fmt: skip
    Console().print(table)


@app.command()
def show(transfer: str, as_json: AsJson = False) -> None:
    """Show a transfer and what became of each object."""
    found = call("GET", f"/api/v1/transfers/{transfer}")
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(
        f"{found['study_instance_uid']} to {found['node']}: {found['state']}, {found['sent'] + found['warning']} sent,"
        f" {found['waiting']} waiting, {found['failed']} failed" + (f". {found['reason']}" if found["reason"] else "")
    )
    table = Table("SOP Instance UID", "state", "status", "attempts", "meaning", "next attempt")
    for item in found["objects"]:
        table.add_row(
            item["sop_instance_uid"], item["state"], item["status"] or "", str(item["attempts"]), item["sentence"] or "",
            (item["next_attempt"] or "")[:19] if item["attempts"] else "",
        )  # fmt: skip
    Console().print(table)


@app.command()
def retry(transfer: str, as_json: AsJson = False) -> None:
    """Try failed and cancelled objects again, and waiting ones now."""
    answer = call("POST", f"/api/v1/transfers/{transfer}/retry")
    typer.echo(json.dumps(answer) if as_json else f"{answer['waiting']} objects wait to be sent.")


@app.command()
def cancel(transfer: str, as_json: AsJson = False) -> None:
    """Send no further object of a transfer."""
    answer = call("POST", f"/api/v1/transfers/{transfer}/cancel")
    typer.echo(json.dumps(answer) if as_json else f"Cancelled; {answer['cancelled']} objects were not sent.")
