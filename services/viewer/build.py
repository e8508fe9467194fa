"""Fetch OHIF's published build, check it against the hash in ohif.json, and prepare it to be served under /viewer/.

Not here: serving it (insitu_services.api.viewer). OHIF is not built and not changed, except that
- the path it believes to be served from (`/`, baked in) becomes `/viewer/`;
- a report that measures segments, without coordinates in images, is shown as text: OHIF's own view of it fails;
- inline scripts move into a file, so that the content security policy can forbid inline scripts;
- its service worker, configurations of others, and a neural network's runtime (which loads its weights from elsewhere) stay out.

Needs npm for the download only, and Python's standard library. `python build.py [ARCHIVE]` takes a downloaded archive.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "build" / "viewer"
PREFIX = "package/dist/"
LEFT_OUT = re.compile(
    r"(sw|init-service-worker|google|oidc-client\.min|es6-shim\.min|polyfill\.min)\.js|.*\.map|manifest\.json|serve\.json"
    r"|silent-refresh\.html|_headers|_redirects|ort/.*|assets/(apple-touch-startup-image|yandex|mstile|browserconfig).*"
)
COMPRESSED = {".js", ".css", ".wasm", ".svg", ".html", ".json"}
PUBLIC_PATH = re.compile(r'(__webpack_require__\.p = )"/"')
REPORT_TEST = re.compile(r"(const isImagingMeasurementReport = ConceptNameCodeSequence\?\.CodeValue === [^;]+);")
INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
UNUSED_TAGS = re.compile(
    r'<link rel="(?:manifest|yandex-tableau-widget|apple-touch-startup-image)"[^>]*>|<meta name="msapplication-[^>]*>'
    r'|<script[^>]*src="/init-service-worker\.js"[^>]*></script>'
)


def fail(message: str) -> NoReturn:
    """End with one sentence."""
    raise SystemExit(f"viewer: {message}")


def download(package: dict[str, str], folder: Path) -> Path:
    """The package's archive, fetched by npm from the registry this machine uses."""
    npm = shutil.which("npm")
    if npm is None:
        fail("npm is not on this machine; install Node.js 20 or newer, or give the archive's path as argument")
    name = f"{package['package']}@{package['version']}"
    line = [str(npm), "pack", name, "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    outcome = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.tgz"))
    if outcome.returncode != 0 or len(found) != 1:
        fail(f"npm could not fetch {name}: {(outcome.stderr or outcome.stdout).strip()[-500:]}")
    return found[0]


def verify(archive: Path, integrity: str) -> None:
    """Compare the archive with its hash."""
    algorithm, _, expected = integrity.partition("-")
    digest = hashlib.new(algorithm, archive.read_bytes()).digest()
    if base64.b64encode(digest).decode() != expected:
        fail(f"{archive.name} is not the file that ohif.json names: its {algorithm} differs; nothing was installed")


def extract(archive: Path, target: Path) -> None:
    """Write the files of `dist/` that are needed."""
    target = target.resolve()
    with tarfile.open(archive, "r:gz") as files:
        for member in files:
            if member.name == "package/LICENSE":
                name = "LICENSE"
            elif member.isfile() and member.name.startswith(PREFIX):
                name = member.name.removeprefix(PREFIX)
            else:
                continue
            path = (target / name).resolve()
            if LEFT_OUT.fullmatch(name) or not path.is_relative_to(target):
                continue
            content = files.extractfile(member)
            if content is None:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                shutil.copyfileobj(content, out)


def rewrite(target: Path) -> None:
    """Move everything from `/` to `/viewer/`, and inline scripts into a file."""
    replaced = patched = 0
    for path in target.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        changed, count = PUBLIC_PATH.subn(r'\1"/viewer/"', text)
        changed = changed.replace("'/dicom-microscopy-viewer/", "'/viewer/dicom-microscopy-viewer/")
        changed, reports = REPORT_TEST.subn(r"\1 && window.insitu.hasCoordinates(instance.ContentSequence);", changed)
        replaced += count
        patched += reports
        if changed != text:
            path.write_text(changed, encoding="utf-8")
    if replaced == 0 or patched != 1:
        fail("this build of OHIF does not look as the known one; nothing was installed")
    for path in target.glob("*.css"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"url\((['\"]?)/(?!/)", r"url(\1/viewer/", text), encoding="utf-8")
    index = target / "index.html"
    html = UNUSED_TAGS.sub("", index.read_text(encoding="utf-8"))
    scripts = [script.replace("PUBLIC_URL = '/'", "PUBLIC_URL = '/viewer/'") for script in INLINE_SCRIPT.findall(html)]
    (target / "start.js").write_text("\n".join(scripts), encoding="utf-8")
    html = INLINE_SCRIPT.sub("", html)
    html = re.sub(r'\b(href|src)="/(?!/|viewer/)', r'\1="/viewer/', html)
    html = html.replace("<title>OHIF Viewer</title>", "<title>Insitu viewer</title>")
    html = html.replace('<script rel="preload"', '<script src="/viewer/start.js"></script><script rel="preload"', 1)
    if 'src="/viewer/start.js"' not in html:
        fail("this build of OHIF has another index.html than is known; nothing was installed")
    index.write_text(html, encoding="utf-8")


def compress(target: Path) -> None:
    """Put a gzip beside every larger text or program, so that serving costs no computation."""
    for path in sorted(target.rglob("*")):
        if path.is_file() and path.suffix in COMPRESSED and path.stat().st_size > 10_000:
            compressed = gzip.compress(path.read_bytes(), compresslevel=6, mtime=0)
            path.with_name(path.name + ".gz").write_bytes(compressed)


def main() -> None:
    """Build into a folder beside the target, then put it in place."""
    package = json.loads((HERE / "ohif.json").read_text(encoding="utf-8"))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="viewer-", dir=TARGET.parent) as name:
        folder = Path(name)
        archive = Path(sys.argv[1]) if len(sys.argv) > 1 else download(package, folder)
        verify(archive, package["integrity"])
        built = folder / "built"
        extract(archive, built)
        shutil.copy(HERE / "app-config.js", built / "app-config.js")
        rewrite(built)
        compress(built)
        shutil.rmtree(TARGET, ignore_errors=True)
        built.rename(TARGET)
    (TARGET / "index.html").touch()


if __name__ == "__main__":
    main()
