"""`insitu retrieve find|start|list|show|retry|cancel`, over the API of the running platform."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .client import call

app = typer.Typer(help="Search other PACS, and fetch studies from them.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
From = Annotated[str, typer.Option("--from", help="Name of a node; see `insitu node list`.")]


@app.command()
def find(
    node: From,
    patient_id: Annotated[str | None, typer.Option("--patient", help="Patient ID.")] = None,
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    accession: Annotated[str | None, typer.Option(help="Accession number.")] = None,
    dates: Annotated[str | None, typer.Option(help="Study date, YYYYMMDD or a range YYYYMMDD-YYYYMMDD.")] = None,
    modality: Annotated[str | None, typer.Option(help="Modality of a series in the study.")] = None,
    by: Annotated[
        str | None, typer.Option(help="dimse or web; by default DIMSE where the node has an address.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search the studies of a node."""
    query = {"patient_id": patient_id, "study": study, "accession": accession, "dates": dates, "modality": modality}
    found = call(
        "POST", f"/api/v1/nodes/{node}/search", params={"by": by} if by else None,
        json={key: value for key, value in query.items() if value is not None},
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("Study Instance UID", "patient", "date", "accession", "modalities", "objects", "description")
    for item in found["studies"]:
        modalities = item["ModalitiesInStudy"] or ""
        table.add_row(
            item["StudyInstanceUID"] or "", str(item["PatientID"] or ""), item["StudyDate"] or "",
            str(item["AccessionNumber"] or ""),
            "/".join(modalities) if isinstance(modalities, list) else modalities,
            str(item["NumberOfStudyRelatedInstances"] or ""), item["StudyDescription"] or "",
        )  # fmt: skip
    Console().print(table)
    if not found["complete"]:
        typer.echo("There are more; narrow the search.", err=True)


@app.command()
def start(
    node: From,
    study: Annotated[str, typer.Option(help="Study Instance UID.")],
    series: Annotated[str | None, typer.Option(help="Series Instance UID, for one series alone.")] = None,
    project: Annotated[
        str | None, typer.Option(help="Project it goes to; by default the site's default project.")
    ] = None,
    off_peak: Annotated[bool, typer.Option("--off-peak/--now", help="Wait for the site's retrieval window.")] = False,
    way: Annotated[str | None, typer.Option(help="get, move or wado; by default as the node says.")] = None,
    as_json: AsJson = False,
) -> None:
    """Queue a study to be fetched from a node."""
    body = {"from": node, "study": study, "series": series, "project": project, "off_peak": off_peak, "way": way}
    made = call("POST", "/api/v1/retrievals", json={key: value for key, value in body.items() if value is not None})
    typer.echo(json.dumps(made) if as_json else f"Queued. Look: insitu retrieve show {made['id']}")


@app.command("list")
def list_retrievals(
    state: Annotated[str | None, typer.Option(help="queued, done, failed or cancelled.")] = None,
    node: Annotated[str | None, typer.Option("--from", help="Only those from this node.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List retrievals, the newest first."""
    query: dict[str, Any] = {"state": state, "node": node, "limit": limit}
    found = call("GET", "/api/v1/retrievals", params={key: value for key, value in query.items() if value is not None})
    if as_json:
        typer.echo(json.dumps(found["retrievals"]))
        return
    table = Table("id", "from", "study", "project", "state", "here", "reason")
    for item in found["retrievals"]:
        waits = item["state"] == "queued" and item["off_peak"] and not item["active"]
        state_shown = "fetching" if item["active"] else f"off-peak {found['window'] or ''}" if waits else item["state"]
        here = f"{item['present']}/{'?' if item['expected'] is None else item['expected']}"
        table.add_row(
            item["id"],
            item["node"],
            item["study_instance_uid"],
            item["project"],
            state_shown,
            here,
            item["reason"] or "",
        )
    Console().print(table)


@app.command()
def show(retrieval: str, as_json: AsJson = False) -> None:
    """Show how far a retrieval is."""
    found = call("GET", f"/api/v1/retrievals/{retrieval}")
    if as_json:
        typer.echo(json.dumps(found))
        return
    expected = "?" if found["expected"] is None else found["expected"]
    typer.echo(
        f"{found['study_instance_uid']} from {found['node']} to {found['project']}: {found['state']},"
        f" {found['present']} of {expected} objects are here" + (f". {found['reason']}" if found["reason"] else "")
    )


@app.command()
def retry(retrieval: str, as_json: AsJson = False) -> None:
    """Try a failed or cancelled retrieval again, or a waiting one now."""
    answer = call("POST", f"/api/v1/retrievals/{retrieval}/retry")
    typer.echo(json.dumps(answer) if as_json else "Queued again.")


@app.command()
def cancel(retrieval: str, as_json: AsJson = False) -> None:
    """Fetch no further object; what is here stays."""
    answer = call("POST", f"/api/v1/retrievals/{retrieval}/cancel")
    typer.echo(json.dumps(answer) if as_json else "Cancelled.")
