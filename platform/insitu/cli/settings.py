"""`insitu settings`: every setting with its default and meaning; the reference page is made from it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table

from insitu.settings import PREFIX, Settings, load

app = typer.Typer()


@app.command("settings")
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference page.")] = False,
) -> None:
    """Show every setting with the value in force here."""
    if markdown:
        typer.echo(page(), nl=False)
        return
    values = load().model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps(values))
        return
    table = Table("setting", "value", "meaning")
    for name, field in Settings.model_fields.items():
        table.add_row(name, text(values[name]), field.description)
    Console().print(table)


def text(value: Any) -> str:
    """A value as one would write it in insitu.yaml."""
    return value if isinstance(value, str) else json.dumps(value)


def page() -> str:
    """The settings reference in Markdown."""
    lines = [
        "# Settings",
        "",
        "In `insitu.yaml` in the home folder as `name: value`, or as environment variables, which win: "
        f"`{PREFIX}` and the name in capitals. Lists are separated by commas there, and maps are written as "
        "NAME=VALUE,NAME=VALUE. Unknown names are an error.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        if field.default is PydanticUndefined:
            default = "`~/.insitu`, as root `/var/lib/insitu`"
        elif field.default is None or field.default in ((), {}):
            default = "none"
        else:
            default = f"`{text(field.default)}`"
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"
