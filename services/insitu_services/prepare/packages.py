"""The algorithm packages that come with the platform, installed.

Not here: what a package is (insitu.algorithms).
"""

from __future__ import annotations

import logging
from pathlib import Path

from insitu.algorithms import manifest as manifests
from insitu.algorithms import registry
from insitu.audit import trail
from insitu.database import Database
from insitu.errors import InsituError
from insitu.settings import Settings

logger = logging.getLogger(__name__)


def folder() -> Path:
    """Where they are."""
    return Path(__file__).resolve().parents[3] / "extensions"


def _image(settings: Settings, manifest: Path) -> str | None:
    """The image that the settings name for a package: by the name in its manifest, or that of its folder."""
    name = manifests.read(manifest.parent).name
    return settings.algorithm_images.get(name) or settings.algorithm_images.get(manifest.parent.name)


def install(settings: Settings, database: Database) -> dict[str, str]:
    """Install every one; why not, by the name of those that could not be. One keeps nothing else from working."""
    failed = {}
    for manifest in sorted(folder().glob("*/algorithm.yaml")):
        name = manifest.parent.name
        try:
            with database.transaction() as connection:
                known = {item.digest for item in registry.listed(connection)}
                installed = registry.install(
                    connection, settings, manifest.parent, "system", trusted=True, image=_image(settings, manifest)
                )
                if installed.digest not in known:
                    trail.record(
                        connection, "system", "algorithm-install", "algorithm", installed.name,
                        detail={"version": installed.version, "digest": installed.digest, "image": installed.image},
                    )  # fmt: skip
        except InsituError as error:
            logger.warning("package %s is not installed: %s", name, error)
            failed[name] = str(error)
    return failed
