"""`insitu user create|list|disable|enable|admin|password`, over the API of the running platform."""

from __future__ import annotations

import json
import secrets
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .client import call

app = typer.Typer(help="Accounts of people.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Generate = Annotated[bool, typer.Option("--generate", help="Make a random password and print it once.")]


@app.command()
def create(
    name: str,
    admin: Annotated[bool, typer.Option("--admin", help="Make it a site admin.")] = False,
    generate: Generate = False,
    as_json: AsJson = False,
) -> None:
    """Make an account. The password is asked for, or read from standard input where that is no terminal."""
    password = _password(generate)
    account = call("POST", "/api/v1/accounts", json={"name": name, "password": password, "site_admin": admin})
    if as_json:
        typer.echo(json.dumps(account | ({"password": password} if generate else {})))
        return
    typer.echo(f"Made {name}." + (f" Password: {password}" if generate else ""))
    if not admin:
        typer.echo(f"It has no project yet: insitu project member PROJECT {name} --role reader")


@app.command("list")
def list_accounts(as_json: AsJson = False) -> None:
    """List the accounts with their roles in projects."""
    accounts = call("GET", "/api/v1/accounts")["accounts"]
    if as_json:
        typer.echo(json.dumps(accounts))
        return
    table = Table("name", "state", "site admin", "projects", "made")
    for item in accounts:
        roles = ", ".join(f"{project} ({role})" for project, role in sorted(item["memberships"].items()))
        state = "disabled" if item["disabled"] else "enabled"
        table.add_row(item["name"], state, "yes" if item["site_admin"] else "", roles, item["created_at"][:10])
    Console().print(table)


@app.command()
def disable(name: str, as_json: AsJson = False) -> None:
    """Disable an account: it is refused from its next request on."""
    _change(name, {"disabled": True}, f"{name} is disabled.", as_json)


@app.command()
def enable(name: str, as_json: AsJson = False) -> None:
    """Enable a disabled account again."""
    _change(name, {"disabled": False}, f"{name} is enabled.", as_json)


@app.command()
def admin(
    name: str,
    remove: Annotated[bool, typer.Option("--remove", help="Make it an ordinary account instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an account a site admin, or an ordinary one again."""
    text = f"{name} is {'no site admin any more' if remove else 'a site admin'}."
    _change(name, {"site_admin": not remove}, text, as_json)


@app.command()
def password(name: str, generate: Generate = False, as_json: AsJson = False) -> None:
    """Set the password of an account; its sessions end, and a lock after wrong passwords too."""
    chosen = _password(generate)
    call("PUT", f"/api/v1/accounts/{name}/password", json={"password": chosen})
    if as_json:
        typer.echo(json.dumps({"name": name} | ({"password": chosen} if generate else {})))
    else:
        typer.echo(f"The password of {name} is set." + (f" Password: {chosen}" if generate else ""))


def _change(name: str, change: dict[str, Any], text: str, as_json: bool) -> None:
    account = call("PATCH", f"/api/v1/accounts/{name}", json=change)
    typer.echo(json.dumps(account) if as_json else text)


def _password(generate: bool) -> str:
    """A password: made, asked for twice on a terminal, or the first line of standard input. Never an argument: `ps` shows those."""
    if generate:
        return secrets.token_urlsafe(12)
    if sys.stdin.isatty():
        chosen: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return chosen
    return sys.stdin.readline().rstrip("\r\n")
