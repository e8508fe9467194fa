"""`insitu up`: the platform on this machine, in the foreground.

Not here: the supervisor itself (insitu_services.supervisor).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from insitu.settings import load

app = typer.Typer()


@app.command()
def up(
    home: Annotated[Path | None, typer.Option(help="Folder of the installation.")] = None,
    http: Annotated[str | None, typer.Option(help="HOST:PORT of the web pages, the API and DICOMweb.")] = None,
    dicom: Annotated[str | None, typer.Option(help="HOST:PORT of the DICOM receiver.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Start everything on this machine, in the foreground, until Ctrl-C."""
    from insitu_services.supervisor import first_password
    from insitu_services.supervisor.supervisor import Supervisor

    settings = load(home, http=http, dicom=dicom)

    def tell(line: str) -> None:
        typer.echo(json.dumps({"message": line}) if as_json else line)

    def ready(seconds: float) -> None:
        password = first_password.waiting(settings)
        if as_json:
            fact = {"ready_seconds": round(seconds, 1), "url": settings.http_url, "dicom": settings.dicom}
            if password:
                fact |= {"account": first_password.ADMIN, "password": password}
            typer.echo(json.dumps(fact | {"ae_title": settings.ae_title, "home": str(settings.home)}))
        else:
            typer.echo(f"ready in {seconds:.0f} s")
            typer.echo(f"  web    {settings.http_url}")
            typer.echo(f"  DICOM  {settings.dicom}, AE title {settings.ae_title}")
            typer.echo(f"  home   {settings.home}")
            if password:
                typer.echo(f"  log in as {first_password.ADMIN} with the password {password}")
                typer.echo("  It is shown this once only; `insitu user password` sets another.")
        first_password.shown(settings)

    Supervisor(settings, tell).run(ready)
