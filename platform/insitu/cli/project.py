"""`insitu project create|list|show|share|member|link|unlink`, over the API of the running platform."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from insitu.errors import Invalid
from insitu.projects.permissions import Role

from .client import call

app = typer.Typer(help="Projects and their members.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Series = Annotated[str, typer.Argument(help="Series Instance UID.")]


@app.command()
def create(
    name: str, title: Annotated[str, typer.Option(help="What it is about.")] = "", as_json: AsJson = False
) -> None:
    """Make a project."""
    project = call("POST", "/api/v1/projects", json={"name": name, "title": title})
    typer.echo(json.dumps(project) if as_json else f"Made the project {name}.")


@app.command("list")
def list_projects(as_json: AsJson = False) -> None:
    """List the projects."""
    projects = call("GET", "/api/v1/projects")["projects"]
    if as_json:
        typer.echo(json.dumps(projects))
        return
    table = Table("name", "title", "members", "series", "weight", "runs at once")
    for item in projects:
        table.add_row(
            item["name"], item["title"], str(item["members"]), str(item["series"]), f"{item['weight']:g}",
            str(item["runs_at_once"] or ""),
        )  # fmt: skip
    Console().print(table)


@app.command()
def show(name: str, as_json: AsJson = False) -> None:
    """Show a project with its members."""
    project = call("GET", f"/api/v1/projects/{name}")
    if as_json:
        typer.echo(json.dumps(project))
        return
    table = Table("account", "role", title=f"{project['name']} {project['title']}".strip())
    for item in project["members"]:
        table.add_row(item["account"] + (" (disabled)" if item["disabled"] else ""), item["role"])
    Console().print(table)


@app.command()
def share(
    name: str,
    weight: Annotated[
        float | None, typer.Option(help="Of its runs beside those of other projects; 1 at first.")
    ] = None,
    runs_at_once: Annotated[
        int | None, typer.Option(min=0, help="Of its inference runs; 0: no limit of its own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change what a project may use of the site."""
    change: dict[str, Any] = {} if weight is None else {"weight": weight}
    if runs_at_once is not None:
        change["runs_at_once"] = runs_at_once or None
    if not change:
        raise Invalid("Say what is to change: --weight, --runs-at-once or both")
    project = call("PATCH", f"/api/v1/projects/{name}", json=change)
    if as_json:
        typer.echo(json.dumps(project))
    else:
        most = project["runs_at_once"]
        limit = "no limit of its own" if most is None else f"at most {most} runs at once"
        typer.echo(f"{name} has the weight {project['weight']:g} and {limit}.")


@app.command()
def member(
    project: str,
    account: str,
    role: Annotated[Role | None, typer.Option(help="Role to give.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the account out of the project.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give an account a role in a project, or take it out."""
    if remove == (role is not None):
        raise Invalid("Say either which --role the account gets, or --remove")
    path = f"/api/v1/projects/{project}/members/{account}"
    if role is None:
        call("DELETE", path)
    else:
        call("PUT", path, json={"role": role.value})
    if as_json:
        typer.echo(json.dumps({"project": project, "account": account, "role": role}))
    else:
        typer.echo(f"{account} is {f'{role.value} in' if role else 'no member any more of'} {project}.")


@app.command()
def link(project: str, series: Series, as_json: AsJson = False) -> None:
    """Share a series with a project; nothing is copied."""
    answer = call("PUT", f"/api/v1/projects/{project}/series/{series}")
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo(f"{'Shared' if answer['added'] else 'It was already shared'} with {project}.")


@app.command()
def unlink(project: str, series: Series, as_json: AsJson = False) -> None:
    """Take a series out of a project; it stays in the archive and in its other projects."""
    call("DELETE", f"/api/v1/projects/{project}/series/{series}")
    typer.echo(
        json.dumps({"project": project, "series_instance_uid": series}) if as_json else f"Taken out of {project}."
    )
