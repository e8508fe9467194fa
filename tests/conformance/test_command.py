"""The command: its exit status, its reports, and that it is installed."""

from __future__ import annotations

import json
import shlex
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest

from insitu_dicomweb_check.check import REGISTER
from insitu_dicomweb_check.command import main
from tests.tools import need_program

from .servers import Service
from .wrong import Answer, Mistake, wrong_server

ROOT = Path(__file__).parents[2]


def test_exit_status_0_where_no_must_is_broken_and_1_where_one_is(ours: Service) -> None:
    assert ours.token
    arguments = ["--token", ours.token, "--only", "retrieve.unknown-study", "--read-only"]
    assert main([ours.url, *arguments]) == 0
    with wrong_server(ours.url, Mistake(answer=lambda _, answer: Answer(200, answer.headers, answer.body))) as url:
        assert main([url, *arguments]) == 1


def test_exit_status_2_where_the_server_cannot_be_asked(ours: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://127.0.0.1:9/dicom-web"]) == 2
    assert main([ours.url]) == 2  # without a token
    assert "--token" in capsys.readouterr().err
    assert main(["ftp://server"]) == 2
    assert main([]) == 2
    assert main([ours.url, "--only", "nothing.like.this"]) == 2
    assert main([ours.url, "--header", "no colon"]) == 2


def test_a_broken_must_is_a_failure_in_junit_and_what_is_not_offered_is_skipped(
    ours: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ours.token
    refuse = Mistake(
        request=lambda q: Answer(404, {}) if q.path.endswith("/thumbnail") else q,
        answer=lambda q, a: Answer(200, a.headers, a.body) if a.status == 404 else a,
    )
    file = tmp_path / "report.xml"
    with wrong_server(ours.url, refuse) as url:
        arguments = ["--only", "retrieve.unknown-study", "--only", "thumbnail.all", "--only", "retrieve.instance"]
        assert main([url, "--token", ours.token, "--junit", str(file), "--json", *arguments]) == 1
    root = ElementTree.parse(file).getroot()  # noqa: S314 - a report of our own
    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert cases["retrieve.unknown-study"].find("failure") is not None
    assert cases["thumbnail.all"].find("skipped") is not None
    assert "curl" in (cases["retrieve.instance"].findtext("system-out") or "")
    report = json.loads(capsys.readouterr().out)
    assert report["conforms"] is False
    assert report["counts"]["failed"] == 1


def test_the_list_names_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(REGISTER)


def test_a_request_of_a_report_can_be_replayed(
    ours: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ours.token
    need_program("curl", "curl")
    arguments = [ours.url, "--token", ours.token, "--only", "stow.wrong-media-type", "--only", "match.star"]
    main([*arguments, "--json", "--bodies", str(tmp_path)])
    report = json.loads(capsys.readouterr().out)
    lines = [line for check in report["checks"] for line in check["requests"]]
    assert len(lines) == 2
    statuses = []
    for line in lines:
        words = shlex.split(line.replace("$AUTHORIZATION", f"Bearer {ours.token}"))
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        statuses.append(done.stdout.split()[1])
    assert statuses == ["415", "200"]


def test_the_command_is_installed_and_packed_into_the_wheel() -> None:
    (found,) = entry_points(group="console_scripts", name="insitu-dicomweb-check")
    assert found.load().__name__ == "main"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert "tests/conformance/dicomweb/insitu_dicomweb_check" in packed
    assert "tests/conformance/dicomweb" in project["tool"]["hatch"]["build"]["dev-mode-dirs"]
