"""Build hook: the package's dependencies are the lines of `platform.in`, so that they are written once."""

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class PlatformDependencies(MetadataHookInterface):
    """Fill `project.dependencies` from requirements/platform.in."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the dependencies; comments and empty lines are skipped."""
        lines = (Path(self.root) / "requirements" / "platform.in").read_text().splitlines()
        metadata["dependencies"] = [line for line in lines if line and not line.startswith("#")]
