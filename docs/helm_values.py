"""The values of the Helm chart: its closed schema and the reference page, from charts/insitu/values.schema.yaml and values.yaml.

The settings of the platform and of the launcher are put into the schema from their models, without those the chart decides itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from insitu.runs.launch.kubernetes.configuration import LauncherConfiguration
from insitu.settings import Settings

CHART = Path(__file__).parents[1] / "charts" / "insitu"

# Settings that the chart decides, or that belong to one machine only.
CHART_SETTINGS = frozenset(
    {
        "home", "http", "dicom", "dicom_tls", "tls_certificate", "tls_key", "tls_client_ca", "tls_client_certificates", "tls_ca",
        "drain_seconds", "stop_seconds",
        "object_store", "object_store_region", "object_store_ca", "database_host", "database_port", "database_name",
        "database_sslmode", "database_ca", "airflow_http", "airflow_python", "airflow_url", "gateway_url", "gateway_http", "gateway",
        "launcher", "algorithm_images", "kubernetes",
    }
)  # fmt: skip
CHART_LAUNCHER = frozenset(
    {
        "namespace",
        "step_image",
        "step_python",
        "kubeconfig",
        "gateway_service",
        "gateway_address",
        "labels",
        "training_priority_class",
    }
)


def schema() -> str:
    """values.schema.json."""
    document = yaml.safe_load((CHART / "values.schema.yaml").read_text())
    del document["definitions"]  # YAML has put them where they are used
    return json.dumps(_closed(document), indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """The reference page in Markdown."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = [
        "# Helm values",
        "",
        "Made from `charts/insitu/values.schema.yaml` and `values.yaml`. Unknown keys are refused.",
        "How they are used: [kubernetes.md](kubernetes.md).",
    ]
    for name, part in json.loads(schema())["properties"].items():
        if name in ("settings",):
            lines += ["", f"## {name}", "", f"{part['description']} By their names in [settings.md](settings.md):", ""]
            lines += [", ".join(f"`{key}`" for key in part["properties"]) + "."]
            continue
        lines += ["", f"## {name}", "", part["description"], ""]
        lines += ["| value | default | meaning |", "|---|---|---|"]
        for path, leaf in _leaves(name, part):
            lines.append(f"| `{path}` | {_default(defaults, path, leaf)} | {leaf['description']} |")
    return "\n".join(lines) + "\n"


def defaults() -> str:
    """The chart's defaults without its comments: `insitu doctor` lays a site's values over them, also where the chart is not there."""
    head = "# Made by docs/generate.py from charts/insitu/values.yaml.\n"
    return head + yaml.safe_dump(yaml.safe_load((CHART / "values.yaml").read_text()), sort_keys=False)


def _closed(part: dict[str, Any]) -> dict[str, Any]:
    """The schema with its insertions made and every object closed that is not said to be free."""
    if part.pop("insertSettings", False):
        part |= _model(Settings, CHART_SETTINGS)
    if part.pop("insertLauncher", False):
        part |= _model(LauncherConfiguration, CHART_LAUNCHER)
    free = part.pop("free", False)
    if part.get("type") == "object" and not free:
        part["additionalProperties"] = False
    for name, inner in part.items():
        if name == "properties":
            part[name] = {key: _closed(dict(value)) for key, value in inner.items()}
        elif name in ("items", "additionalProperties") and isinstance(inner, dict):
            part[name] = _closed(dict(inner))
    return part


def _model(model: type[BaseModel], without: frozenset[str]) -> dict[str, Any]:
    """Schema of a model's fields as values, without those that are not the site's."""
    whole = model.model_json_schema()
    definitions = whole.get("$defs", {})
    properties = {
        name: _plain(field, definitions) for name, field in whole["properties"].items() if name not in without
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _plain(part: Any, definitions: dict[str, Any]) -> Any:
    """A part of pydantic's schema with references followed, and without titles, defaults and formats that need a newer draft."""
    if isinstance(part, list):
        return [_plain(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        rest = {key: value for key, value in part.items() if key != "$ref"}
        part = {**definitions[part["$ref"].rpartition("/")[2]], **rest}
    plain: dict[str, Any] = {}
    for key, value in part.items():
        if key == "properties":
            plain[key] = {name: _plain(inner, definitions) for name, inner in value.items()}
        elif key not in ("title", "default", "format", "prefixItems"):
            plain[key] = _plain(value, definitions)
    free = plain.get("additionalProperties") is True or "properties" not in plain
    if plain.get("type") == "object" and free:
        plain["free"] = True
    return plain


def _leaves(path: str, part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if part.get("type") == "object" and "properties" in part:
        for name, inner in part["properties"].items():
            yield from _leaves(f"{path}.{name}", inner)
    else:
        yield path, {"description": "", **part}


def _default(defaults: Any, path: str, leaf: dict[str, Any]) -> str:
    """What a value is where the site says nothing; kept by the launcher's model where values.yaml does not say."""
    if path.startswith("algorithms.launcher."):
        return "the launcher's"
    for name in path.split("."):
        defaults = defaults.get(name) if isinstance(defaults, dict) else None
    if defaults in (None, "", [], {}):
        return "none"
    return f"`{json.dumps(defaults) if not isinstance(defaults, str) else defaults}`"
