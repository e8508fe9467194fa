"""The page docs/conformance-dicomweb.md: what the suite says of our server and of Orthanc, with date and versions.

`python -m tests.conformance` starts both and writes it. Not here: the checks (insitu_dicomweb_check).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from insitu_dicomweb_check.check import EDITION, REGISTER, Level, Result
from insitu_dicomweb_check.report import counts, lacking
from insitu_dicomweb_check.runner import Report

PAGE = Path(__file__).parents[2] / "docs" / "conformance-dicomweb.md"
SHORT = {
    Result.PASSED: "passed",
    Result.FAILED: "**fails**",
    Result.WARNED: "warning",
    Result.NOT_OFFERED: "not offered",
    Result.SKIPPED: "skipped",
}
INTRODUCTION = """# DICOMweb conformance

`insitu-dicomweb-check URL` checks any DICOMweb server against PS3.18, by its address alone. It knows nothing of Insitu and judges
every server alike.

```
insitu-dicomweb-check https://pacs.example/dicom-web --token TOKEN
insitu-dicomweb-check http://localhost:8080/dicom-web --token TOKEN --header 'X-Insitu-Reason: conformance'
insitu-dicomweb-check http://localhost:8042/dicom-web --user NAME:PASSWORD --junit report.xml
insitu-dicomweb-check http://localhost:8042/dicom-web --only 'search.*' --only 'match.*' --verbose
insitu-dicomweb-check --list
```

| option | |
|---|---|
| `--token`, `--user NAME:PASSWORD`, `--header NAME:VALUE` | credentials; they stand in no report, and go to no other host |
| `--only PATTERN` | some of the checks, by name; repeatable |
| `--read-only` | store and delete nothing: what can be found out about objects that are there |
| `--keep` | leave the test objects |
| `--settle SECONDS` | wait after storing before asking, for servers that index later, as Insitu does with what is not in its index |
| `--junit FILE`, `--json` | reports for build servers and programs |
| `--verbose` | for each check what was expected, what came, and its requests as `curl` lines; `--bodies DIR` keeps the bodies they send |
| exit status | 0: no *must* is broken; 1: one is; 2: the server could not be asked |

It stores seven small objects in four studies (CT, RLE compressed MR, multi-frame, structured report, encapsulated PDF; UTF-8,
ISO 8859-1, ISO 2022, GB18030; private attributes, nested sequences, bulk data) and a few more in a fifth, under new UIDs below
2.25, and deletes them at the end where the server can; otherwise it names the studies that are left. (Insitu wants a reason of
whoever deletes: the header in the second line.)

How to read a result:

- **must**: the standard says *shall*. A broken one fails, and the exit status is 1.
- **should**: it says *should* or *recommended*, makes it depend on what a server supports or knows, or contradicts HTTP or itself
  (why, for each: [decision 12](decisions/0012-conformance-suite.md)). Not to follow it is a warning.
- **may**: optional. A server that has it has to do it right, or a warning is given.
- **not offered**: the server says, by the status that is meant for it (404, 405, 415, 501 or 406), that it does not have this. That is
  an honest answer a client can act upon, so it does not fail; what the standard requires all the same is listed apart.
"""


def write(reports: Mapping[str, Report], versions: Mapping[str, str]) -> str:
    """The page.

    Parameters
    ----------
    reports : mapping
        Report by name of the server; ours first.
    versions : mapping
        What exactly was checked, by name of the server.
    """
    date = next(iter(reports.values())).started.date().isoformat()
    lines = [INTRODUCTION, f"## Results of {date}", ""]
    lines += [f"Against {EDITION}. Written by `make conformance`, which starts each server with an empty archive.", ""]
    lines += [
        "| | checked | passed | broken musts | warnings | not offered | skipped |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        number = counts(report)
        lines.append(
            f"| {name} | {versions[name]} | {number['passed']} | {number['failed']} | {number['warned']}"
            f" | {number['not offered']} | {number['skipped']} |"
        )
    lines.append("")
    for name, report in reports.items():
        lines += [f"### {name}", "", *_told(report)]
    lines += ["### Every check", "", "| check | level | paragraph | " + " | ".join(reports) + " |"]
    lines += ["|---|---|---|" + "---|" * len(reports)]
    by_name = [{outcome.check.name: outcome for outcome in report.outcomes} for report in reports.values()]
    for check in REGISTER.values():
        results = " | ".join(SHORT[found[check.name].result] for found in by_name)
        lines.append(f"| `{check.name}`: {_safe(check.expects)} | {check.level} | {check.citation} | {results} |")
    return "\n".join(lines) + "\n"


def _told(report: Report) -> list[str]:
    """What failed, what is lacking and what is warned of, each with what came."""
    lines = []
    for result, heading in ((Result.FAILED, "Broken *musts*"), (Result.WARNED, "Warnings")):
        outcomes = report.of(result)
        lines += [f"{heading}: {len(outcomes) or 'none'}.", ""]
        lines += [
            f"- `{o.check.name}` ({o.check.citation}). Expected: {_safe(o.check.expects)}. Came: {_safe(o.came)}"
            for o in outcomes
        ]
        lines += [""] if outcomes else []
    names = [f"`{outcome.check.name}`" for outcome in lacking(report)]
    if names:
        lines += ["Required by the standard and not offered: " + ", ".join(names) + ".", ""]
    optional = [f"`{o.check.name}`" for o in report.of(Result.NOT_OFFERED) if o.check.level != Level.MUST]
    if optional:
        lines += ["Optional and not offered: " + ", ".join(optional) + ".", ""]
    return lines


def _safe(text: str) -> str:
    """The text inside a table of Markdown, without addresses and UIDs that change from run to run."""
    text = re.sub(r"https?://127\.0\.0\.1:\d+", "http://server", text)
    text = re.sub(r"2\.25\.\d{10,}", "2.25.N", text)
    text = text if len(text) <= 160 else text[:157] + "..."
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("{", "&#123;")
