"""`insitu token create|list|revoke`, over the API of the running platform."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .client import call

app = typer.Typer(help="Tokens for programs that use the API.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Account = Annotated[str | None, typer.Option(help="Account the token acts as; by default the caller's.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    account: Account = None,
    days: Annotated[float, typer.Option(help="Days until it ends; 0 for a token without an end.")] = 90,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it. It cannot be shown again."""
    answer = call("POST", "/api/v1/tokens", json={"name": name, "account": account, "days": days or None})
    typer.echo(json.dumps(answer) if as_json else answer["token"])


@app.command("list")
def list_tokens(account: Account = None, as_json: AsJson = False) -> None:
    """List tokens by name with their dates."""
    answer = call("GET", "/api/v1/tokens", params={"account": account} if account else {})
    if as_json:
        typer.echo(json.dumps(answer["tokens"]))
        return
    table = Table("id", "name", "made", "ends", "last used", title=f"Tokens of {answer['account']}")
    for item in answer["tokens"]:
        ends, used = item["expires_at"] or "never", item["last_used"] or "never"
        table.add_row(item["id"], item["name"], item["created_at"][:10], ends[:10], used[:16])
    Console().print(table)


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(help="Its id, see `insitu token list`.")], as_json: AsJson = False
) -> None:
    """Revoke a token, at once."""
    call("DELETE", f"/api/v1/tokens/{token}")
    typer.echo(json.dumps({"id": token, "revoked": True}) if as_json else "Revoked.")
