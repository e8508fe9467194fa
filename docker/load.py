#!/usr/bin/env python3
"""Load the images of this bundle into a registry, and write the values with which the chart finds them there.

    ./load registry.hospital.example/imaging --user insitu --password-file password

It needs Python 3.9 or newer and nothing else (`load` looks for one); docs/offline.md says the rest. Every file is compared with
SHA256SUMS first. Images are sent as they are, so that their digests stay; what the registry has is not sent again, so that the same
command goes on where it was interrupted.

Not here: how a registry is spoken to (registry.py), installing the chart, and how the cluster's nodes reach the registry.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import ssl
import sys
import time
from pathlib import Path
from typing import Any, Sequence  # noqa: UP035 - Python 3.9

from registry import PASSWORD, TRIES, Passing, Registry, Trouble, login, megabytes

HERE = Path(__file__).resolve().parent


def verify(folder: Path) -> int:
    """Compare every file with SHA256SUMS; the sum of their sizes in bytes."""
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise Trouble(f"there is no SHA256SUMS in {folder}: unpack the whole bundle, and start `load` where it is")
    total, wrong = 0, []
    for line in sums.read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing{used_by(folder, name)}")
            continue
        total += path.stat().st_size
        found = digest_of(path)
        if found != expected:
            wrong.append(
                f"{name} is damaged{used_by(folder, name)}: its SHA-256 is {found[:12]}..., not {expected[:12]}..."
            )
    if wrong:
        raise Trouble(
            "\n  ".join(["the bundle is not what it was when it was made; copy it again. Nothing was sent.", *wrong])
        )
    return total


def used_by(folder: Path, name: str) -> str:
    """The images that a blob is part of, in brackets."""
    digest = "sha256:" + name.rpartition("/")[2]
    users = []
    try:
        for image in json.loads((folder / "images.json").read_text(encoding="utf-8"))["images"]:
            if digest in (image["digest"], *image["blobs"]):
                users.append(image["repository"])
    except (OSError, ValueError, KeyError):
        return ""
    return f" (part of {', '.join(users)})" if users else ""


def digest_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def blob(folder: Path, digest: str) -> Path:
    """Where a blob lies in the OCI layout."""
    return folder / "images" / "blobs" / digest.replace(":", "/")


def send(registry: Registry, folder: Path, prefix: str, images: Sequence[dict[str, Any]]) -> None:
    """Send images, each blob once."""
    where: dict[str, str] = {}
    for image in images:
        began = time.monotonic()
        repository = f"{prefix}{image['repository']}"
        sent = count = 0
        for digest in image["blobs"]:
            path = blob(folder, digest)
            for left in range(TRIES - 1, -1, -1):
                try:
                    if registry.send_blob(repository, digest, path, where.get(digest)):
                        sent += path.stat().st_size
                        count += 1
                    break
                except Passing:
                    if not left:
                        raise
                    time.sleep(2.0 * (TRIES - left))
            where.setdefault(digest, repository)
        tag = registry.send_manifest(
            repository, image["tag"], image["digest"], blob(folder, image["digest"]).read_bytes()
        )
        amount = f"{count} of {len(image['blobs'])} parts sent, {megabytes(sent)}" if count else "was there"
        print(f"  {repository}:{tag} {image['digest']}: {amount}, {time.monotonic() - began:.0f} s", flush=True)


def values(name: str, images: Sequence[dict[str, Any]]) -> str:
    """The values with which the chart finds the images in the registry `name`, with the path before their repositories if there is one."""
    platform, algorithms = [], []
    for image in images:
        scope, _, key = image["value"].rpartition(".")
        if scope == "algorithms.images":
            algorithms.append(f"    {key}: {json.dumps(name + '/' + image['repository'] + '@' + image['digest'])}")
        else:
            platform.append(
                f"  {key}: {{repository: {json.dumps(image['repository'])}, tag: {json.dumps(image['tag'])}, "
                f"digest: {json.dumps(image['digest'])}}}"
            )
    lines = [
        "# Written by `load`: where the images of this bundle are. Give it to Helm before your own values.",
        "global:",
    ]
    lines.append(f"  imageRegistry: {json.dumps(name)}")
    lines += ["images:", *platform] if platform else []
    lines += ["algorithms:", "  images:", *algorithms] if algorithms else []
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify, send, write the values."""
    parser = argparse.ArgumentParser(prog="load", description="Load the images of this bundle into a registry.")
    parser.add_argument(
        "registry", metavar="REGISTRY[/PATH]", help="where the images go: name, port and a path if there is one"
    )
    parser.add_argument(
        "--as", dest="name", metavar="NAME", help="how the cluster's nodes call that, where it is another name"
    )
    parser.add_argument(
        "--user", help=f"who pushes; the password stands in {PASSWORD} or in the file named by --password-file"
    )
    parser.add_argument("--password-file", type=Path, metavar="FILE")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="PEM file with the site's own authorities")
    parser.add_argument("--plain-http", action="store_true", help="the registry has no TLS")
    parser.add_argument("--only", nargs="+", metavar="IMAGE", help="these images alone")
    parser.add_argument(
        "--values", type=Path, metavar="FILE", default=HERE / "values.registry.yaml", help="%(default)s without"
    )
    parser.add_argument("--values-only", action="store_true", help="write the values and send nothing")
    given = parser.parse_args(arguments)
    host, _, path = given.registry.rstrip("/").partition("/")
    if "://" in given.registry or not host:
        raise Trouble(
            f"{given.registry!r} is not the name of a registry: write it without https://, for example {host or 'registry.example'}:5000"
        )
    if path and not re.fullmatch(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*", path):
        raise Trouble(
            f"{path!r} cannot be a path in a registry: lower case letters, digits and `.`, `_`, `-`, `/` between them"
        )
    if not given.values.absolute().parent.is_dir() or not os.access(given.values.absolute().parent, os.W_OK):
        raise Trouble(f"{given.values} cannot be written: name another place by --values FILE")
    total = verify(HERE)
    listed = json.loads((HERE / "images.json").read_text(encoding="utf-8"))
    images = [image for image in listed["images"] if not given.only or image["name"] in given.only]
    unknown = sorted(set(given.only or ()) - {image["name"] for image in images})
    if unknown:
        raise Trouble(
            f"there is no image {unknown[0]!r} in this bundle; there are {', '.join(i['name'] for i in listed['images'])}"
        )
    print(f"{megabytes(total)} are as they were made", flush=True)
    if not given.values_only:
        context = None
        if not given.plain_http:
            try:
                context = ssl.create_default_context(cafile=None)
                if given.ca:
                    context.load_verify_locations(given.ca)
            except (OSError, ssl.SSLError) as error:
                raise Trouble(f"--ca {given.ca} is not a PEM file with certificates: {error}") from error
        registry = Registry(host, context, login(host, given.user, given.password_file))
        registry.greet()
        send(registry, HERE, f"{path}/" if path else "", images)
    text = values((given.name or given.registry).rstrip("/"), images)
    partial = given.values.with_name(given.values.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(given.values)
    print(
        f"Written: {given.values}\nInstall, with the site's own values in site.yaml:\n"
        f"  helm install insitu {HERE / listed['chart']} --namespace imaging \\\n"
        f"    --values {given.values} --values site.yaml --wait --timeout 10m"
    )


if __name__ == "__main__":
    try:
        main()
    except (Trouble, OSError) as trouble:
        sys.exit(f"load: {trouble}")
    except KeyboardInterrupt:
        sys.exit("load: stopped; the same command goes on from here")
