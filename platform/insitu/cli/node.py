"""`insitu node add|list|show|remove|echo`, over the API of the running platform."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .client import call

app = typer.Typer(help="Other PACS, workstations and DICOMweb servers.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(
    name: str,
    ae_title: Annotated[str | None, typer.Option(help="Its AE title.")] = None,
    host: Annotated[str | None, typer.Option(help="Where it is called; left out where it only calls us.")] = None,
    port: Annotated[int | None, typer.Option(help="Its DICOM port.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Call it by DICOM TLS.")] = False,
    certificate: Annotated[
        str | None, typer.Option(help="SHA-256 fingerprint of the client certificate it must show.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Network (CIDR) it may call from; by default the address of its host.")
    ] = None,
    project: Annotated[list[str] | None, typer.Option(help="Project in which it may find and retrieve.")] = None,
    associations: Annotated[int, typer.Option(help="Associations we hold to it at the same time.")] = 1,
    retrieve_by: Annotated[str, typer.Option(help="How we fetch from it by DIMSE: get or move.")] = "get",
    url: Annotated[str | None, typer.Option(help="Base URL of its DICOMweb service.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a node, or describe one of this name anew."""
    node = call(
        "PUT",
        f"/api/v1/nodes/{name}",
        json={
            "ae_title": ae_title, "host": host, "port": port, "tls": tls, "certificate": certificate,
            "networks": network or [], "projects": project or [], "maximum_associations": associations,
            "retrieve_by": retrieve_by, "url": url,
        },
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(node))
    else:
        typer.echo(f"{'Added' if node['made'] else 'Changed'} {name}. Try it: insitu node echo {name}")


@app.command("list")
def list_nodes(as_json: AsJson = False) -> None:
    """List the nodes."""
    nodes = call("GET", "/api/v1/nodes")["nodes"]
    if as_json:
        typer.echo(json.dumps(nodes))
        return
    table = Table("name", "AE title", "address", "TLS", "DICOMweb", "may retrieve from")
    for node in nodes:
        address = f"{node['host']}:{node['port']}" if node["host"] else ""
        table.add_row(
            node["name"], node["ae_title"] or "", address, "yes" if node["tls"] else "", node["url"] or "",
            ", ".join(node["projects"]),
        )  # fmt: skip
    Console().print(table)


@app.command()
def show(name: str, as_json: AsJson = False) -> None:
    """Show a node."""
    node: dict[str, Any] = call("GET", f"/api/v1/nodes/{name}")
    if as_json:
        typer.echo(json.dumps(node))
        return
    for key, value in node.items():
        typer.echo(f"{key}: {', '.join(value) if isinstance(value, list) else '' if value is None else value}")


@app.command()
def remove(name: str, as_json: AsJson = False) -> None:
    """Remove a node from the register."""
    answer = call("DELETE", f"/api/v1/nodes/{name}")
    typer.echo(json.dumps(answer) if as_json else f"Removed {name}.")


@app.command()
def echo(name: str, as_json: AsJson = False) -> None:
    """Try the connection to a node: C-ECHO, and a search of its DICOMweb service; says what is wrong where it fails."""
    answer = call("POST", f"/api/v1/nodes/{name}/echo")
    failed = [way for way in ("dimse", "dicomweb") if "error" in answer.get(way, {})]
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        for way, title in (("dimse", "C-ECHO"), ("dicomweb", "DICOMweb")):
            if way in answer:
                result = answer[way]
                typer.echo(f"{title}: {result.get('error') or 'answered in {:.3f} s'.format(result['seconds'])}")
    if failed:
        raise typer.Exit(1)
