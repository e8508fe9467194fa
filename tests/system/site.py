"""A site as the tests use it: a platform that is up, its API, a scanner that sends, results that come back."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from pydicom import dcmread

from insitu import processes
from insitu.dicom.wrap import wrap_volume
from tests.system.running import Running

PATIENCE = 180.0  # seconds; a busy machine with two cores is slow, and waiting costs nothing where it goes well


@dataclass
class Sent:
    """A series that was sent."""

    study: str
    series: str
    files: list[Path]


class Site:
    """The API of a running platform with the admin's token, and its DICOM port."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.dicom_port = running.dicom_port
        self.http = httpx.Client(
            base_url=running.http_url,
            headers={"Authorization": f"Bearer {running.admin_token}"},
            timeout=60,
            trust_env=False,
        )

    def insitu(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line on the site's home."""
        return self.running.insitu(*arguments)

    def get(self, path: str, **options: Any) -> Any:
        """JSON of a GET that must succeed."""
        answer = self.http.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ensure_project(self, name: str) -> None:
        """Make a project if it is not there."""
        answer = self.http.post("/api/v1/projects", json={"name": name, "title": name})
        assert answer.status_code in (200, 201, 409), answer.text

    def rules(self, *rules: dict[str, Any]) -> None:
        """Put these rules in force."""
        answer = self.http.put("/api/v1/rules", json={"version": 1, "rules": list(rules)})
        assert answer.status_code == 200, answer.text

    def signal(self, name: str, number: int) -> None:
        """Signal a supervised process and its children; wait for it first, where it is being started again."""

        def pid() -> int | None:
            record = next(item for item in self.running.state.processes if item.name == name)
            return record.pid if processes.alive(record.pid, record.ticks) else None

        found: int = self.until(f"a running {name}", pid, lambda answer: answer is not None)
        try:
            family = [*psutil.Process(found).children(recursive=True), psutil.Process(found)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def component(self, name: str) -> str:
        """The state of a component by `/readyz`."""
        state: str = self.http.get("/readyz").json()["components"][name]["state"]
        return state

    def send(self, sent: Sent, called: str = "INSITU", files: list[Path] | None = None) -> None:
        """Send with DCMTK's storescu; every object must be acknowledged."""
        chosen = files if files is not None else sent.files
        done = subprocess.run(
            ["storescu", "-aet", "SCANNER", "-aec", called, "127.0.0.1", str(self.dicom_port), *map(str, chosen)],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def until(self, what: str, ask: Callable[[], Any], done: Callable[[Any], bool]) -> Any:
        """Ask until `done(answer)`; the last answer stands in the failure."""
        deadline = time.monotonic() + PATIENCE
        answer: Any = None
        while time.monotonic() < deadline:
            try:
                answer = ask()
                if done(answer):
                    return answer
            except (AssertionError, httpx.HTTPError, IndexError, KeyError) as error:
                answer = error
            time.sleep(0.2)
        raise AssertionError(f"{what} did not happen within {PATIENCE:g} s; last: {answer}")

    def runs_of(self, series: str) -> list[dict[str, Any]]:
        """Runs on a series, the newest first."""
        found: list[dict[str, Any]] = self.get("/api/v1/runs", params={"series": series})["runs"]
        return found

    def finished(self, execution: str) -> dict[str, Any]:
        """A run once it has ended."""
        run: dict[str, Any] = self.until(
            f"the end of {execution}",
            lambda: self.get(f"/api/v1/runs/{execution}"),
            lambda answer: answer["state"] in ("succeeded", "failed", "cancelled"),
        )
        return run

    def complete(self, series: str) -> dict[str, Any]:
        """A series once it is complete."""
        state: dict[str, Any] = self.until(
            f"completeness of {series}",
            lambda: self.get(f"/api/v1/series/{series}"),
            lambda answer: answer["state"] == "complete",
        )
        return state

    def start(self, algorithm: str, series: str, project: str = "inbox", **more: Any) -> str:
        """Start a run; its execution."""
        answer = self.http.post(
            "/api/v1/runs", json={"algorithm": algorithm, "series": series, "project": project, **more}
        )
        assert answer.status_code == 201, answer.text
        execution: str = answer.json()["execution"]
        return execution


def phantom(folder: Path, slices: int = 12) -> Sent:
    """A CT phantom: air around a cube of soft tissue (40 HU) with a cube of bone (700 HU) in it.

    Bone fills 8 x 8 columns and rows in half of the slices; voxels are 2 mm x 2 mm x 3 mm.
    """
    array = np.full((32, 32, slices), -1000.0)
    array[4:28, 4:28, :] = 40
    array[12:20, 12:20, : slices // 2] = 700
    affine = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, 30], [0, 0, 3.0, -20], [0, 0, 0, 1.0]])
    folder.mkdir(parents=True, exist_ok=True)
    files = wrap_volume(
        array, affine, "CT", folder, patient_id="PHANTOM-1", patient_name="Phantom^Cube", study_description="Phantom",
        series_description="Cubes", body_part="HEAD", salt=uuid.uuid4().hex,
    )  # fmt: skip
    first = dcmread(files[0], stop_before_pixels=True)
    return Sent(first.StudyInstanceUID, first.SeriesInstanceUID, files)
