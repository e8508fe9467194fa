"""The command line: one table of commands, each imported only when it is used, so that `insitu --help` stays quick.

Not here: the commands themselves (one module per noun beside this one).
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from insitu.errors import InsituError


@dataclass(frozen=True)
class Entry:
    """A command of the table: the module in insitu.cli whose `app` holds it, and its line in the help.

    A `group` is the whole `app` of its module; otherwise the command is the one of that name in the app.
    """

    module: str
    help: str
    group: bool = False


COMMANDS: dict[str, Entry] = {
    "up": Entry("up", "Start everything on this machine, in the foreground."),
    "demo": Entry("demo", "Send a real image in, watch the results come out."),
    "status": Entry("status", "Show the processes, components and addresses of the platform."),
    "doctor": Entry("doctor", "Look for what would keep the platform from working, and say how to mend it."),
    "import": Entry("archive", "Put files or folders of DICOM objects into the archive."),
    "send": Entry("send", "Send DICOM objects to a peer over the network."),
    "receiver": Entry("receiver", "Replace the receiver's processes without losing an association.", group=True),
    "algorithm": Entry("algorithm", "Validate, install, try and list algorithms.", group=True),
    "run": Entry("run", "Start, list, show and cancel runs.", group=True),
    "rules": Entry("rules", "Load, test and explain the routing rules.", group=True),
    "transfer": Entry("transfer", "Send studies and series to other nodes, with retries.", group=True),
    "retrieve": Entry("retrieve", "Search other PACS, and fetch studies from them.", group=True),
    "node": Entry("node", "Other PACS, workstations and DICOMweb servers.", group=True),
    "project": Entry("project", "Projects and their members.", group=True),
    "user": Entry("user", "Accounts of people.", group=True),
    "token": Entry("token", "Tokens for programs that use the API.", group=True),
    "audit": Entry("audit", "Read and verify the audit trail.", group=True),
    "archive": Entry("care", "Statistics, deletion, holds and retention.", group=True),
    "conflict": Entry("conflict", "Decide on other objects under known UIDs.", group=True),
    "quarantine": Entry("archive", "See, release or discard objects that could not be archived."),
    "reindex": Entry("archive", "Make the index again from the blobs."),
    "scrub": Entry("archive", "Compare blobs and index, remove what nobody refers to."),
    "settings": Entry("settings", "Every setting, its default and its meaning."),
}


class LazyGroup(TyperGroup):
    """A group whose commands are known by name and help alone until one is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in COMMANDS.items():
            self.commands[name] = TyperCommand(name=name, help=entry.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command behind the name in `args`, imported now."""
        name, stub, rest = super().resolve_command(ctx, args)
        return (name, stub if name is None else command(name), rest)


def command(name: str) -> Any:
    """The command `name`, imported."""
    entry = COMMANDS[name]
    module_app: typer.Typer = importlib.import_module(f"insitu.cli.{entry.module}").app
    found = typer.main.get_command(module_app)
    if not entry.group and isinstance(found, TyperGroup):
        found = found.commands[name]
    return found


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    """Print the version of the platform and stop, where it is wanted."""
    if wanted:
        from importlib import metadata

        typer.echo(metadata.version("insitu"))
        raise typer.Exit


@app.callback()
def root(
    home: Annotated[
        str | None, typer.Option("--home", help="Folder of the installation; INSITU_HOME has the same effect.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and stop.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Insitu brings algorithms to the images: DICOM in, algorithms, DICOM SEG and SR out."""
    if home is not None:
        os.environ["INSITU_HOME"] = home


def show(error: InsituError, as_json: bool) -> None:
    """Print an error on standard error: one sentence, or with --json a problem document."""
    if as_json:
        import json

        typer.echo(json.dumps(error.problem()), err=True)
    else:
        typer.echo(f"insitu: {error}", err=True)


def main() -> None:
    """Entry point of the program `insitu`. Exit status 1 for an error raised on purpose, 2 for wrong usage."""
    from insitu.errors import InsituError

    try:
        app()
    except InsituError as error:
        show(error, as_json="--json" in sys.argv[1:])
        raise SystemExit(1) from None
