"""A report for people (a table), for build servers (JUnit XML), for programs (JSON) and for a page (Markdown)."""

from __future__ import annotations

from collections import Counter
from typing import Any
from xml.etree import ElementTree

from .check import EDITION, OPTIONAL, Level, Outcome, Result
from .runner import Report

SIGNS = {
    Result.PASSED: "ok",
    Result.FAILED: "FAIL",
    Result.WARNED: "warn",
    Result.NOT_OFFERED: "none",
    Result.SKIPPED: "skip",
}
COLOURS = {Result.PASSED: "green", Result.FAILED: "bold red", Result.WARNED: "yellow"}


def counts(report: Report) -> dict[str, int]:
    """Number of checks by result."""
    found = Counter(outcome.result for outcome in report.outcomes)
    return {str(result): found.get(result, 0) for result in Result}


def lacking(report: Report) -> list[Outcome]:
    """What the standard requires and the server says it does not offer; no mistake in an answer, and still to be known."""
    return [
        outcome
        for outcome in report.of(Result.NOT_OFFERED)
        if outcome.check.level == Level.MUST and outcome.check.group not in OPTIONAL
    ]


def summary(report: Report) -> str:
    """The run in a sentence or two."""
    number = counts(report)
    text = (
        f"{len(report.outcomes)} checks: {number['passed']} passed, {number['failed']} failed (a broken must),"
        f" {number['warned']} warnings, {number['not offered']} not offered, {number['skipped']} skipped"
    )
    if lacking(report):
        text += "\nrequired by the standard and not offered: " + ", ".join(o.check.name for o in lacking(report))
    if report.left:
        text += "\nstill on the server (studies): " + ", ".join(report.left)
    return text


def lines(outcome: Outcome, *, verbose: bool) -> list[str]:
    """One check as plain text; with what was expected where it did not pass, and the requests where asked for."""
    check = outcome.check
    text = [f"{SIGNS[outcome.result]:4}  {check.level:6}  {check.name:44}  {check.citation}"]
    if verbose or outcome.result in (Result.FAILED, Result.WARNED):
        text.append(f"        expected: {check.expects}")
    if verbose or outcome.result != Result.PASSED:
        text.append(f"        came: {outcome.came}")
    if verbose:
        text += [f"        {exchange.curl()}  # {exchange.status}" for exchange in outcome.exchanges]
    return text


def print_report(report: Report, *, verbose: bool) -> None:
    """Print the table: with rich where it is installed and a person looks at it, as plain text otherwise."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print_plain(report, verbose=verbose)
        return
    console = Console()
    if verbose or not console.is_terminal:
        print_plain(report, verbose=verbose)
        return
    table = Table(title=f"DICOMweb of {report.url} ({report.name}) against {EDITION}", title_justify="left")
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("expected, and what came", overflow="fold")
    for outcome in report.outcomes:
        check, colour = outcome.check, COLOURS.get(outcome.result, "dim")
        told = check.expects if outcome.result == Result.PASSED else f"{check.expects}\n{outcome.came}"
        table.add_row(
            f"[{colour}]{SIGNS[outcome.result]}[/]",
            f"{check.name}\n[dim]{check.level}, {check.citation}[/]",
            told.replace("[", "\\["),
        )
    console.print(table)
    console.print(summary(report), markup=False, highlight=False)


def print_plain(report: Report, *, verbose: bool) -> None:
    """The table as plain text."""
    print(f"DICOMweb of {report.url} ({report.name}) against {EDITION}\n")
    for outcome in report.outcomes:
        print("\n".join(lines(outcome, verbose=verbose)))
    print("\n" + summary(report))


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "url": report.url,
        "server": report.name,
        "edition": EDITION,
        "started": report.started.isoformat(timespec="seconds"),
        "counts": counts(report),
        "conforms": report.conforms,
        "left": report.left,
        "checks": [
            {
                "name": outcome.check.name,
                "level": str(outcome.check.level),
                "paragraph": outcome.check.citation,
                "expects": outcome.check.expects,
                "result": str(outcome.result),
                "came": outcome.came,
                "seconds": round(outcome.seconds, 3),
                "requests": [exchange.curl() for exchange in outcome.exchanges],
            }
            for outcome in report.outcomes
        ],
    }


def as_junit(report: Report) -> bytes:
    """The report as JUnit XML: failures are broken musts, what is not offered or skipped is skipped, warnings are told."""
    number = counts(report)
    suite = ElementTree.Element(
        "testsuite",
        name="insitu-dicomweb-check",
        tests=str(len(report.outcomes)),
        failures=str(number["failed"]),
        errors="0",
        skipped=str(number["not offered"] + number["skipped"]),
        time=f"{sum(o.seconds for o in report.outcomes):.3f}",
        timestamp=report.started.strftime("%Y-%m-%dT%H:%M:%S"),
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("url", report.url), ("server", report.name), ("edition", EDITION)):
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    for outcome in report.outcomes:
        check = outcome.check
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"dicomweb.{check.group}", name=check.name, time=f"{outcome.seconds:.3f}"
        )
        told = f"{check.citation} ({check.level}). Expected: {check.expects}. Came: {outcome.came}"
        if outcome.result == Result.FAILED:
            ElementTree.SubElement(case, "failure", message=_clean(outcome.came)).text = _clean(told)
        elif outcome.result in (Result.NOT_OFFERED, Result.SKIPPED):
            ElementTree.SubElement(case, "skipped", message=_clean(f"{outcome.result}: {outcome.came}"))
        replay = "\n".join(exchange.curl() for exchange in outcome.exchanges)
        prefix = "WARNING " if outcome.result == Result.WARNED else ""
        ElementTree.SubElement(case, "system-out").text = _clean(f"{prefix}{told}\n{replay}")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _clean(text: str) -> str:
    """The text without characters that XML cannot hold."""
    return "".join(c if c in "\t\n" or " " <= c < "\ufffe" else "?" for c in text)
