"""Tables of docs/kubernetes.md, which the tests compare with the rendered chart."""

from __future__ import annotations

from pathlib import Path

GUIDE = Path(__file__).parents[3] / "docs" / "kubernetes.md"


def table(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    lines = GUIDE.read_text().split("\n")
    start = next(
        number for number, line in enumerate(lines) if line.lstrip("#").strip() == heading and line.startswith("#")
    )
    rows: list[list[str]] = []
    for line in lines[start + 1 :]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]
