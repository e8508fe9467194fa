"""A site's values of the chart, laid over its defaults, and what the chart makes of them: names, images, rights, room, keys.

What stands here twice, here and in the chart's templates, is compared by tests with what Helm renders. Not here: whether the
cluster has it all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from insitu.errors import Invalid
from insitu.runs.launch.kubernetes.configuration import LauncherConfiguration

from .quantities import quantity

DEFAULTS = Path(__file__).with_name("chart_values.yaml")
LONGEST_NAME = 40
AIRFLOW_INIT = {"cpu": "50m", "memory": "192Mi"}
AIRFLOW_MIGRATION = {"cpu": "50m", "memory": "256Mi"}
SECRET_KEYS = {
    "database": (
        "database-owner", "database-airflow", "database-api", "database-receiver", "database-dispatcher", "database-cli",
    ),
    "object store": ("object-store-access-key", "object-store-secret-key"),
    "own": (
        "engine-token", "step-key", "airflow-password", "airflow-jwt", "airflow-api-key", "airflow-fernet", "admin-password",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Image:
    """An image that the values name: for what, its whole reference, and who pulls it."""

    name: str
    reference: str
    value: str
    pull_policy: str
    algorithm: bool = False

    @property
    def by_digest(self) -> bool:
        """Whether nobody can put another image under this reference."""
        return "@sha256:" in self.reference


@dataclass(frozen=True)
class Need:
    """What one pod of the platform asks for: cores and bytes; and where it may run."""

    name: str
    cpu: float
    memory: float
    scheduling: Mapping[str, Any]


@dataclass(frozen=True)
class Volume:
    """A volume claim of a bundled server."""

    server: str
    value: str
    size: float
    storage_class: str
    claim: str
    existing: bool


@dataclass(frozen=True)
class WantedSecret:
    """A Secret that the values name, and the keys it must have; `where` is its namespace."""

    name: str
    value: str
    keys: tuple[str, ...]
    where: str


class SiteValues:
    """What a site says, over the defaults of the chart.

    Parameters
    ----------
    values : dict
    namespace : str
        Of the platform.
    release : str
        Name of Helm's release.
    """

    def __init__(self, values: Mapping[str, Any], namespace: str, release: str) -> None:
        self._all = merge(yaml.safe_load(DEFAULTS.read_text()), values)
        self.namespace = namespace
        self.release = release

    def __getitem__(self, path: str) -> Any:
        """The value at a path with dots.

        Raises
        ------
        Invalid
            Something on the way is no object, or there is no such value.
        """
        found: Any = self._all
        for part in path.split("."):
            if not isinstance(found, Mapping) or part not in found:
                raise Invalid(
                    "These values do not fit the chart", value=path, why=f"there is no {part}",
                    remedy="`helm lint charts/insitu --values FILE` says what is wrong; docs/helm-values.md has every value",
                )  # fmt: skip
            found = found[part]
        return found

    @cached_property
    def name(self) -> str:
        """What the names of the release's objects begin with."""
        given = self["fullnameOverride"]
        if not given:
            own = self["nameOverride"] or "insitu"
            given = self.release if own in self.release else f"{self.release}-{own}"
        return str(given)[:LONGEST_NAME].removesuffix("-")

    def selector(self, component: str | None = None) -> dict[str, str]:
        """Labels of the release's objects."""
        found = {
            "app.kubernetes.io/name": str(self["nameOverride"] or "insitu"),
            "app.kubernetes.io/instance": self.release,
        }
        return found | ({"app.kubernetes.io/component": component} if component else {})

    @property
    def algorithms(self) -> str:
        """The algorithms' namespace."""
        return str(self["algorithms.namespace"] or f"{self.namespace}-algorithms")

    @cached_property
    def launcher(self) -> LauncherConfiguration:
        """How algorithm pods are made.

        Raises
        ------
        Invalid
            The values of algorithms.launcher are wrong.
        """
        given = {"image_pull_policy": self["images.pullPolicy"], **self["algorithms.launcher"]}
        try:
            return LauncherConfiguration.model_validate(
                {**given, "namespace": self.algorithms, "step_image": self.image("platform").reference}
            )
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(("algorithms.launcher", *map(str, first["loc"])))
            raise Invalid(
                "This value is wrong",
                value=place,
                why=first["msg"],
                remedy="See docs/helm-values.md; is the doctor as new as the chart?",
            ) from error

    def image(self, key: str) -> Image:
        """One of the platform's own images: platform, airflow or objectStore."""
        image, registry = self[f"images.{key}"], str(self["global.imageRegistry"]).removesuffix("/")
        name = f"{registry}/{image['repository']}" if registry else str(image["repository"])
        reference = f"{name}@{image['digest']}" if image["digest"] else f"{name}:{image['tag'] or app_version()}"
        return Image(key, reference, f"images.{key}", self["images.pullPolicy"])

    def images(self) -> Iterator[Image]:
        """Every image that the release or its algorithms need."""
        yield self.image("platform")
        yield self.image("airflow")
        if self["objectStore.bundled.enabled"]:
            yield self.image("objectStore")
        for package, reference in self["algorithms.images"].items():
            yield Image(
                package, str(reference), f"algorithms.images.{package}", self.launcher.image_pull_policy, algorithm=True
            )

    def needs(self) -> Iterator[Need]:
        """What each pod asks for. An init container runs before the others, so a pod asks for the larger of the two."""
        wait = self["preparation.resources"]

        def pods(name: str, path: str, *inits: Mapping[str, Any], replicas: int = 1) -> Iterator[Need]:
            settings = self[path]
            asked = [(settings["resources"].get("requests") or {}), *(init.get("requests") or {} for init in inits)]
            cpu, memory = (max(quantity(each.get(kind, 0)) for each in asked) for kind in ("cpu", "memory"))
            for _ in range(replicas):
                yield Need(name, cpu, memory, settings["scheduling"])

        if self["database.bundled.enabled"]:
            yield from pods("database", "database.bundled")
        if self["objectStore.bundled.enabled"]:
            yield from pods("object-store", "objectStore.bundled")
        for component in ("receiver", "api", "gateway", "dispatcher"):
            yield from pods(component, component, wait, replicas=int(self[f"{component}.replicas"]))
        migration = {"requests": AIRFLOW_INIT}
        for component, path in (("api", "apiServer"), ("scheduler", "scheduler"), ("dag-processor", "dagProcessor")):
            yield from pods(f"airflow-{component}", f"airflow.{path}", wait, migration)
        yield from pods("preparation", "preparation")
        yield from pods("airflow-migration", "preparation", {"requests": AIRFLOW_MIGRATION})

    def volumes(self) -> Iterator[Volume]:
        """Volume claims of the bundled servers."""
        for server, key in (("database", "database"), ("object-store", "objectStore")):
            if self[f"{key}.bundled.enabled"]:
                path = f"{key}.bundled.storage"
                storage = self[path]
                existing = str(storage["existingClaim"] or "")
                yield Volume(
                    server, path, quantity(storage["size"]), str(storage["storageClassName"] or ""),
                    existing or f"data-{self.name}-{server}-0", bool(existing),
                )  # fmt: skip

    def secrets(self) -> Iterator[WantedSecret]:
        """Secrets that must be there before the installation."""
        here = self.namespace
        bundled_database, bundled_store = self["database.bundled.enabled"], self["objectStore.bundled.enabled"]
        own = SECRET_KEYS["own"] + (("database-superuser",) if bundled_database else ())
        database = self["database.external.existingSecret"] if not bundled_database else ""
        store = self["objectStore.external.existingSecret"] if not bundled_store else ""
        if self["secrets.existing"]:
            keys = own + (() if database else SECRET_KEYS["database"]) + (() if store else SECRET_KEYS["object store"])
            yield WantedSecret(self["secrets.existing"], "secrets.existing", keys, here)
        if database:
            yield WantedSecret(database, "database.external.existingSecret", SECRET_KEYS["database"], here)
        if store:
            yield WantedSecret(store, "objectStore.external.existingSecret", SECRET_KEYS["object store"], here)
        for name in self["global.imagePullSecrets"]:
            yield WantedSecret(name, "global.imagePullSecrets", (".dockerconfigjson",), here)
        for name in self.launcher.image_pull_secrets:
            yield WantedSecret(name, "algorithms.launcher.image_pull_secrets", (".dockerconfigjson",), self.algorithms)


def read_values(files: list[str], read: Any) -> dict[str, Any]:
    """The values of YAML files, the later over the earlier; `read` gives the text of a name.

    Raises
    ------
    Invalid
        One is not there, is no YAML, or is no object.
    """
    merged: dict[str, Any] = {}
    for file in files:
        try:
            content = yaml.safe_load(read(file))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Invalid("The values cannot be read", value=file, why=str(error)) from error
        if content is not None and not isinstance(content, dict):
            raise Invalid("The values are no object", value=file, remedy="See the example in docs/kubernetes.md")
        merged = merge(merged, content or {})
    return merged


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base` as Helm does it: object by object; null takes a key away, here down to an empty one."""
    merged = dict(base)
    for key, value in over.items():
        earlier = merged.get(key)
        if isinstance(earlier, dict) and value is None:
            merged[key] = {}
        else:
            merged[key] = merge(earlier, value) if isinstance(earlier, dict) and isinstance(value, dict) else value
    return merged


def app_version() -> str:
    """The version of the platform, which is the chart's appVersion too."""
    return metadata.version("insitu")
