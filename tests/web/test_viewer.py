"""A person logs in, sees the studies, and opens the CT with its segmentation and its report in OHIF."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect

from insitu_services.api.viewer import VIEWER

from .conftest import NAME, PATIENCE, Site, keep, log_in

pytestmark = [pytest.mark.browser, pytest.mark.timeout(6 * PATIENCE)]
expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(autouse=True)
def nothing_strange(page: Page, site: Site) -> Iterator[None]:
    """Every page is looked after: it may ask only this platform, and keep to its content security policy."""
    foreign: list[str] = []
    refused: list[str] = []
    own = ("", urlsplit(site.url).netloc)
    page.on("request", lambda request: foreign.append(request.url) if urlsplit(request.url).netloc not in own else None)
    page.on("console", lambda said: refused.append(said.text) if "Content Security Policy" in said.text else None)
    yield
    assert foreign == []
    assert refused == []


def open_viewer(page: Page, study: str, series: str) -> None:
    page.goto(f"/viewer/viewer?StudyInstanceUIDs={study}&initialSeriesInstanceUID={series}")


def pixels(page: Page) -> NDArray[np.int64]:
    """What is seen where OHIF shows the image. A part of the window, not an element: OHIF replaces its elements at will."""
    shot = page.screenshot(clip={"x": 320, "y": 140, "width": 740, "height": 700})
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(np.int64)


def warm_colours(page: Page) -> float:
    """Share of pixels that are red or yellow: the segments are, CT is grey and OHIF's own marks are blue."""
    seen = pixels(page)
    return float((seen[..., 0] > seen[..., 2] + 25).mean())


def greys(page: Page) -> float:
    """Share of pixels that are grey or white, as CT is."""
    seen = pixels(page)
    return float(((seen.max(axis=-1) - seen.min(axis=-1) < 12) & (seen.max(axis=-1) > 40)).mean())


def until(page: Page, value: Callable[[Page], float], enough: float, what: str) -> None:
    """Wait until `value` is at least `enough`."""
    deadline = time.monotonic() + PATIENCE
    while (seen := value(page)) < enough:
        assert time.monotonic() < deadline, f"{what}: {seen} after {PATIENCE} s"
        page.wait_for_timeout(500)


def need_viewer() -> None:
    if not (VIEWER / "index.html").is_file():
        pytest.skip("the image viewer is not installed: run `make viewer`")


def test_a_person_logs_in_and_sees_the_studies(page: Page, site: Site) -> None:
    page.goto("/")
    expect(page).to_have_url(f"{site.url}/login?next=/")
    keep(page, "login")
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("wrong")
    log_in(page)
    study = page.get_by_role("link", name="Phantom, Head")
    expect(study).to_contain_text("SEG")
    expect(study).to_contain_text("3 series")
    expect(page.locator("#who")).to_have_text(NAME)
    expect(study.locator("img")).to_have_js_property("complete", True)
    expect(page.get_by_text("The algorithm was ended after 30 s")).to_be_visible()
    page.get_by_role("button", name="Measurements").click()
    expect(page.get_by_text("1388.5 ml")).to_be_visible()
    keep(page, "start")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{site.url}/login")
    page.goto("/")
    expect(page).to_have_url(f"{site.url}/login?next=/")


def test_a_login_never_leads_to_another_site(page: Page, site: Site) -> None:
    log_in(page, "/login?next=//example.invalid/")
    expect(page).to_have_url(f"{site.url}/")


def test_the_segmentation_lies_over_the_image(page: Page, site: Site) -> None:
    need_viewer()
    log_in(page)
    open_viewer(page, site.study, site.image_series)
    until(page, greys, 0.03, "the image is not drawn")
    assert warm_colours(page) < 0.001, "the image alone must be grey, otherwise colours prove nothing"
    keep(page, "viewer-image")
    page.goto("/")
    page.get_by_role("button", name="Show result").click()
    page.wait_for_url(lambda url: site.segmentation_series in url)
    until(page, warm_colours, 0.03, "the segmentation is not drawn")
    page.locator("[data-cy=panelSegmentation-btn]").click()
    for name in ("Bone", "Soft tissue", "Gas"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    page.mouse.move(600, 480)
    for _ in range(12):  # towards the middle of the head
        page.mouse.wheel(0, 100)
        page.wait_for_timeout(200)
    until(page, warm_colours, 0.03, "the segmentation is not drawn on another slice")
    keep(page, "viewer-segmentation")


def test_the_report_can_be_read(page: Page, site: Site) -> None:
    need_viewer()
    log_in(page)
    open_viewer(page, site.study, site.report_series)
    report = page.locator("[data-cy=viewport-pane]").first
    expect(report).to_contain_text("Imaging Measurement Report")
    expect(report).to_contain_text("Volume")
    expect(report).to_contain_text("Produced by an algorithm; a physician must confirm it")
    keep(page, "viewer-report")
