"""`insitu demo`: a real image goes in over the network, results come out, every stage is shown as it happens.

Not here: the images (insitu.demo_images), the platform it runs on (up).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydicom import dcmread
from rich.console import Console

from insitu import demo_images, processes
from insitu.errors import InsituError, Invalid, Unavailable
from insitu.processes import State
from insitu.settings import Settings, load

from .client import call
from .run import segment_table, waterfall_table
from .send import Destination, send_files

app = typer.Typer()

CALLED_AE = "DEMO"
ALGORITHMS = {"CT": "ct-tissue", "MR": "mr-tissue"}
PROJECT = "demo"
START_SECONDS = 240.0
RUN_SECONDS = 600.0
LOOK_EVERY = 0.2
DATA = Path(sys.prefix).parent / "build" / "demo-data"
RULE = {
    "name": "demo",
    "description": "What the demonstration sends to the AE title DEMO goes to the project demo and is segmented.",
    "when": {"called_ae": CALLED_AE},
    "then": {"project": PROJECT},
}


# What a stage of a run means to a person who watches; the others are left out.
TOLD = {
    "admitted": "admitted, handed to Airflow",
    "prepared": "prepared by Airflow's first task",
    "fetch": "fetching the images",
    "algorithm": "the algorithm runs",
    "publish": "making and checking SEG and SR",
    "published": "results are in the archive",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}


class Stages:
    """Prints each stage with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._start = time.monotonic()

    def say(self, stage: str, text: str) -> None:
        """One line: seconds, stage, text."""
        seconds = time.monotonic() - self._start
        self.console.print(
            f"[dim]{seconds:6.1f} s[/dim]  [bold]{stage:<10}[/bold] {text}", highlight=False, soft_wrap=True
        )


@app.command("demo")
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the platform running until Ctrl-C.")] = False,
    image: Annotated[
        str | None, typer.Option(help="`ct` (a head CT from Debian's invesalius-examples) or `mr` (an averaged brain).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the finished run as JSON at the end.")] = False,
) -> None:
    """Send a real image in, show each stage and what came back."""
    settings = load()
    stages = Stages(Console(stderr=as_json))
    with platform(settings, stages) as running:
        stages.say("platform", f"is ready at {running.http_url}")
        run = show(running, stages, image)
        if as_json:
            typer.echo(json.dumps(run))
        if keep:
            stages.console.print("\nThe platform keeps running. Ctrl-C stops it.")
            try:
                signal.pause()
            except KeyboardInterrupt:
                stages.console.print("Stopping.")


@contextmanager
def platform(settings: Settings, stages: Stages) -> Iterator[Settings]:
    """The platform of this home: the one that runs, or one started for the demonstration and stopped after it.

    Yields
    ------
    Settings
        With the addresses of the one that runs.
    """
    state = processes.running(settings)
    if state is not None:
        stages.say("platform", f"runs already in {settings.home}")
        yield addresses(settings, await_ready(settings, None))
        return
    stages.say("platform", f"starting in {settings.home}")
    environment = {**os.environ, "INSITU_HOME": str(settings.home)}
    for number in (
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # a terminal that is closed ends what was started from it, as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, "-m", "insitu.cli", "up"], env=environment, start_new_session=True)
    try:
        yield addresses(settings, await_ready(settings, process))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def await_ready(settings: Settings, process: subprocess.Popen[bytes] | None) -> State:
    """The state of the platform once it is ready.

    Raises
    ------
    Unavailable
        It ended, or is not ready in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        state = processes.running(settings)
        if state is not None and state.ready_seconds is not None:
            return state
        if process is not None and process.poll() is not None:
            raise Unavailable("The platform did not start", why="what it said stands above")
        if time.monotonic() > deadline:
            raise Unavailable("The platform is not ready after four minutes", remedy="Look into the home's logs folder")
        time.sleep(LOOK_EVERY)


def addresses(settings: Settings, state: State) -> Settings:
    """The settings with the addresses that the running platform has."""
    return settings.model_copy(update={"http": state.http, "dicom": state.dicom})


def show(settings: Settings, stages: Stages, image: str | None) -> dict[str, Any]:
    """Send the image, follow it through every stage, print the results; the finished run."""
    with tempfile.TemporaryDirectory(prefix="insitu-demo-") as folder:
        made = choose(image)
        stages.say("image", made.title)
        files = made.write(Path(folder), salt=uuid.uuid4().hex[:12])
        uid = str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)
        prepare_rules(ALGORITHMS[made.modality])
        port = int(settings.dicom.rpartition(":")[2])
        sent = send_files(Destination(CALLED_AE, "127.0.0.1", port), files)
        stages.say(
            "received",
            f"{sent.succeeded} of {len(files)} objects acknowledged as safe on disk, by {CALLED_AE} on port {port}",
        )
    series = follow(f"/api/v1/series/{uid}", lambda answer: answer["instances"] >= len(files))
    stages.say("archived", f"{series['instances']} objects in the index")
    series = follow(f"/api/v1/series/{uid}", lambda answer: answer["state"] == "complete")
    stages.say("complete", f"revision {series['revision']}, after {settings.quiet_time:g} s without a new object")
    routing = follow(f"/api/v1/series/{uid}/routing", lambda answer: bool(answer["decisions"]))
    decision = routing["decisions"][0]["decision"]
    for step in decision["trace"]:
        stages.say("rule", step["explanation"])
    for answer in decision.get("requests", []):
        if "refused" in answer:
            raise Unavailable("The rule's run was refused", why=answer["refused"])
    execution = decision["requests"][0]["execution"]
    return watch(settings, stages, execution)


def choose(image: str | None) -> demo_images.DemoImage:
    """The image asked for; without a wish the head CT where it is installed, else the averaged brain.

    Raises
    ------
    Invalid
        It is neither `ct` nor `mr`.
    NotFound
        It is not on this machine.
    """
    if image not in (None, "ct", "mr"):
        raise Invalid("The image must be `ct` or `mr`", value=image)
    if image == "ct" or (image is None and demo_images.HEAD_CT_FILE.exists()):
        return demo_images.head_ct()
    return demo_images.averaged_brain(DATA)


def prepare_rules(algorithm: str) -> None:
    """See that the project and the rule of the demonstration are there; other rules stay as they are."""
    if PROJECT not in [project["name"] for project in call("GET", "/api/v1/projects")["projects"]]:
        call("POST", "/api/v1/projects", json={"name": PROJECT, "title": "Demonstration"})
    rule = json.loads(json.dumps(RULE))
    rule["then"]["algorithms"] = [{"name": algorithm}]
    rules = call("GET", "/api/v1/rules")["rule_set"]
    others = [item for item in rules["rules"] if item["name"] != rule["name"]]
    call("PUT", "/api/v1/rules", json={"version": 1, "rules": [*others, rule]})


def watch(settings: Settings, stages: Stages, execution: str) -> dict[str, Any]:
    """Show the stages of a run until it ends, then its results."""
    stages.say("run", f"{execution} requested")
    told = {"requested"}
    deadline = time.monotonic() + RUN_SECONDS
    while True:
        run: dict[str, Any] = call("GET", f"/api/v1/runs/{execution}")
        for event in run["history"]:
            if event["stage"] not in told:
                told.add(event["stage"])
                if event["stage"] in TOLD:
                    stages.say("run", TOLD[event["stage"]])
        if run["state"] in ("succeeded", "failed", "cancelled"):
            break
        if time.monotonic() > deadline:
            raise Unavailable("The run does not end", value=execution, remedy=f"insitu run show {execution}")
        time.sleep(LOOK_EVERY)
    if run["state"] != "succeeded":
        raise Unavailable(
            f"The run {run['state']}", value=execution, why=run["reason"], remedy=f"insitu run log {execution}"
        )
    stages.console.print()
    stages.console.print(f"[bold]{run['algorithm']} {run['version']}[/bold] found", highlight=False)
    stages.console.print(segment_table(run["results"][0]["summary"]))
    stages.console.print()
    stages.console.print(waterfall_table(run["waterfall"]))
    kinds = " and ".join(sorted(result["kind"] for result in run["results"]))
    first = next((result for result in run["results"] if result["kind"] == "SEG"), run["results"][0])
    shown = f"StudyInstanceUIDs={first['study_instance_uid']}&initialSeriesInstanceUID={first['series_instance_uid']}"
    stages.console.print(f"\n{kinds} are in the study beside the image. See them, logged in as admin:")
    stages.console.print(f"  {settings.http_url}/viewer/viewer?{shown}", highlight=False, soft_wrap=True)
    stages.console.print("Produced by an algorithm; a physician must confirm it.", style="dim")
    return run


def follow(path: str, done: Any, seconds: float = 60.0) -> dict[str, Any]:
    """Ask the API until `done(answer)`.

    Raises
    ------
    Unavailable
        That did not happen in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer: dict[str, Any] = call("GET", path)
            if done(answer):
                return answer
        except InsituError:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise Unavailable("The platform did not get further in time", value=path, remedy="Look at `insitu status`")
        time.sleep(LOOK_EVERY)
