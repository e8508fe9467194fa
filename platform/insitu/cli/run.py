"""`insitu run start|list|show|log|cancel`, over the API of the running platform."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from insitu.errors import Invalid

from .client import call

app = typer.Typer(help="Runs of algorithms.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def start(
    algorithm: Annotated[str | None, typer.Argument(help="NAME or NAME@VERSION.")] = None,
    series: Annotated[str | None, typer.Argument(help="Series Instance UID.")] = None,
    project: Annotated[str, typer.Option(help="Project the results belong to.")] = "inbox",
    parameter: Annotated[list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE, VALUE as JSON.")] = None,
    again: Annotated[str | None, typer.Option(help="Execution to repeat as a new execution.")] = None,
    force: Annotated[bool, typer.Option(help="Also if the same run has been made before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start an algorithm on a series, or an earlier run again."""
    if again is None and (algorithm is None or series is None):
        raise Invalid("Name an algorithm and a series, or a run to repeat with --again")
    body: dict[str, Any] = {"again": again} if again else {
        "algorithm": algorithm, "series": series, "project": project, "parameters": parameters(parameter or []), "force": force,
    }  # fmt: skip
    answer = call("POST", "/api/v1/runs", json=body)
    if as_json:
        typer.echo(json.dumps(answer))
    elif answer["created"]:
        typer.echo(f"Requested as {answer['execution']}. Follow it: insitu run show {answer['execution']}")
    else:
        typer.echo(
            f"The same run was made before: {answer['execution']} ({answer['state']}). A new execution of it: add --force."
        )


@app.command("list")
def list_runs(
    state: Annotated[str | None, typer.Option(help="Only runs in this state.")] = None,
    series: Annotated[str | None, typer.Option(help="Only runs on this series.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 30,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first."""
    query = {
        name: value for name, value in (("state", state), ("series", series), ("limit", limit)) if value is not None
    }
    runs = call("GET", "/api/v1/runs", params=query)["runs"]
    if as_json:
        typer.echo(json.dumps(runs))
        return
    table = Table("run", "state", "algorithm", "project", "requested", "reason")
    for item in runs:
        table.add_row(
            item["execution"], item["state"], f"{item['algorithm']} {item['version']}", item["project"],
            item["requested_at"][:19], item["reason"] or (item["waiting"] or {}).get("sentence", ""),
        )  # fmt: skip
    Console().print(table)


@app.command()
def show(execution: str, as_json: AsJson = False) -> None:
    """Show one run: its state, where the time went, what came out."""
    answer = call("GET", f"/api/v1/runs/{execution}")
    if as_json:
        typer.echo(json.dumps(answer))
        return
    console = Console()
    console.print(
        f"[bold]{answer['algorithm']} {answer['version']}[/bold] in project {answer['project']}: {answer['state']}",
        highlight=False,
    )
    if answer["reason"]:
        console.print(answer["reason"], style="red", highlight=False)
    if answer["waiting"]:
        console.print(answer["waiting"]["sentence"], highlight=False)
    console.print(waterfall_table(answer["waterfall"]))
    for result in answer["results"]:
        note = " (superseded)" if result["superseded_by"] else ""
        console.print(f"{result['kind']}  {result['sop_instance_uid']}{note}", highlight=False)
    if answer["results"]:
        console.print(segment_table(answer["results"][0]["summary"]))


@app.command()
def log(
    execution: str,
    step: Annotated[str | None, typer.Option(help="fetch, algorithm or publish.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the logs of a run."""
    query = {"step": step} if step else {}
    text = call("GET", f"/api/v1/runs/{execution}/log", params=query)
    typer.echo(json.dumps({"execution": execution, "log": text}) if as_json else text)


@app.command()
def cancel(execution: str, as_json: AsJson = False) -> None:
    """Cancel a run."""
    answer = call("POST", f"/api/v1/runs/{execution}/cancel")
    if as_json:
        typer.echo(json.dumps(answer))
    elif answer["state"] == "cancelled":
        typer.echo("Cancelled.")
    else:
        typer.echo(f"Asked to cancel; it is {answer['state']} and will end within seconds.")


def parameters(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs as a dictionary; a VALUE that is not JSON is text."""
    result: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise Invalid("A parameter must be NAME=VALUE", value=pair)
        try:
            result[name] = json.loads(text)
        except ValueError:
            result[name] = text
    return result


def waterfall_table(bars: list[dict[str, Any]], width: int = 24) -> Table:
    """The stages of a run as bars over time, in seconds."""
    table = Table(
        Column("stage", no_wrap=True),
        Column("from", justify="right"),
        Column("seconds", justify="right"),
        Column("", no_wrap=True),
        show_edge=False,
    )
    total = max((bar["start"] + (bar["seconds"] or 0) for bar in bars), default=0) or 1
    for bar in bars:
        seconds = bar["seconds"] or 0.0
        before = int(width * bar["start"] / total)
        length = max(1, round(width * seconds / total))
        table.add_row(
            bar["shows"], f"{bar['start']:.2f}", f"{seconds:.2f}", " " * before + "█" * min(length, width - before)
        )
    return table


def segment_table(summary: dict[str, Any]) -> Table:
    """Segments with their measurements, as the results' summary lists them."""
    segments = summary.get("segments", [])
    names = list(dict.fromkeys(m["name"] for segment in segments for m in segment.get("measurements", [])))
    table = Table("segment", *names, show_edge=False)
    for segment in segments:
        values = {m["name"]: f"{m['value']:.1f} {m.get('unit', '')}".strip() for m in segment.get("measurements", [])}
        table.add_row(segment["label"], *(values.get(name, "") for name in names))
    return table
