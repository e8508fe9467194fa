"""`helm install` of the whole platform: it becomes ready, `helm test` passes, an upgrade loses no association, data outlives it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from .cluster import Cluster
from .images import Images
from .release import Release, chosen, released

IDLE_BYTES = 3e9
INSTALL_SECONDS = 600  # 180 on two cores with nothing else to do


@pytest.fixture(scope="module")
def release(cluster: Cluster, images: Images) -> Iterator[Release]:
    """The platform, installed."""
    with released(cluster, chosen(images)) as release:
        began = time.monotonic()
        release.apply("install", "--wait", "--timeout", f"{INSTALL_SECONDS}s", timeout=INSTALL_SECONDS + 30)
        print(f"helm install --wait: {time.monotonic() - began:.0f} s")
        yield release


def test_helm_test_passes(release: Release) -> None:
    said = release.helm("test", "--logs", "--timeout", "300s")
    assert said.count("ok ") >= 4
    assert "FAILED" not in said


def test_every_pod_is_ready_and_none_was_restarted(release: Release) -> None:
    """Waiting is the init containers' work: a pod that had to fail until its turn came would have been one too early."""
    for pod in release.namespace.get("pods")["items"]:
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] in ("preparation", "airflow-migration", "test"):
            continue
        status = pod["status"]
        assert all(container["ready"] for container in status["containerStatuses"]), pod["metadata"]["name"]
        restarts = [
            item["restartCount"] for item in (*status.get("initContainerStatuses", ()), *status["containerStatuses"])
        ]
        assert not any(restarts), (pod["metadata"]["name"], restarts)


def test_an_upgrade_prepares_first_and_keeps_the_dicom_port_open(release: Release) -> None:
    """C-ECHO from a pod, again and again, while the receiver's pod is replaced: each is answered."""
    failed: list[str] = []
    done = threading.Event()
    answered = 0

    def ask() -> None:
        nonlocal answered
        program = (
            "import sys\n"
            "from pynetdicom import AE\n"
            "e = AE('TEST'); e.add_requested_context('1.2.840.10008.1.1')\n"
            "a = e.associate(sys.argv[1], int(sys.argv[2])); assert a.is_established\n"
            "assert a.send_c_echo().Status == 0; a.release()\n"
        )
        service = release.namespace.get("service", "insitu-receiver")["spec"]
        while not done.is_set():
            with release.namespace.cluster.network():
                outcome = subprocess.run(
                    [sys.executable, "-c", program, service["clusterIP"], str(service["ports"][0]["port"])],
                    capture_output=True, text=True, check=False, timeout=60,
                )  # fmt: skip
            if outcome.returncode:
                failed.append(outcome.stderr[-300:])
            else:
                answered += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        release.apply(
            "upgrade", "--wait", "--timeout", f"{INSTALL_SECONDS}s", values={"settings": {"ae_title": "UPGRADED"}},
            timeout=INSTALL_SECONDS + 30,
        )  # fmt: skip
    finally:
        done.set()
        asking.join()
    assert not failed
    assert answered > 3
