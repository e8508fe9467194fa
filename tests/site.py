"""A platform as the tests use it: its API, a scanner that sends, results that come back. Where it runs is the business of others."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pydicom import dcmread

from insitu.dicom.wrap import wrap_volume

PATIENCE = 180.0  # seconds; a busy machine with two cores is slow, and waiting costs nothing where it goes well


@dataclass
class Sent:
    """A series that was sent."""

    study: str
    series: str
    files: list[Path]


class Site:
    """The API of a running platform, and its DICOM port.

    Parameters
    ----------
    http : httpx.Client
        Logged in as a site admin.
    dicom : tuple of str and int
        Host and port.
    """

    def __init__(self, http: httpx.Client, dicom: tuple[str, int]) -> None:
        self.http = http
        self.dicom = dicom

    def network(self) -> AbstractContextManager[None]:
        """What must be entered by a thread that reaches the platform by a program of its own."""
        return nullcontext()

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

    def component(self, name: str) -> str:
        """The state of a component by `/readyz`."""
        state: str = self.http.get("/readyz").json()["components"][name]["state"]
        return state

    def send(self, sent: Sent, called: str = "INSITU", files: list[Path] | None = None) -> None:
        """Send with DCMTK's storescu; every object must be acknowledged."""
        chosen = files if files is not None else sent.files
        host, port = self.dicom
        with self.network():
            done = subprocess.run(
                ["storescu", "-aet", "SCANNER", "-aec", called, host, str(port), *map(str, chosen)],
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

    def retrieve(self, run: dict[str, Any], folder: Path) -> dict[str, Path]:
        """The result objects of a run as files by kind, over WADO-RS."""
        files = {}
        for result in run["results"]:
            path = f"/dicom-web/studies/{result['study_instance_uid']}/series/{result['series_instance_uid']}"
            answer = self.http.get(
                f"{path}/instances/{result['sop_instance_uid']}",
                headers={"Accept": 'multipart/related; type="application/dicom"'},
            )
            assert answer.status_code == 200, answer.text
            boundary = answer.headers["content-type"].split("boundary=")[1].split(";")[0].strip('"').encode()
            body = answer.content.split(b"--" + boundary)[1].split(b"\r\n\r\n", 1)[1]
            files[result["kind"]] = folder / f"{result['kind']}.dcm"
            files[result["kind"]].write_bytes(body.removesuffix(b"\r\n"))
        return files


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


def bone_ml(slices: int = 12) -> float:
    """The phantom's volume of bone in ml."""
    return 8 * 8 * (slices // 2) * 2 * 2 * 3 / 1000
