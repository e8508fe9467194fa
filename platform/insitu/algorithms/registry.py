"""The algorithms that are installed on this site.

Not here: a package's files and environment (package), who may install (the services).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, NotFound
from insitu.settings import IMAGE, Settings

from . import manifest as manifests
from . import package as packages

COLUMNS = "digest, name, version, manifest, location, image, trusted, enabled, installed_at, installed_by"


@dataclass(frozen=True)
class Installed:
    """An installed algorithm."""

    digest: str
    name: str
    version: str
    manifest: dict[str, Any]
    location: Path
    image: str | None
    trusted: bool
    enabled: bool
    installed_at: datetime
    installed_by: str


def _of(row: Row) -> Installed:
    return Installed(**{**row, "location": Path(row["location"])})


def install(
    connection: Connection,
    settings: Settings,
    folder: Path,
    installed_by: str,
    *,
    trusted: bool = False,
    image: str | None = None,
) -> Installed:
    """Install the package in `folder`: a copy in the home, its environment, a row. The same package again is a no-op.

    In a cluster its image takes the place of copy and environment.

    Parameters
    ----------
    connection : Connection
        Nothing is asked of it before the environment is built, which can take a minute.
    settings : Settings
    folder : pathlib.Path
    installed_by : str
        As it stands in the audit trail.
    trusted : bool
        Shipped with the platform: runs also where it cannot be isolated.
    image : str, optional
        Image that was built from the package, by digest. The same package with another image, built anew, is run in that from now on.

    Raises
    ------
    Invalid
        The package has mistakes or its environment cannot be built; the image is not named by digest, or missing where one is needed.
    Conflict
        Another package of this name and version is installed.
    """
    manifest = packages.check(folder)
    digest = packages.digest(folder)
    location = settings.home / "algorithms" / manifest.name / digest.removeprefix("sha256:")
    if image is not None:
        check_image(image)
    if settings.in_cluster:
        if image is None:
            raise Invalid(
                "A cluster runs an algorithm by its image, and none is named",
                value=f"{manifest.name}@{manifest.version}",
                remedy="Build it from the package's Dockerfile, push it, and name it: --image REGISTRY/NAME@sha256:DIGEST",
            )
    else:
        location.parent.mkdir(parents=True, exist_ok=True)
        packages.copy(folder, location)
        packages.ensure_environment(settings, location, manifest)
    connection.execute(
        "INSERT INTO algorithm (digest, name, version, manifest, location, image, trusted, installed_by)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            digest,
            manifest.name,
            manifest.version,
            Jsonb(manifests.dump(manifest)),
            str(location),
            image,
            trusted,
            installed_by,
        ),
    )
    row = connection.execute(
        f"SELECT {COLUMNS} FROM algorithm WHERE name = %s AND version = %s", (manifest.name, manifest.version)
    ).fetchone()
    if row is None or row["digest"] != digest:
        raise Conflict(
            "Another package of this name and version is installed",
            value=f"{manifest.name}@{manifest.version}",
            why="a version names one package for good, so that results stay traceable",
            remedy="Give the changed package a new version",
        )
    if trusted and not row["trusted"]:
        connection.execute("UPDATE algorithm SET trusted = true WHERE digest = %s", (digest,))
    if image is not None and row["image"] != image:
        connection.execute("UPDATE algorithm SET image = %s WHERE digest = %s", (image, digest))
    if row["location"] != str(location):  # the home was moved
        connection.execute("UPDATE algorithm SET location = %s WHERE digest = %s", (str(location), digest))
    return find(connection, f"{manifest.name}@{manifest.version}")


def check_image(image: str) -> None:
    """Return if an image is named by its digest.

    Raises
    ------
    Invalid
        It is not.
    """
    if not IMAGE.fullmatch(image):
        raise Invalid(
            "An image is named by its digest",
            value=image,
            why="a tag may name another image tomorrow, and results must stay traceable to what computed them",
            remedy="Give it as REGISTRY/NAME@sha256:DIGEST, as the push of the image printed it",
        )


def listed(connection: Connection) -> list[Installed]:
    """Every installed algorithm, by name, the newest version first."""
    rows = connection.execute(f"SELECT {COLUMNS} FROM algorithm ORDER BY name, installed_at DESC, version").fetchall()
    return [_of(row) for row in rows]


def find(connection: Connection, name: str) -> Installed:
    """An algorithm by NAME (the version installed last among the enabled ones, else the last) or NAME@VERSION.

    Raises
    ------
    NotFound
        It is not installed.
    """
    wanted, _, version = name.partition("@")
    row = connection.execute(
        f"SELECT {COLUMNS} FROM algorithm WHERE name = %s AND (%s = '' OR version = %s)"
        " ORDER BY enabled DESC, installed_at DESC LIMIT 1",
        (wanted, version, version),
    ).fetchone()
    if row is None:
        raise NotFound("This algorithm is not installed", value=name, remedy="List them: insitu algorithm list")
    return _of(row)


def enable(connection: Connection, name: str, enabled: bool) -> Installed:
    """Let new runs use an algorithm (NAME or NAME@VERSION), or no longer. Runs that were asked for are not touched.

    Raises
    ------
    NotFound
        It is not installed.
    Invalid
        Several versions are installed and none is named.
    """
    versions = [item.version for item in listed(connection) if item.name == name]
    if len(versions) > 1:
        raise Invalid(
            "Several versions of this algorithm are installed",
            value=name,
            remedy=f"Name one: {', '.join(f'{name}@{version}' for version in versions)}",
        )
    found = find(connection, name)
    connection.execute("UPDATE algorithm SET enabled = %s WHERE digest = %s", (enabled, found.digest))
    return find(connection, f"{found.name}@{found.version}")
