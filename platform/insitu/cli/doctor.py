"""`insitu doctor`: what would keep the platform from working, each with its remedy.

Not here: what is looked at (insitu.doctor), and the processes of a running platform (status).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from insitu.settings import load

if TYPE_CHECKING:
    from insitu.doctor.finding import Finding

app = typer.Typer()
CLUSTER = "On a cluster"


@app.command()
def doctor(
    home: Annotated[Path | None, typer.Option(help="Folder of the installation.")] = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at a Kubernetes cluster instead of this machine.", rich_help_panel=CLUSTER)
    ] = False,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Of the platform.", rich_help_panel=CLUSTER)
    ] = "imaging",
    release: Annotated[str, typer.Option(help="Name of Helm's release.", rich_help_panel=CLUSTER)] = "insitu",
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--values", "-f", rich_help_panel=CLUSTER,
            help="File with the site's values of the chart, - for the standard input; can be repeated. By default those of the release.",
        ),
    ] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="By default KUBECONFIG, or ~/.kube/config.", rich_help_panel=CLUSTER)
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="Address of a `kubectl proxy` instead of a kubeconfig.", rich_help_panel=CLUSTER)
    ] = None,
    before: Annotated[
        bool, typer.Option("--before", help="Look at what an installation needs although it is there.", rich_help_panel=CLUSTER)
    ] = False,
    pods: Annotated[
        bool, typer.Option(help="Make short-lived pods, which find out most; they are removed again.", rich_help_panel=CLUSTER)
    ] = True,
    calling: Annotated[
        str, typer.Option(help="AE title to call the receiver with.", rich_help_panel=CLUSTER)
    ] = "INSITU_DOCTOR",
    run: Annotated[
        str | None, typer.Option(help="Algorithm to run on a phantom, after the round trip.", rich_help_panel=CLUSTER)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Look for what would keep the platform from working, and say how to mend it. Exit status 1 where something would."""
    if not cluster:
        from insitu.doctor import machine

        show(machine.examine(load(home)), as_json)
        return
    from insitu.doctor import examination
    from insitu.doctor.cluster import Cluster, access
    from insitu.doctor.values import read_values

    def read(name: str) -> str:
        return sys.stdin.read() if name == "-" else Path(name).read_text()

    given = read_values(values, read) if values else None
    looked_at = Cluster(access(kubeconfig, server))
    wishes = examination.Wishes(
        before=before, pods=pods, token=os.environ.get("INSITU_TOKEN"), calling=calling, run=run
    )
    show(examination.examine(looked_at, given, namespace, release, wishes), as_json)


def show(findings: Iterable[Finding], as_json: bool) -> None:
    """Print the findings as they come; exit status 1 where one is bad."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            typer.echo(f"{finding.state:<5} {finding.check:<19} {finding.says}")
            if finding.remedy:
                typer.echo(f"{'':<25} {finding.remedy}")
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=1))
    if any(finding.state == "bad" for finding in found):
        raise typer.Exit(1)
