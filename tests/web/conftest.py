"""The platform's api on an ephemeral port with a CT, its segmentation and its report in the archive, and a real Chromium."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
import uvicorn
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, sync_playwright
from psycopg.types.json import Jsonb

from insitu.archive import metadata
from insitu.archive.blobs import FileBlobStore
from insitu.archive.store import Archive
from insitu.database import Connection, Database
from insitu.dicom import codes, geometry
from insitu.dicom.measurements import Measurement, Measurements, SegmentMeasurements
from insitu.dicom.report import write_measurement_report
from insitu.dicom.result import Algorithm, Provenance
from insitu.dicom.segmentation import Segment, write_segmentation
from insitu.dicom.wrap import EPOCH, wrap_volume
from insitu.identity import accounts
from insitu.settings import Settings
from insitu_services.api.app import create_app
from insitu_services.api.context import Context
from tests.tools import need_program

PATIENCE = 240  # seconds a loaded machine without a graphics card may take for one step
EXECUTION = "0123456789abcdef0123-1"
NAME, PASSWORD = "reader", "correct horse battery staple"
SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
BROWSER_OPTIONS = [
    "--no-sandbox",  # root may not have one
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
]


@dataclass(frozen=True)
class Site:
    """The server and what lies in its archive."""

    url: str
    study: str
    image_series: str
    segmentation_series: str
    report_series: str


def phantom() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A head of soft tissue with a skull and an air cavity: HU and labels (1 bone, 2 soft tissue, 3 gas), axes x, y, z."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in (96, 96, 32)), indexing="ij")
    outer = (x / 0.75) ** 2 + (y / 0.9) ** 2 + (z / 1.3) ** 2
    cavity = (x / 0.2) ** 2 + ((y + 0.45) / 0.2) ** 2 + (z / 0.6) ** 2
    labels = np.zeros(outer.shape, np.uint8)
    labels[outer < 1] = 2
    labels[(outer < 0.85) & (outer > 0.65)] = 1
    labels[cavity < 1] = 3
    values = np.select([labels == 1, labels == 2, labels == 3], [900, 40, -990], -1000).astype(np.int16)
    return values, labels


def make_study(folder: Path) -> tuple[list[Path], pydicom.Dataset, pydicom.Dataset]:
    """A CT series, its segmentation and its report."""
    values, labels = phantom()
    affine = np.diag([-2.0, -2.0, 4.0, 1.0])  # towards left, posterior, head
    affine[:3, 3] = (96.0, 96.0, -64.0)
    files = wrap_volume(
        values, affine, "CT", folder, patient_id="PHANTOM-1", patient_name="Phantom^Head",
        study_description="Phantom of a head", series_description="Phantom 4 mm", body_part="HEAD",
    )  # fmt: skip
    volume = geometry.read_series(files)
    tissue = codes.Concept.of(codes.TISSUE)
    segments = [
        Segment(1, "Bone", tissue, codes.Concept.of(codes.BONE), (241, 214, 145)),
        Segment(2, "Soft tissue", tissue, codes.Concept.of(codes.SOFT_TISSUE), (177, 60, 50)),
        Segment(3, "Gas", tissue, codes.Concept.of(codes.GAS), (60, 160, 230)),
    ]

    def provenance(output: str) -> Provenance:
        return Provenance(EXECUTION, output, Algorithm("ct-tissue", "1.0.0", "sha256:0"), EPOCH)

    frames = np.moveaxis(labels, (0, 1, 2), (2, 1, 0))
    segmentation = write_segmentation(frames, volume.headers, segments, provenance("segmentation"))
    measured = Measurements(
        segments=tuple(
            SegmentMeasurements(
                segment=number,
                measurements=(Measurement(name="Volume", value=float((labels == number).sum()) * 0.016, unit="ml"),),
            )
            for number in (1, 2, 3)
        )
    )
    return files, segmentation, write_measurement_report(
        measured, segmentation, volume.headers, segments, provenance("report")
    )  # fmt: skip


def fill(context: Context, folder: Path) -> tuple[str, str, str, str]:
    """Put the study into the archive and an account into the database; the UIDs of study, image, segmentation, report."""
    files, segmentation, report = make_study(folder)
    for name, item in (("segmentation", segmentation), ("report", report)):
        path = folder / f"{name}.dcm"
        item.save_as(path, enforce_file_format=True)
        files = [*files, path]
    archive = context.archive
    receipt = archive.open_receipt(channel="import", project="inbox")
    for path in files:
        incoming = archive.begin(receipt)
        incoming.write(path.read_bytes())
        stored = incoming.commit()
        assert stored.success, stored.reason
    archive.close_receipt(receipt)
    with context.database.transaction() as connection:
        for row in connection.execute("SELECT id FROM series").fetchall():
            metadata.project_series(connection, archive.blobs, row["id"])
        accounts.create(connection, NAME, PASSWORD)
        connection.execute(
            "INSERT INTO membership (account, project, role) SELECT id, 'inbox', 'reader' FROM account WHERE name = %s",
            (NAME,),
        )
        insert_run(connection, segmentation)
    image = pydicom.dcmread(files[0], stop_before_pixels=True)
    return (
        str(image.StudyInstanceUID),
        str(image.SeriesInstanceUID),
        str(segmentation.SeriesInstanceUID),
        str(report.SeriesInstanceUID),
    )


def insert_run(connection: Connection, segmentation: pydicom.Dataset) -> None:
    """The run that would have made the segmentation, and one that failed."""
    connection.execute(
        "INSERT INTO algorithm (digest, name, version, manifest, location, installed_by)"
        " VALUES ('sha256:0', 'ct-tissue', '1.0.0', '{}', '/nowhere', 'test')"
    )
    connection.execute(
        "INSERT INTO run (identity, project, algorithm, publish_version, inputs, parameters)"
        " VALUES ('0', 'inbox', 'sha256:0', '1', '[]', '{}')"
    )
    connection.execute(
        "INSERT INTO execution (id, run, number, state, requested_by, rule, requested_at, finished_at, failure, reason) VALUES"
        " (%s, '0', 1, 'succeeded', 'system', 'head-ct', now() - interval '7 s', now(), NULL, NULL),"
        " ('0-2', '0', 2, 'failed', 'admin', NULL, now() - interval '90 s', now() - interval '60 s', 'time',"
        "  'The algorithm was ended after 30 s, the limit of its manifest')",
        (EXECUTION,),
    )
    segments = [
        {"label": name, "measurements": [{"name": "Volume", "value": value, "unit": "ml"}]}
        for name, value in (("Bone", 491.52), ("Soft tissue", 1388.544))
    ]
    connection.execute(
        "INSERT INTO execution_result (execution, sop_instance_uid, series_instance_uid, kind, summary)"
        " VALUES (%s, %s, %s, 'SEG', %s)",
        (
            EXECUTION, segmentation.SOPInstanceUID, segmentation.SeriesInstanceUID,
            Jsonb({"version": 1, "segments": segments}),
        ),
    )  # fmt: skip


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Iterator[Site]:
    """The api, served as `insitu up` serves it."""
    settings = Settings(home=tmp_path / "home")
    archive = Archive(database, FileBlobStore(settings.blobs), settings)
    context = Context(settings=settings, database=database, archive=archive)
    with database.transaction() as connection:
        connection.execute("INSERT INTO project (name) VALUES ('inbox')")
    folder = tmp_path / "files"
    folder.mkdir()
    uids = fill(context, folder)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(context), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not server.started:
        assert thread.is_alive(), "the server ended at once"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)
    yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}", *uids)
    server.should_exit = True
    thread.join(PATIENCE)
    listener.close()
    archive.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, drawing without a graphics card."""
    program = need_program("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=BROWSER_OPTIONS, timeout=PATIENCE * 1000
        )  # fmt: skip
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, site: Site) -> Iterator[Page]:
    """A fresh browser window."""
    context = chromium.new_context(base_url=site.url, viewport={"width": 1440, "height": 900}, locale="en-GB")
    context.set_default_timeout(PATIENCE * 1000)
    window = context.new_page()
    yield window
    context.close()


def log_in(page: Page, then: str = "/") -> None:
    """Go to a page, be sent to the login page, log in there, arrive."""
    page.goto(then)
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(lambda url: "/login" not in url)


def keep(page: Page, name: str) -> Path:
    """Keep a screenshot as a test artefact."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=str(path))
    return path
