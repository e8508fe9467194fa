"""`insitu import|reindex|scrub|quarantine`: putting files in, and keeping blobs and index in order.

import and changes of the quarantine go through the API of the running platform; the others work on database and blobs of
this home directly.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from insitu.archive import quarantine as entries
from insitu.archive.blobs import BlobStore, blob_store
from insitu.database import Database
from insitu.settings import Settings, load

from . import importing
from .client import call

app = typer.Typer(no_args_is_help=True)
quarantine = typer.Typer(help="Objects that could not be archived.", no_args_is_help=True)
app.add_typer(quarantine, name="quarantine")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Entry = Annotated[str, typer.Argument(help="As `insitu quarantine list` shows it.")]


@contextmanager
def opened() -> Iterator[tuple[Settings, Database, BlobStore]]:
    """Settings, database and blobs of this home."""
    settings = load()
    database = Database(settings.database_dsn("cli"), maximum=2)
    try:
        yield settings, database, blob_store(settings)
    finally:
        database.close()


@contextmanager
def _counting(what: str, as_json: bool) -> Iterator[Callable[[int], None] | None]:
    """A counter on the terminal, where there is one and nobody wants JSON."""
    if as_json or not sys.stderr.isatty():
        yield None
        return
    with Progress("{task.description}", "{task.completed}", console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done: progress.update(task, completed=done)


@app.command("import")
def import_files(
    paths: Annotated[list[Path], typer.Argument(help="Files, folders and zip files.", exists=True)],
    project: Annotated[
        str | None, typer.Option(help="Project that new series enter; the default project if it is not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put files or folders of DICOM objects into the archive."""
    with _counting("Objects", as_json) as progress:
        report = importing.import_paths(load(), paths, project, progress)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        for failure in report.failed:
            typer.echo(f"{failure.name}: {failure.reason}", err=True)
        typer.echo(
            f"{report.stored} objects are in the archive, {report.skipped} files are no DICOM objects and were left out,"
            f" {len(report.failed)} objects were refused."
        )
    if report.failed:
        raise typer.Exit(1)


@app.command()
def reindex(as_json: AsJson = False) -> None:
    """Make the index again from the blobs. May be used while the platform runs."""
    from insitu.archive import reindex as rebuilding

    with opened() as (settings, database, blobs), _counting("Objects", as_json) as progress:
        report = rebuilding.reindex(database, blobs, settings, progress)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        typer.echo(
            f"{report.objects} objects read: {report.added} added to the index, {report.corrected} corrected,"
            f" {report.removed} that had been deleted removed."
        )
        _list("missing (send them again, or restore them from a backup)", report.missing)
        _list("damaged since they arrived (insitu scrub puts them aside)", report.changed)
        _list("not readable", report.unreadable)
        _list("different objects under one UID, kept as conflicts (insitu conflict list)", report.conflicts)
        _list("surplus (insitu scrub removes them after a day)", report.surplus)
        if report.without_receipt:
            typer.echo(f"{report.without_receipt} objects have no receipt; only the site admin sees them.")
    if report.changed or report.unreadable or report.missing:
        raise typer.Exit(1)


@app.command()
def scrub(
    keep: Annotated[bool, typer.Option("--keep", help="Only report; put nothing aside, remove nothing.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin from the start, also where a scrub was interrupted.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Megabytes per second to read at most; as fast as it goes if not given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every object with the index, going on where the last scrub was interrupted. Exit status 1 where there is damage.

    Rotten objects are put into quarantine, blobs that nothing refers to for a day are removed.
    """
    from insitu.archive import scrub as scrubbing

    throttle = scrubbing.Throttle(rate * 1e6 if rate else None)
    with opened() as (_, database, blobs), _counting("Objects", as_json) as progress:
        report = scrubbing.scrub(
            database, blobs, remove=not keep, restart=restart, throttle=throttle, progress=progress
        )
    if as_json:
        typer.echo(json.dumps({**asdict(report), "healthy": report.healthy}))
    else:
        resumed = ", part of them by a scrub that was interrupted" if report.resumed else ""
        typer.echo(f"{report.objects} objects read and compared{resumed}, {report.bytes / 1e9:.1f} GB.")
        _list("missing (send them again, or restore them from a backup)", report.missing)
        _list("rotten, in quarantine now (send them again, or restore them from a backup)", report.changed)
        _list("not given out by the disk", report.unreadable)
        _list("receipts and journal, not what was written (restore them from a backup)", report.records)
        _list("not referred to by anything, younger than a day", report.unreferenced)
        _list("not referred to by anything, removed", report.removed)
        if report.abandoned:
            typer.echo(f"{report.abandoned} remains of processes that died were removed.")
        typer.echo("Every object is what arrived." if report.healthy else "The archive is damaged.")
    if not report.healthy:
        raise typer.Exit(1)


@quarantine.callback()
def _quarantine() -> None:
    """Objects that could not be archived."""


@quarantine.command("list")
def list_quarantine(
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """List them, the newest first, with the reason and who sent them."""
    with opened() as (_, database, _), database.transaction() as connection:
        rows = entries.listed(connection, limit=limit)
    for row in rows:
        row["at"] = row["at"].isoformat()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("Nothing is in quarantine.")
        return
    table = Table("entry", "at", "from", "bytes", "reason")
    for row in rows:
        sender = row["calling_ae"] or row["principal"] or row["channel"]
        table.add_row(row["id"], row["at"][:19], sender, str(row["size"]), row["reason"])
    Console().print(table)


@quarantine.command("inspect")
def inspect(entry: Entry, as_json: AsJson = False) -> None:
    """Show one entry, with what can be read of the object and tells nothing of a person."""
    answer = call("GET", f"/api/v1/quarantine/{entry}")
    if as_json:
        typer.echo(json.dumps(answer))
        return
    facts = answer.pop("facts")
    for name, value in {**answer, **facts}.items():
        if value is not None:
            typer.echo(f"{name:20} {value}")


@quarantine.command("release")
def release(entry: Entry, as_json: AsJson = False) -> None:
    """Try to archive the object again, as if it had just been sent. Exit status 1 where it is still refused."""
    answer = call("POST", f"/api/v1/quarantine/{entry}/release")
    if as_json:
        typer.echo(json.dumps(answer))
    elif answer["success"]:
        typer.echo(f"It is in the archive ({answer['outcome']}): {answer['sop_instance_uid']}")
    else:
        typer.echo(f"It is still refused ({answer['outcome']}): {answer['reason']}", err=True)
    if not answer["success"]:
        raise typer.Exit(1)


@quarantine.command("discard")
def discard(
    entry: Entry,
    reason: Annotated[str, typer.Option(help="Why; it stands in the audit trail.")],
    as_json: AsJson = False,
) -> None:
    """Remove the object for good."""
    answer = call("DELETE", f"/api/v1/quarantine/{entry}", params={"reason": reason})
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo("Removed." if answer["discarded"] else "It was gone already.")


def _list(what: str, items: list[str]) -> None:
    if items:
        typer.echo(f"{len(items)} {what}:")
        for item in items:
            typer.echo(f"  {item}")
