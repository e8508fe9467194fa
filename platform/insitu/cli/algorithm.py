"""`insitu algorithm validate|run` on a package's folder, `install|list|enable|disable` over the API of the running platform."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from insitu.errors import InsituError, Invalid

if TYPE_CHECKING:
    from insitu.algorithms.manifest import Manifest
    from insitu.runs.launch.specification import JobOutcome

app = typer.Typer(help="Validate, install, try and list algorithms.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Package = Annotated[Path, typer.Argument(help="Folder of the package.", exists=True, file_okay=False)]
Name = Annotated[str, typer.Argument(help="NAME or NAME@VERSION.")]
INSTALL_SECONDS = 1800.0


@app.command()
def validate(package: Package, as_json: AsJson = False) -> None:
    """Check a package: its manifest and that every file it names is there."""
    from insitu.algorithms import package as packages

    manifest = packages.check(package)
    answer = {"name": manifest.name, "version": manifest.version, "digest": packages.digest(package)}
    typer.echo(json.dumps(answer) if as_json else f"{manifest.name} {manifest.version} is valid: {answer['digest']}")


@app.command()
def install(
    package: Package,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", help="Image built from the package, by digest; a cluster needs one.", metavar="REF@sha256:..."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Install a package on the running platform."""
    from insitu.algorithms import package as packages
    from insitu.algorithms import registry

    from .client import call

    packages.check(package)
    if image is not None:
        registry.check_image(image)
    with tempfile.TemporaryFile() as archive:
        packages.pack(package, archive)
        archive.seek(0)
        with Console(stderr=True).status("Installing; its Python environment is built where it is new"):
            answer = call(
                "POST",
                "/api/v1/algorithms",
                files={"package": ("package.tar", archive, "application/x-tar")},
                data={"image": image} if image else {},
                timeout=INSTALL_SECONDS,
            )
    typer.echo(json.dumps(answer) if as_json else f"Installed {answer['name']} {answer['version']}: {answer['digest']}")


@app.command("list")
def list_algorithms(as_json: AsJson = False) -> None:
    """List the installed algorithms."""
    from .client import call

    listed = call("GET", "/api/v1/algorithms")["algorithms"]
    if as_json:
        typer.echo(json.dumps(listed))
        return
    table = Table("name", "version", "title", "enabled", "trusted", "installed by")
    for item in listed:
        table.add_row(
            item["name"], item["version"], item["title"], "yes" if item["enabled"] else "no",
            "yes" if item["trusted"] else "no", item["installed_by"],
        )  # fmt: skip
    Console().print(table)


@app.command()
def enable(name: Name, as_json: AsJson = False) -> None:
    """Let new runs use an algorithm."""
    _change(name, True, as_json)


@app.command()
def disable(name: Name, as_json: AsJson = False) -> None:
    """Let no new runs use an algorithm; runs that were asked for go on."""
    _change(name, False, as_json)


def _change(name: str, enabled: bool, as_json: bool) -> None:
    from .client import call

    answer = call("PATCH", f"/api/v1/algorithms/{name}", json={"enabled": enabled})
    state = "enabled" if answer["enabled"] else "not enabled"
    typer.echo(json.dumps(answer) if as_json else f"{answer['name']} {answer['version']} is {state}")


@app.command()
def run(
    package: Package,
    source: Annotated[
        list[str], typer.Option("--input", help="Folder of DICOM files; NAME=FOLDER where there are several inputs.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder for the results; made if need be.")],
    parameter: Annotated[list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE, VALUE as JSON.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run it also where this machine cannot isolate it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try a package on DICOM files of this machine, without a platform: the same steps, the same isolation."""
    from insitu.algorithms import package as packages

    from .run import parameters

    manifest = packages.check(package)
    chosen = manifest.check_parameters(parameters(parameter or []))
    inputs = {
        name: _series(manifest, name, folder) for name, folder in _folders(manifest, source).items()
    }  # fmt: skip
    with Console(stderr=True).status("Building its Python environment where it is new") as status:
        outcome, logs, summary = _carry_out(package.absolute(), manifest, inputs, chosen, output, trust, status.update)
    if outcome.state != "succeeded":
        if as_json:
            typer.echo(json.dumps({"outcome": outcome.model_dump(mode="json"), "logs": logs}))
            raise typer.Exit(1)
        for step, text in logs.items():
            if text.strip():
                typer.echo(f"── {step}\n{text.rstrip()}", err=True)
        raise InsituError(f"The run failed ({outcome.failure})", why=outcome.reason)
    if as_json:
        files = [str(file) for file in sorted(output.glob("*.dcm"))]
        typer.echo(json.dumps({"outcome": outcome.model_dump(mode="json"), "summary": summary, "files": files}))
        return
    _show(outcome, summary, output)


def _folders(manifest: Manifest, given: list[str]) -> dict[str, Path]:
    """The folder of each input."""
    names = [item.name for item in manifest.inputs]
    folders: dict[str, Path] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        if not separator or name not in names:
            name, folder = names[0], text
        if not Path(folder).is_dir():
            raise Invalid("The input is not a folder", value=folder)
        folders[name] = Path(folder)
    missing = [name for name in names if name not in folders]
    if missing:
        raise Invalid(f"{manifest.name} has inputs that were not given", value=", ".join(missing))
    return folders


def _series(manifest: Manifest, name: str, folder: Path) -> list[Path]:
    """The files of the one series in a folder that fits an input."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    from insitu.algorithms.selector import reasons_against

    (described,) = (item for item in manifest.inputs if item.name == name)
    found: dict[str, list[tuple[Path, Any]]] = {}
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            continue
        found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
    reasons: list[str] = []
    fitting: list[list[Path]] = []
    for uid, items in found.items():
        against = reasons_against(described.selector, items[0][1].to_json_dict(), len(items))
        if against:
            reasons.append(f"{uid}: {', '.join(against)}")
        else:
            fitting.append([path for path, _ in items])
    if len(fitting) == 1:
        return fitting[0]
    raise Invalid(
        f"One series that fits the input {name} is needed, {len(fitting)} were found",
        value=str(folder),
        why="; ".join(reasons) or ("several fit" if fitting else "there are no DICOM files"),
    )


def _carry_out(
    package: Path,
    manifest: Manifest,
    inputs: dict[str, list[Path]],
    parameters: dict[str, Any],
    output: Path,
    trust: bool,
    tell: Any,
) -> tuple[JobOutcome, dict[str, str], dict[str, Any] | None]:
    import sys
    import uuid

    from insitu.algorithms import manifest as manifests
    from insitu.algorithms import package as packages
    from insitu.runs.launch.localgateway import LocalGateway
    from insitu.runs.launch.process import ProcessLauncher
    from insitu.runs.launch.specification import STEPS, AlgorithmPackage, JobSpecification, Limits
    from insitu.settings import load

    settings = load()
    environment = packages.ensure_environment(settings, package, manifest)
    digest = packages.digest(package)
    execution = f"{uuid.uuid4().hex[:20]}-1"
    algorithm = {
        "name": manifest.name,
        "version": manifest.version,
        "digest": digest,
        "manifest": manifests.dump(manifest),
    }
    with (
        tempfile.TemporaryDirectory(prefix="insitu-run-") as folder,
        LocalGateway(execution, algorithm, parameters, dict(inputs), output) as gateway,
    ):
        specification = JobSpecification(
            name=f"run-{execution}-1",
            execution=execution,
            gateway_url=gateway.url,
            fetch_token=gateway.fetch_token,
            publish_token=gateway.publish_token,
            algorithm=AlgorithmPackage(
                name=manifest.name,
                version=manifest.version,
                digest=digest,
                location=package,
                entrypoint=manifest.entrypoint,
                environment=environment,
                trusted=trust,
            ),
            limits=Limits(
                seconds=manifest.resources.seconds,
                memory_bytes=manifest.resources.memory,
                cpu=manifest.resources.cpu,
                log_bytes=settings.algorithm_log_bytes,
                output_bytes=settings.result_bytes,
            ),
            python=Path(sys.executable),
        )
        launcher = ProcessLauncher(Path(folder))
        launcher.launch(specification)
        try:
            outcome = None
            while outcome is None:
                outcome = launcher.wait(specification.name, 60, lambda step: tell(f"Step {step}"))
        except KeyboardInterrupt:
            launcher.cancel(specification.name)
            launcher.wait(specification.name, 30)
            raise
        logs = {step: launcher.log(specification.name, step) for step in STEPS}
        launcher.remove(specification.name)
        return outcome, logs, gateway.summary


def _show(outcome: JobOutcome, summary: dict[str, Any] | None, output: Path) -> None:
    from .run import segment_table

    console = Console()
    for step in outcome.steps:
        console.print(f"{step.name}: {(step.finished_at or step.started_at) - step.started_at:.1f} s", highlight=False)
    isolation = "not isolated" if outcome.isolation == "none" else f"isolated by {outcome.isolation}"
    console.print(f"The algorithm ran {isolation}.", highlight=False)
    console.print(segment_table(summary or {}))
    for file in sorted(output.glob("*.dcm")):
        console.print(str(file), highlight=False)
