"""The documentation is true: references match the code, links lead somewhere, no machine's path or registry stands in it."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), *ROOT.glob("extensions/*/README.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"]
)


def test_the_reference_pages_match_the_code() -> None:
    specification = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)
    for file, make in generate.PAGES.items():
        assert (ROOT / "docs" / file).read_text() == make(), f"make docs/{file} anew: .venv/bin/python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_command_named_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"`make ([a-z-]+)`", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"make {name}"


def test_no_path_of_a_build_machine_and_no_registry_stands_in_a_file() -> None:
    registries = "|".join(["npm" + "js", "python" + "hosted", "py" + "pi", "yarn" + "pkg", "deb[.]" + "debian"])
    pattern = rf"({registries})[.](org|io|com)|(^|[^a-zA-Z0-9_.])/(work|farm)/"
    found = subprocess.run(
        ["git", "grep", "-nIE", pattern, "--", "."], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.stdout == ""
