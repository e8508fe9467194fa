"""The command `insitu-dicomweb-check URL`."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import checks  # noqa: F401 - fills the register
from .check import EDITION, REGISTER, Check
from .report import as_json, as_junit, lines, print_report
from .runner import Unreachable, run
from .server import Server

CONFORMS, BROKEN, CANNOT = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(
        prog="insitu-dicomweb-check",
        description=f"Checks a DICOMweb server against {EDITION}: storing, searching, retrieving, rendering, deleting. "
        "It stores a few small test objects with UIDs of their own and deletes them at the end where the server can.",
        epilog='Exit status: 0 no "must" is broken, 1 one is, 2 the server could not be asked or the options are wrong.',
    )
    found.add_argument("url", nargs="?", help="base of the service, for example http://localhost:8042/dicom-web")
    found.add_argument("--token", help="bearer token for the Authorization header")
    found.add_argument("--user", metavar="NAME:PASSWORD", help="basic authentication")
    found.add_argument(
        "--header", action="append", default=[], metavar="NAME:VALUE", help="one more header; repeatable"
    )
    found.add_argument(
        "--only", action="append", default=[], metavar="PATTERN",
        help="only checks whose name fits, for example 'search.*' or 'stow.*'; repeatable",
    )  # fmt: skip
    found.add_argument("--list", action="store_true", help="list the checks and end")
    found.add_argument("--read-only", action="store_true", help="store and delete nothing; look at what is there")
    found.add_argument("--keep", action="store_true", help="leave the test objects on the server")
    found.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit XML report")
    found.add_argument("--json", action="store_true", help="print the report as JSON")
    found.add_argument(
        "--bodies", type=Path, metavar="DIR", help="keep the bodies of requests, to replay them with curl"
    )
    found.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for one answer; 60 by default")
    found.add_argument(
        "--settle", type=float, default=0.0, metavar="SECONDS",
        help="wait this long after storing before asking, for servers that index later",
    )  # fmt: skip
    found.add_argument(
        "-v", "--verbose", action="store_true", help="show each check's expectation and its requests as curl lines"
    )
    return found


def chosen(patterns: Sequence[str]) -> list[Check]:
    """The checks whose names fit any of the patterns; all without one."""
    if not patterns:
        return list(REGISTER.values())
    return [check for check in REGISTER.values() if any(fnmatch.fnmatchcase(check.name, p) for p in patterns)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    options = parser().parse_args(arguments)
    selected = chosen(options.only)
    if options.list:
        for check in selected:
            print(f"{check.level:6}  {check.name:44}  {check.citation:32}  {check.expects}")
        return CONFORMS
    if not options.url:
        return _refuse("the address of a server is missing")
    if not options.url.startswith(("http://", "https://")):
        return _refuse(f"{options.url} is no http or https address")
    if not selected:
        return _refuse(f"no check fits {', '.join(options.only)}; --list shows them")
    headers = {}
    for text in options.header:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            return _refuse(f"{text!r} is not NAME:VALUE")
        headers[name.strip()] = value.strip()
    if options.token:
        headers["Authorization"] = f"Bearer {options.token}"
    user = None
    if options.user:
        name, colon, password = options.user.partition(":")
        if not colon:
            return _refuse("--user is NAME:PASSWORD")
        user = (name, password)
    if options.bodies:
        options.bodies.mkdir(parents=True, exist_ok=True)
    server = Server(options.url, headers, user, options.timeout, options.bodies)
    try:
        report = run(
            server, selected, read_only=options.read_only, keep=options.keep, settle=lambda: time.sleep(options.settle),
            progress=lambda outcome: _progress(lines(outcome, verbose=False)[0]),
        )  # fmt: skip
    except Unreachable as error:
        return _refuse(f"{options.url} cannot be checked: {error}")
    finally:
        server.close()
        _progress("")
    if options.junit:
        options.junit.write_bytes(as_junit(report))
    if options.json:
        print(json.dumps(as_json(report), ensure_ascii=False, indent=1))
    else:
        print_report(report, verbose=options.verbose)
    return CONFORMS if report.conforms else BROKEN


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line[:100]}", end="", file=sys.stderr, flush=True)


def _refuse(why: str) -> int:
    print(f"insitu-dicomweb-check: {why}", file=sys.stderr)
    return CANNOT
