"""An upgrade that cannot be: the earlier version goes on as if nobody had asked for another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.site import phantom

from .cluster import CommandFailed
from .replicas import ReplicatedSite

UPGRADE_SECONDS = 900  # about 90 on two cores with nothing else to do
JOBS = ("preparation", "airflow-migration", "images", "test")


def upgrade(site: ReplicatedSite, values: dict[str, Any], seconds: int = UPGRADE_SECONDS) -> None:
    """`helm upgrade --wait`; the values of a failed one are not those of the next."""
    before = site.release.values
    try:
        site.release.apply("upgrade", "--wait", "--timeout", f"{seconds}s", values=values, timeout=seconds + 60)
    except CommandFailed:
        site.release.values = before
        raise


def containers(site: ReplicatedSite) -> dict[str, str]:
    """The containers of the platform that run and are ready, and since when."""
    return {
        f"{pod['metadata']['uid']} {status['name']}": status["state"]["running"]["startedAt"]
        for pod in site.namespace.get("pods")["items"]
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] not in JOBS
        for status in pod["status"].get("containerStatuses", ())
        if status["ready"]
    }


def test_an_upgrade_to_an_image_that_is_not_there_changes_nothing(replicas: ReplicatedSite, tmp_path: Path) -> None:
    before = containers(replicas)
    with pytest.raises(CommandFailed, match="pre-upgrade"):
        upgrade(replicas, {"images": {"platform": {"tag": "of-no-version"}}}, seconds=30)
    assert containers(replicas) == before
    sent = phantom(tmp_path)
    replicas.send(sent)
    replicas.complete(sent.series)
