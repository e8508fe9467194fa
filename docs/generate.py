"""Makes settings.md, commands.md, conformance-statement.md, helm-values.md and the chart's values.schema.json; a test compares them with
what is committed.

Run with the platform's Python: `.venv/bin/python docs/generate.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from insitu.cli import COMMANDS, command
from insitu.cli.settings import page

FOLDER = Path(__file__).parent
if str(FOLDER) not in sys.path:
    sys.path.insert(0, str(FOLDER))

import helm_values  # noqa: E402 - beside this file, which tests load from elsewhere
from conformance_statement import statement  # noqa: E402


def usage(found: Any) -> list[str]:
    """Lines about one command: what it does, its arguments and options."""
    lines = [(found.help or "").strip().split("\n\n")[0], ""]
    parameters = [item for item in found.params if item.name != "help" and not getattr(item, "hidden", False)]
    for item in parameters:
        if item.param_type_name == "argument":
            name = f"`{item.name.upper()}{'...' if item.nargs != 1 else ''}`"
        else:
            name = ", ".join(f"`{option}`" for option in (*item.opts, *item.secondary_opts))
        lines.append(f"- {name}: {getattr(item, 'help', None) or ('required' if item.required else 'optional')}")
    return [*lines, ""] if parameters else lines


def commands_page() -> str:
    """The command reference in Markdown."""
    lines = ["# Commands", "", "`insitu --home DIR COMMAND` works on the installation in DIR.", ""]
    for name in COMMANDS:
        found = command(name)
        if hasattr(found, "commands"):
            lines += [f"## insitu {name}", "", (found.help or COMMANDS[name].help).strip(), ""]
            for part in sorted(found.commands):
                lines += [f"### insitu {name} {part}", "", *usage(found.commands[part])]
        else:
            lines += [f"## insitu {name}", "", *usage(found)]
    return "\n".join(lines).rstrip() + "\n"


PAGES = {
    "../platform/insitu/doctor/chart_values.yaml": helm_values.defaults,
    "settings.md": page,
    "commands.md": commands_page,
    "conformance-statement.md": statement,
    "helm-values.md": helm_values.page,
    "../charts/insitu/values.schema.json": helm_values.schema,
}

if __name__ == "__main__":
    for file, make in PAGES.items():
        (FOLDER / file).write_text(make())
