"""`insitu rules show|set|versions|test|explain|replay`, over the API of the running platform.

`insitu rules test FILE --rules FILE` needs no platform: it decides here.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from insitu.errors import Invalid
from insitu.routing import text
from insitu.routing.evaluate import decide
from insitu.routing.facts import Facts

from .client import call

app = typer.Typer(help="Routing rules.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RulesFile = Annotated[
    Path | None, typer.Option("--rules", help="Try the rules of this file instead of those in force.")
]
Shipped = Annotated[str | None, typer.Option(help="A rule set that comes with the platform: kp-convention.")]


@app.command()
def show(
    version: Annotated[int | None, typer.Option(help="Show this version instead of the one in force.")] = None,
    shipped: Shipped = None,
    as_json: AsJson = False,
) -> None:
    """Show the rules in force, as YAML."""
    if shipped is not None:
        typer.echo(text.shipped(shipped))
        return
    answer = call("GET", "/api/v1/rules" if version is None else f"/api/v1/rules/versions/{version}")
    if as_json:
        typer.echo(json.dumps(answer))
        return
    if answer["version"] is None:
        typer.echo("# No rules were saved yet: every series goes to the default project.")
    else:
        typer.echo(f"# Version {answer['version']}, saved by {answer['created_by']} at {answer['created_at'][:19]}")
    typer.echo(answer["yaml"])


@app.command("set")
def set_rules(
    file: Annotated[Path | None, typer.Argument(help="YAML or JSON file; it replaces all rules.")] = None,
    shipped: Shipped = None,
    as_json: AsJson = False,
) -> None:
    """Put the rules of a file in force, as a new version."""
    if (file is None) == (shipped is None):
        raise Invalid("Name either a file or, with --shipped, a rule set that comes with the platform")
    content = text.shipped(shipped) if shipped is not None else _read(file or Path())
    text.load(content, name=str(file or shipped))
    answer = call("PUT", "/api/v1/rules", content=content.encode(), headers={"Content-Type": "application/yaml"})
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo(f"Version {answer['version']} is in force, with {answer['rules']} rules.")


@app.command()
def versions(as_json: AsJson = False) -> None:
    """List all versions of the rules."""
    found = call("GET", "/api/v1/rules/versions")["versions"]
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("version", "saved", "by", "rules", show_edge=False)
    for item in found:
        table.add_row(str(item["version"]), item["created_at"][:19], item["created_by"], str(item["rules"]))
    Console().print(table)


@app.command("test")
def try_rules(
    target: Annotated[str, typer.Argument(help="A DICOM file, or the Series Instance UID of an archived series.")],
    rules: RulesFile = None,
    calling_ae: Annotated[str | None, typer.Option(help="For a file: the AE title it would be sent by.")] = None,
    called_ae: Annotated[str | None, typer.Option(help="For a file: the AE title it would be sent to.")] = None,
    peer: Annotated[str | None, typer.Option(help="For a file: the address it would come from.")] = None,
    channel: Annotated[str, typer.Option(help="For a file: dimse, stow or import.")] = "dimse",
    as_json: AsJson = False,
) -> None:
    """Say what the rules would do with a file or series, and why. Nothing is changed."""
    content = _read(rules) if rules is not None else None
    rule_set = text.load(content, name=str(rules)) if content is not None else None
    if Path(target).is_file():
        facts = facts_of_file(
            Path(target), calling_ae=calling_ae, called_ae=called_ae, peer=peer, channel=channel
        )  # fmt: skip
        if rule_set is not None:
            decision = decide(rule_set, facts).model_dump(mode="json")
        else:
            body = {"facts": facts.model_dump(mode="json")}
            decision = call("POST", "/api/v1/rules/test", json=body)["decision"]
    elif target.replace(".", "").isdigit():
        decision = call("POST", "/api/v1/rules/test", json={"series": target, "rules": content})["decision"]
    else:
        raise Invalid("This is neither a file nor a Series Instance UID", value=target)
    _print_decision(decision, as_json)


@app.command()
def explain(
    series: Annotated[str, typer.Argument(help="Series Instance UID.")],
    as_json: AsJson = False,
) -> None:
    """Say why a series was routed as it was when it arrived."""
    answer = call("GET", f"/api/v1/series/{series}/routing")
    if as_json:
        typer.echo(json.dumps(answer))
        return
    if not answer["decisions"]:
        typer.echo("This series has not been routed: it is not complete yet.")
    for item in answer["decisions"]:
        rules = f"rules version {item['rule_set']}" if item["rule_set"] is not None else "no rules"
        typer.echo(f"Revision {item['revision']}, {item['at'][:19]}, {rules}")
        _print_decision(item["decision"], as_json=False)


@app.command()
def replay(
    rules: RulesFile = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many series.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Say what the rules would do with the series that are archived already. Nothing is changed."""
    content = _read(rules) if rules is not None else None
    if content is not None:
        text.load(content, name=str(rules))
    answer = call("POST", "/api/v1/rules/replay", json={"rules": content, "limit": limit}, timeout=600)
    if as_json:
        typer.echo(json.dumps(answer))
        return
    table = Table("rule", "series", "runs", "sent", "for example", show_edge=False)
    for item in answer["rules"]:
        table.add_row(
            item["rule"], str(item["matched"]), str(item["runs"]), str(item["sends"]), (item["series"] or [""])[0]
        )
    Console().print(table)
    typer.echo(
        f"{answer['series']} series, {answer['unmatched']} of them without a matching rule, {answer['runs']} runs,"
        f" {answer['sends']} sent to other nodes."
    )


def facts_of_file(
    path: Path, *, calling_ae: str | None, called_ae: str | None, peer: str | None, channel: str
) -> Facts:
    """The facts of a DICOM file, as if it were a series that was sent.

    Raises
    ------
    Invalid
        It is no DICOM file.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns with the value in the text
        try:
            data_set = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError, ValueError, EOFError) as error:
            raise Invalid("This is no DICOM file", value=str(path), why=type(error).__name__) from error
        attributes: dict[str, Any] = data_set.to_json_dict(
            bulk_data_threshold=1024, bulk_data_element_handler=lambda element: "left-out", suppress_invalid_tags=True
        )
    return Facts.model_validate(
        {"attributes": attributes, "calling_ae": calling_ae, "called_ae": called_ae, "peer": peer, "channel": channel}
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid("The file of rules cannot be read", value=str(path), why=str(error)) from error


def _print_decision(decision: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(decision))
        return
    console = Console(soft_wrap=True, highlight=False)
    if decision.get("failed"):
        console.print(f"No decision could be made: {decision['failed']}")
        return
    if not decision["trace"]:
        console.print("There is no rule.")
    for step in decision["trace"]:
        matched = step["outcome"] == "matched"
        mark = "[green]✓[/green]" if matched else "[dim]·[/dim]"
        console.print(f"{mark} {escape(step['explanation'])}", style=None if matched else "dim")
        for note in step["notes"]:
            console.print(f"    {escape(note)}", style="yellow")
    console.print(f"Projects: {', '.join(decision['projects']) or 'none assigned'}")
    if decision["datasets"]:
        console.print("Datasets: " + ", ".join(f"{item['project']}/{item['name']}" for item in decision["datasets"]))
    for send in decision["sends"]:
        console.print(f"Sent to {send['node']} (rule '{send['rule']}')")
    for run in decision["runs"]:
        version = f" {run['version']}" if run["version"] else ""
        console.print(f"Runs {run['algorithm']}{version} in project {run['project']} (rule '{run['rule']}')")
