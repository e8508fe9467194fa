"""`insitu archive ...`: care of the archive: statistics, deletion, holds, retention, damage.

Through the API of the running platform; only `retain --apply` works on database and blobs of this home directly. Not here: import,
reindex, scrub and quarantine (archive), conflicts (conflict).
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from insitu.archive import retention
from insitu.archive.store import Archive
from insitu.errors import Invalid

from .archive import AsJson, opened
from .client import call

app = typer.Typer(no_args_is_help=True)
Reason = Annotated[str, typer.Option(help="Why, at least 3 characters; it stands in the audit trail. No patient data.")]
Study = Annotated[str, typer.Argument(help="Study Instance UID")]


@app.callback()
def _care() -> None:
    """Statistics, deletion, holds and retention."""


def size(count: int) -> str:
    """A number of bytes for a person."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


@app.command("statistics")
def statistics(as_json: AsJson = False) -> None:
    """How much there is, by project, modality and month of arrival; what waits for a person; room on the disk."""
    answer = call("GET", "/api/v1/archive/statistics")
    if as_json:
        typer.echo(json.dumps(answer))
        return
    table = Table("", "studies", "series", "instances", "size", "oldest", "newest")
    parts = [("archive", answer["archive"])] if answer["archive"] else []
    for name, part in [*parts, *((f"project {name}", part) for name, part in answer["projects"].items())]:
        _rows(table, name, part)
    Console().print(table)
    if answer["taken_at"]:
        typer.echo(f"Counted at {answer['taken_at'][:19]} UTC; a series that two projects hold counts in both.")
    for name, value in (answer["condition"] or {}).items():
        text = size(value) if name.endswith("bytes") else "never" if value is None else value
        typer.echo(f"{name.replace('_', ' '):20} {text}")


def _rows(table: Table, name: str, part: dict[str, Any]) -> None:
    lines = [(name, part["total"])]
    lines += [(f"  {value or 'no modality'}", counts) for value, counts in part["modalities"].items()]
    lines += [(f"  {value}", counts) for value, counts in part["months"].items()]
    for label, counts in lines:
        table.add_row(
            label, *(str(counts[level]) for level in ("studies", "series", "instances")), size(counts["bytes"]),
            (counts["oldest"] or "")[:10], (counts["newest"] or "")[:10],
        )  # fmt: skip


@app.command("delete")
def delete(
    reason: Reason,
    study: Annotated[str | None, typer.Option(help="Study Instance UID")] = None,
    series: Annotated[str | None, typer.Option(help="Series Instance UID")] = None,
    instance: Annotated[str | None, typer.Option(help="SOP Instance UID")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a study, a series or an instance for good. Says what will go, and asks."""
    target = {"study": study, "series": series, "instance": instance, "reason": reason}
    would = call("POST", "/api/v1/archive/deletions", json={**target, "dry_run": True})
    if dry_run:
        typer.echo(json.dumps(would) if as_json else _sentence(would, "would go"))
        return
    if not yes:
        if as_json:
            raise Invalid(
                "Nobody can be asked",
                why="the answer is to be JSON",
                remedy="Add --yes, or --dry-run to see what would go",
            )
        typer.echo(_sentence(would, "will go for good"))
        typer.confirm("Delete?", abort=True)
    gone = call("POST", "/api/v1/archive/deletions", json=target)
    typer.echo(json.dumps(gone) if as_json else _sentence(gone, "deleted"))


def _sentence(gone: dict[str, Any], what: str) -> str:
    text = (
        f"{gone['instances']} instances in {gone['series']} whole series and {gone['studies']} whole studies,"
        f" {size(gone['bytes'])}: {what}."
    )
    if gone["unlinked"]:
        text += f" {gone['unlinked']} series that other projects hold too only leave your projects."
    return text


@app.command("deletions")
def deletions(
    study: Annotated[str | None, typer.Option(help="Study Instance UID")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """What was deleted, the newest first, by whom and why."""
    answer = call("GET", "/api/v1/archive/deletions", params={"limit": limit, **({"study": study} if study else {})})
    if as_json:
        typer.echo(json.dumps(answer["deletions"]))
        return
    table = Table("at", "by", "what", "instances", "size", "reason")
    for row in answer["deletions"]:
        target = row["sop_instance_uid"] or row["series_instance_uid"] or row["study_instance_uid"]
        table.add_row(row["at"][:19], row["actor"], target, str(row["instances"]), size(row["bytes"]), row["reason"])
    Console().print(table)


@app.command("hold")
def hold(study: Study, reason: Reason, as_json: AsJson = False) -> None:
    """Hold a study: nobody may delete anything of it, nor any rule."""
    answer = call("PUT", f"/api/v1/archive/holds/{study}", json={"reason": reason})
    typer.echo(json.dumps(answer) if as_json else "Held.")


@app.command("release")
def release(study: Study, reason: Reason, as_json: AsJson = False) -> None:
    """Release the hold on a study."""
    answer = call("DELETE", f"/api/v1/archive/holds/{study}", params={"reason": reason})
    typer.echo(json.dumps(answer) if as_json else "Released.")


@app.command("holds")
def holds(as_json: AsJson = False) -> None:
    """Studies that are held."""
    answer = call("GET", "/api/v1/archive/holds")["holds"]
    if as_json:
        typer.echo(json.dumps(answer))
        return
    table = Table("study", "since", "by", "reason")
    for row in answer:
        table.add_row(row["study_instance_uid"], row["placed_at"][:19], row["placed_by"], row["reason"])
    Console().print(table)


@app.command("damage")
def damage(as_json: AsJson = False) -> None:
    """Instances whose object is missing or has rotted. Sending the same object again heals each. Exit status 1 where there are any."""
    answer = call("GET", "/api/v1/archive/damage")["damage"]
    if as_json:
        typer.echo(json.dumps(answer))
    elif not answer:
        typer.echo("No damage is known.")
    else:
        table = Table("instance", "series", "what", "found")
        for row in answer:
            table.add_row(row["sop_instance_uid"], row["series_instance_uid"], row["kind"], row["found_at"][:19])
        Console().print(table)
    if answer:
        raise typer.Exit(1)


@app.command("retain")
def retain(
    apply: Annotated[bool, typer.Option("--apply", help="Delete what is due; otherwise it is only listed.")] = False,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between two series.")] = 0.1,
    as_json: AsJson = False,
) -> None:
    """List what the rules of the retention would delete and what keeps the rest, or delete it."""
    with opened() as (settings, database, blobs):
        rules = settings.retention
        if not rules:
            typer.echo(
                json.dumps({"series": []}) if as_json else "There are no rules: nothing is ever deleted by itself."
            )
            return
        if apply:
            archive = Archive(database, blobs, settings)
            try:
                gone, stayed = retention.apply(archive, rules, threading.Event(), seconds_each=pause)
            finally:
                archive.close()
            left = [{**retention.shown(verdict), "why": why} for verdict, why in stayed]
            if as_json:
                typer.echo(json.dumps({**asdict(gone), "stayed": left}))
            else:
                typer.echo(_sentence(asdict(gone), "deleted"))
                for item in left:
                    typer.echo(f"stays: {item['series_instance_uid']}: {item['why']}", err=True)
            return
        verdicts = [retention.shown(verdict) for verdict in retention.due(database, rules)]
    if as_json:
        typer.echo(json.dumps({"series": verdicts}))
        return
    table = Table("series", "modality", "arrived", "instances", "size", "rule", "what becomes of it")
    for item in verdicts:
        fate = "goes" if item["goes"] else f"kept: {', '.join(item['kept_by'])}"
        table.add_row(
            str(item["series_instance_uid"]), str(item["modality"]), str(item["arrived"]), str(item["instances"]),
            size(int(str(item["bytes"]))), str(item["rule"]), fate,
        )  # fmt: skip
    Console().print(table)
