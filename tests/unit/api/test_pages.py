"""The pages without a browser: who gets them, with which policy, and that no file outside their folders is served."""

import gzip
import os
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from insitu.projects.permissions import Principal
from insitu_services.api import problems, viewer
from insitu_services.api.access import current_principal

PERSON = Principal(name="reader", kind="account")
BROWSER = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A viewer of three files, and a secret beside its folder."""
    folder = tmp_path / "viewer"
    folder.mkdir()
    (folder / "index.html").write_text("<title>viewer</title>")
    (folder / "app.js").write_text("let a = 1;")
    (folder / "app.js.gz").write_bytes(b"compressed")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(viewer, "VIEWER", folder)
    return folder


@pytest.fixture
def client() -> TestClient:
    """The pages alone, for somebody who is logged in."""
    app = FastAPI()
    problems.install(app)
    app.include_router(viewer.router)
    app.dependency_overrides[current_principal] = lambda: PERSON
    return TestClient(app, follow_redirects=False)


@pytest.mark.parametrize("path", ["/viewer/", "/viewer/viewer?StudyInstanceUIDs=1.2.3", "/viewer/local"])
def test_the_viewers_own_addresses_show_its_page(client: TestClient, installed: Path, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "<title>viewer</title>" in answer.text
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/viewer/..%2Fsecret.txt", "/viewer/%2e%2e/secret.txt", "/viewer/link.txt", "/viewer/%2Fetc%2Fpasswd.txt",
        "/viewer/none.js", "/viewer/a%00b.js", "/viewer/app.js.gz", "/static/..%2Fstart.html", "/static/..%2F..%2Fviewer%2Fbuild.py",
        "/static/", "/viewer/" + "x" * 5000 + ".js",
    ],
)  # fmt: skip
def test_no_file_outside_the_folder_is_served(client: TestClient, installed: Path, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404, answer.text[:200]


def test_a_compressed_file_and_an_unchanged_one_are_answered_as_the_browser_can_take_them(
    client: TestClient, installed: Path
) -> None:
    plain = client.get("/viewer/app.js", headers={"Accept-Encoding": "identity"})
    assert plain.text == "let a = 1;"
    assert plain.headers["content-type"].startswith("text/javascript")
    again = client.get(
        "/viewer/app.js", headers={"Accept-Encoding": "identity", "If-None-Match": plain.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    with client.stream("GET", "/viewer/app.js", headers={"Accept-Encoding": "gzip"}) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["etag"] != plain.headers["etag"]


def test_a_file_that_lies_there_compressed_only_is_read_by_every_browser(client: TestClient, installed: Path) -> None:
    (installed / "app.js").unlink()
    (installed / "app.js.gz").write_bytes(gzip.compress(b"let a = 1;"))
    (installed / "index.html").unlink()
    (installed / "index.html.gz").write_bytes(gzip.compress(b"<title>viewer</title>"))
    for accepted in ("gzip", "identity"):
        script = client.get("/viewer/app.js", headers={"Accept-Encoding": accepted})
        assert (script.text, script.headers["content-type"]) == ("let a = 1;", "text/javascript; charset=utf-8")
        assert client.get("/viewer/", headers={"Accept-Encoding": accepted}).text == "<title>viewer</title>"


def test_a_changed_file_is_sent_again_though_size_and_time_are_the_same(client: TestClient, installed: Path) -> None:
    """In images all files have one time, so that a browser would keep the version before."""
    script = installed / "app.js"
    os.utime(script, (1_000, 1_000))
    before = client.get("/viewer/app.js", headers={"Accept-Encoding": "identity"}).headers["etag"]
    script.write_text("let a = 2;")
    os.utime(script, (1_000, 1_000))
    viewer._content.cache_clear()  # as in the new version's process
    headers = {"Accept-Encoding": "identity", "If-None-Match": before}
    assert client.get("/viewer/app.js", headers=headers).text == "let a = 2;"


def test_a_missing_viewer_says_what_to_run(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "VIEWER", tmp_path / "nothing")
    answer = client.get("/viewer/")
    assert (answer.status_code, answer.text) == (503, "The image viewer is not installed: run `make viewer`.\n")


def test_whoever_is_not_logged_in_is_sent_to_the_login_and_back(client: TestClient, installed: Path) -> None:
    from insitu.errors import Unauthenticated

    def stranger() -> Principal:
        raise Unauthenticated("Log in first")

    assert isinstance(client.app, FastAPI)
    client.app.dependency_overrides[current_principal] = stranger
    answer = client.get("/viewer/viewer?StudyInstanceUIDs=1.2&x=%2F", headers=BROWSER)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=/viewer/viewer%3FStudyInstanceUIDs%3D1.2%26x%3D%252F"
    assert client.get("/viewer/app.js").status_code == 401
    assert client.get("/login").status_code == 200
    assert "script-src 'self';" in client.get("/static/login.js").headers["content-security-policy"]
