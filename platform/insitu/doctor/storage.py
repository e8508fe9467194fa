"""Volumes of the bundled servers: one that is there, or a storage class that makes it.

Not here: the trial of a fresh volume (probing), apart from what it means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .cluster import Cluster, NoRight
from .finding import BAD, NOTE, OK, Finding
from .quantities import quantity
from .values import SiteValues, Volume

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
FILE_SYSTEM = "csi.storage.k8s.io/fstype"
VOLUME_SECONDS = 120.0
SMALLEST_VOLUME = "1Gi"


def storage(cluster: Cluster, values: SiteValues) -> Iterator[Finding]:
    """A volume for each bundled server: it is there, or a storage class makes it."""
    wanted = list(values.volumes())
    if not wanted:
        return
    claims = f"/api/v1/namespaces/{values.namespace}/persistentvolumeclaims"
    there = {item["metadata"]["name"]: item for item in cluster.items(claims)}
    classes = {item["metadata"]["name"]: item for item in cluster.items("/apis/storage.k8s.io/v1/storageclasses")}
    try:
        volumes = cluster.items("/api/v1/persistentvolumes")
    except NoRight:
        volumes = []
    for volume in wanted:
        yield storage_finding(volume, there.get(volume.claim), classes, volumes, values)


def storage_class(name: str, classes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The class of this name, or the cluster's default for an empty one. Pure."""
    if name:
        return classes.get(name)
    for item in classes.values():
        if (item["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true":
            return dict(item)
    return None


def storage_finding(
    volume: Volume,
    claim: Mapping[str, Any] | None,
    classes: Mapping[str, Any],
    volumes: list[dict[str, Any]],
    values: SiteValues,
) -> Finding:
    """Where the volume of one server comes from. Pure."""
    check = f"volume {volume.server}"
    if claim is not None:
        if claim["status"].get("phase") == "Bound":
            return Finding(check, OK, f"{volume.claim} is there and bound")
        if volume.existing:
            return Finding(
                check,
                NOTE,
                f"{volume.claim} is there, but not bound yet",
                f"kubectl -n {values.namespace} describe pvc {volume.claim}",
            )
    elif volume.existing:
        return Finding(
            check, BAD, f"{volume.value}.existingClaim names {volume.claim}, and there is no such claim in {values.namespace}",
            "Make the claim, or leave existingClaim empty",
        )  # fmt: skip
    found = storage_class(volume.storage_class, classes)
    if found is not None:
        text = f"by storage class {found['metadata']['name']} ({found['provisioner']})"
        options = " ".join(
            (*(found.get("mountOptions") or ()), str((found.get("parameters") or {}).get(FILE_SYSTEM, "")))
        )
        if options.strip():
            text += f", {options.strip()}"
        return Finding(check, OK, text)
    ready = [item["metadata"]["name"] for item in volumes if fits(item, volume, values)]
    if ready:
        return Finding(check, OK, f"no storage class is needed: the volume {ready[0]} is there and free")
    if volume.storage_class:
        known = ", ".join(sorted(classes)) or "none"
        return Finding(
            check, BAD, f"there is no storage class {volume.storage_class} ({volume.value}.storageClassName); there is: {known}",
            "Name one of these, or let the cluster's owner make it",
        )  # fmt: skip
    others = f"; there is: {', '.join(sorted(classes))}" if classes else ", nor any other, and no volume that is free"
    return Finding(
        check, BAD, f"the cluster has no default storage class{others}",
        f"Name a class by {volume.value}.storageClassName, a claim by {volume.value}.existingClaim, or use a server of your own",
    )  # fmt: skip


def fits(item: Mapping[str, Any], volume: Volume, values: SiteValues) -> bool:
    """Whether a PersistentVolume that nobody has is, or can become, that of the claim. Pure."""
    spec, reserved = item["spec"], item["spec"].get("claimRef") or {}
    if reserved:
        mine = (reserved.get("namespace"), reserved.get("name")) == (values.namespace, volume.claim)
        return mine and item["status"].get("phase") in ("Available", "Bound", "Pending", None)
    return (
        item["status"].get("phase") == "Available"
        and (spec.get("storageClassName") or "") == volume.storage_class
        and quantity(spec["capacity"]["storage"]) >= volume.size
        and "ReadWriteOnce" in spec.get("accessModes", ())
    )


def volume_finding(
    server: str, name: str, found: Mapping[str, Any] | None, waits: str | None, synchronous: bool, attributes: bool
) -> Finding:
    """What a pod found out about a fresh volume of the storage class `name`. Pure."""
    check = f"volume {server}"
    if found is None:
        why = f": {waits}" if waits else ""
        return Finding(
            check, BAD, f"storage class {name} gave no volume of {SMALLEST_VOLUME} within {VOLUME_SECONDS:.0f} s{why}",
            "Look at its provisioner's pods and logs",
        )  # fmt: skip
    if found["writes"]:
        return Finding(
            check, BAD, f"a fresh volume of {name} cannot be written by user 10001: {found['writes']}",
            "Use a class whose volumes follow fsGroup",
        )  # fmt: skip
    if attributes and not found["attributes"]:
        return Finding(
            check, BAD, f"a fresh volume of {name} ({found['file_system']}) has no extended attributes",
            "Set objectStore.bundled.sidecarMetadata: true, or use another class",
        )  # fmt: skip
    if synchronous and found["synchronous"]:
        return Finding(
            check, BAD, f"a fresh volume of {name} ({found['file_system']}) cannot be made synchronous: {found['synchronous']};"
            " a power failure could take what was acknowledged",
            "Use a class with ext4 or with the mount option sync, or an S3 server of your own; objectStore.bundled.synchronous: false gives"
            " the promise up",
        )  # fmt: skip
    return Finding(check, OK, f"a fresh volume of {name} ({found['file_system']}) was made and written")
