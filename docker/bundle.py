"""Make one archive with everything a site without internet installs from: `make bundle`.

Images (OCI layout), the chart, the list of images, the bill of materials, checksums, and `load`, which brings the images into the site's
registry and writes the values that name them there. The same commit gives the same archive; what dates it is the commit.

Not here: how an image is built (build.py), what is read from it (bill.py), and what happens at the site (load.py).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import build
from bill import Bill, Reader
from layout import Kept, Layout, Unusable, export, unpack

ROOT = Path(__file__).resolve().parents[1]
# The values of the chart that name each image; a package's image is named by the package.
VALUES = {"platform": "images.platform", "airflow": "images.airflow", "object-store": "images.objectStore"}
README = """# Insitu {version}, for a site without internet

Unpacked from insitu-bundle-{version}.tar, made from commit {revision}.

    sha256sum --check --quiet SHA256SUMS
    ./load registry.hospital.example/imaging --user NAME --password-file FILE
    helm install insitu ./{chart} --namespace imaging --values values.registry.yaml --values site.yaml --wait --timeout 10m

`load` needs Python 3.9 or newer and nothing else. [docs/offline.md](docs/offline.md) says it in full,
[docs/kubernetes.md](docs/kubernetes.md) what stands in site.yaml. `images.json` lists the images, `sbom.cdx.json` what they are
made of (CycloneDX).
"""


def fail(message: str) -> NoReturn:
    """End with one sentence."""
    raise SystemExit(f"bundle: {message}")


def epoch() -> int:
    """Seconds since 1970 that date the bundle: SOURCE_DATE_EPOCH, or the commit."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or build.git("log", "-1", "--format=%ct") or 0)


def source(program: str | None, reference: str, folder: Path) -> tuple[Layout, str | None]:
    """The layout that an image is in, and its name there: `oci:FOLDER[:NAME]`, `oci-archive:FILE[:NAME]`, or what the engine has."""
    kind, _, rest = reference.partition(":")
    if kind in {"oci", "oci-archive"}:
        path, _, name = rest.partition(":")
        if not Path(path).exists():
            fail(f"there is no {path}")
        return Layout(Path(path)) if kind == "oci" else unpack(Path(path), folder), name or None
    return export(program or build.engine(), reference, folder), None


def package_chart(folder: Path, version: str, seconds: int) -> Path:
    """The chart as `helm package` makes it, with the times of its files set and its members in order."""
    helm = os.environ.get("HELM") or shutil.which("helm")
    if helm is None:
        fail("Helm is not on this machine, and it packages the chart: install it, or name it by HELM=")
    line = [helm, "package", str(ROOT / "charts" / "insitu"), "--destination", str(folder)]
    outcome = subprocess.run(
        [*line, "--version", version, "--app-version", version], capture_output=True, text=True, check=False
    )
    path = folder / f"insitu-{version}.tgz"
    if outcome.returncode != 0 or not path.exists():
        fail(f"helm does not package the chart: {outcome.stderr.strip()[-1000:]}")
    again = io.BytesIO()
    with (
        tarfile.open(path, "r:gz") as members,
        tarfile.open(fileobj=again, mode="w", format=tarfile.PAX_FORMAT) as made,
    ):
        # Chart.yaml first, as Helm has it
        for member in sorted(members, key=lambda one: (one.name != "insitu/Chart.yaml", one.name)):
            add(made, member.name, members.extractfile(member), member.size, 0o644, seconds)
    path.write_bytes(gzip.compress(again.getvalue(), compresslevel=9, mtime=0))
    return path


def add(tar: tarfile.TarFile, name: str, content: object, size: int, mode: int, seconds: int) -> None:
    """Put a file into an archive with nothing of this machine."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, mode, seconds
    tar.addfile(member, content)  # type: ignore[arg-type]


def take_images(folder: Path, given: argparse.Namespace, version: str) -> dict[str, Kept]:
    """Build what is named, and take all images into the layout of the bundle."""
    layout = Layout(folder / "images")
    built = dict(one.partition("=")[::2] for one in given.image)
    unknown = sorted({*given.names, *built} - {*build.sources()})
    if unknown:
        fail(f"there is no image {unknown[0]!r}; there are {', '.join(build.sources())}")
    names = list(given.names) or ([] if built else [*build.sources()])
    program = build.engine() if names or not all(one.startswith("oci") for one in built.values()) else None
    kept = {}
    for name in [one for one in build.sources() if one in names or one in built]:
        reference = built.get(name) or build.build(str(program), name, quiet=True).id
        with tempfile.TemporaryDirectory(prefix="export-", dir=folder.parent) as place:
            exported, called = source(program, reference, Path(place) / "image")
            kept[name] = layout.take(exported, f"insitu/{name}:{version}", called)
        print(f"{kept[name].name:<32} {kept[name].digest}  {kept[name].bytes / 1e6:5.0f} MB", flush=True)
    return kept


def describe(folder: Path, kept: dict[str, Kept], version: str, chart: Path) -> None:
    """Write the list of images."""
    images = [
        {
            "name": name,
            "repository": image.name.rpartition(":")[0],
            "tag": image.name.rpartition(":")[2],
            "digest": image.digest,
            "bytes": image.bytes,
            "platform": image.platform,
            "value": VALUES.get(name, f"algorithms.images.{name}"),
            "blobs": image.blobs,
        }
        for name, image in kept.items()
    ]
    content = {"version": version, "revision": build.revision(), "chart": chart.name, "images": images}
    (folder / "images.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def add_bill(folder: Path, kept: dict[str, Kept], version: str, chart: Path, seconds: int) -> int:
    """Write the bill of materials; the number of its components."""
    bill, reader = Bill(version, seconds, ROOT / "services" / "viewer" / "ohif.json"), Reader(Layout(folder / "images"))
    bill.add_chart(version, hashlib.sha256(chart.read_bytes()).hexdigest())
    for name, image in kept.items():
        if not bill.add_image(image, reader.contents(image)):
            print(f"bundle: nothing is known of what is in {name}", flush=True)
    try:
        (folder / "sbom.cdx.json").write_text(bill.text(), encoding="utf-8")
    except ValueError as error:
        fail(str(error))
    return len(bill.bom.components)


def add_documents(folder: Path, version: str, chart: Path) -> None:
    """What a person reads and starts."""
    shutil.copytree(
        ROOT / "docs", folder / "docs", ignore=lambda _, names: [n for n in names if n.endswith(".py") or n[0] in "._"]
    )
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    for program in ("load.py", "registry.py"):
        shutil.copyfile(ROOT / "docker" / program, folder / program)
    shutil.copyfile(ROOT / "docker" / "load.sh", folder / "load")
    (folder / "load").chmod(0o755)
    text = README.format(version=version, revision=build.revision(), chart=chart.name)
    (folder / "README.md").write_text(text, encoding="utf-8")


def files(folder: Path) -> list[Path]:
    """The files of the bundle, in order."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=str)


def add_sums(folder: Path) -> None:
    """Write SHA256SUMS as `sha256sum --check` reads it."""
    lines = []
    for path in files(folder):
        with path.open("rb") as content:
            lines.append(f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {path.relative_to(folder)}\n")
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def archive(folder: Path, target: Path, seconds: int) -> str:
    """Put the folder into one tar file; its SHA-256, which is written beside it too."""
    partial = target.with_name(target.name + ".part")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in files(folder):
            mode = 0o755 if path.name == "load" else 0o644
            with path.open("rb") as content:
                add(tar, f"{folder.name}/{path.relative_to(folder)}", content, path.stat().st_size, mode, seconds)
    partial.replace(target)
    with target.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    target.with_name(target.name + ".sha256").write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    return digest


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, gather, describe, pack."""
    parser = argparse.ArgumentParser(description="Make the bundle for a site without internet.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="images to build and take; all without")
    parser.add_argument(
        "--image", action="append", default=[], metavar="NAME=REFERENCE",
        help="an image that is built already: a name or identity in the engine's store, oci:FOLDER[:NAME] or oci-archive:FILE[:NAME]",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="folder of the result; %(default)s without")
    given = parser.parse_args(arguments)
    version, seconds = build.version(), epoch()
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bundle-", dir=given.output) as place:
        folder = Path(place) / f"insitu-bundle-{version}"
        folder.mkdir()
        try:
            kept = take_images(folder, given, version)
        except Unusable as error:
            fail(str(error))
        chart = package_chart(folder, version, seconds)
        describe(folder, kept, version, chart)
        components = add_bill(folder, kept, version, chart, seconds)
        add_documents(folder, version, chart)
        add_sums(folder)
        target = given.output / f"{folder.name}.tar"
        digest = archive(folder, target, seconds)
    print(
        f"{target}: {target.stat().st_size / 1e6:.0f} MB, {len(kept)} images, {components} components in the bill of materials"
    )
    print(f"SHA-256 {digest}")


if __name__ == "__main__":
    main()
