"""Algorithms of the site: list, look, install a package, let new runs use it or not.

Not here: what a package is and how it is installed (insitu.algorithms), runs (runs).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from insitu.algorithms import package as packages
from insitu.algorithms import registry
from insitu.algorithms.registry import Installed
from insitu.audit import trail
from insitu.projects.permissions import Action, Principal, Resource, authorize

from .access import requires
from .context import Ctx

router = APIRouter(prefix="/api/v1/algorithms", tags=["algorithms"])
Reader = Annotated[Principal, Depends(requires(Action.ALGORITHM_READ))]
Installer = Annotated[Principal, Depends(requires(Action.ALGORITHM_INSTALL))]


class Change(BaseModel):
    """What to change about an installed algorithm."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = Field(description="Whether new runs may use it.")


def described(installed: Installed) -> dict[str, Any]:
    """An installed algorithm as the answers show it."""
    return {
        "name": installed.name,
        "version": installed.version,
        "digest": installed.digest,
        "image": installed.image,
        "title": installed.manifest["title"],
        "intended_use": installed.manifest["intended_use"],
        "not_for": installed.manifest["not_for"],
        "trusted": installed.trusted,
        "enabled": installed.enabled,
        "installed_at": installed.installed_at.isoformat(),
        "installed_by": installed.installed_by,
    }


@router.get("")
def list_algorithms(principal: Reader, context: Ctx) -> dict[str, Any]:
    """Every installed algorithm."""
    authorize(principal, Action.ALGORITHM_READ, Resource(kind="algorithm"))
    with context.database.transaction() as connection:
        return {"algorithms": [described(item) for item in registry.listed(connection)]}


@router.get("/{name}")
def show(name: str, principal: Reader, context: Ctx) -> dict[str, Any]:
    """One algorithm (NAME or NAME@VERSION) with its manifest."""
    authorize(principal, Action.ALGORITHM_READ, Resource(kind="algorithm", id=name))
    with context.database.transaction() as connection:
        found = registry.find(connection, name)
    return {**described(found), "manifest": found.manifest}


@router.post("", status_code=201)
def install(
    principal: Installer,
    context: Ctx,
    package: Annotated[UploadFile, File(description="The package's folder as a tar archive")],
    image: Annotated[
        str | None, Form(description="Image built from the package, REF@sha256:...; a cluster needs one")
    ] = None,
) -> dict[str, Any]:
    """Install a package. The same package again is a no-op; another one under the same version is refused."""
    authorize(principal, Action.ALGORITHM_INSTALL, Resource(kind="algorithm"))
    incoming = context.settings.home / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="package-", dir=incoming) as folder:
        packages.unpack(package.file, Path(folder))
        with context.database.transaction() as connection:
            installed = registry.install(connection, context.settings, Path(folder), principal.name, image=image)
            trail.record(
                connection, principal.name, "algorithm-install", "algorithm", installed.name,
                detail={"version": installed.version, "digest": installed.digest, "image": installed.image},
            )  # fmt: skip
    return described(installed)


@router.patch("/{name}")
def change(name: str, principal: Installer, context: Ctx, change: Change) -> dict[str, Any]:
    """Let new runs use an algorithm (NAME or NAME@VERSION), or no longer."""
    authorize(principal, Action.ALGORITHM_INSTALL, Resource(kind="algorithm", id=name))
    with context.database.transaction() as connection:
        changed = registry.enable(connection, name, change.enabled)
        trail.record(
            connection, principal.name, "algorithm-change", "algorithm", changed.name,
            detail={"version": changed.version, "enabled": changed.enabled},
        )  # fmt: skip
    return described(changed)
