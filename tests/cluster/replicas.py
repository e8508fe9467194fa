"""A release with two of each process, and what its tests need of it: single pods, and a sender that goes on as a PACS does.

Not here: a release in general (release.py, site.py).
"""

from __future__ import annotations

import io
import json
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage, Verification

from tests.helm import merge
from tests.site import Sent

from .cluster import Cluster, Namespace
from .images import Images
from .release import NAME, Release, released
from .site import INSTALL_SECONDS, ClusterSite, InCluster, settled

TWO_OF_EACH: dict[str, Any] = {
    # A sender whose receiver has died comes back within that, also on a busy machine; else what it brings is another revision.
    "settings": {"quiet_time": 15},
    "receiver": {"replicas": 2, "drainSeconds": 600},
    **{key: {"replicas": 2} for key in ("api", "gateway", "dispatcher")},
}
_FEW = {"resources": {"requests": {"cpu": "50m"}}}
# As many pods, and the algorithm's, must find room on a small node beside others' releases.
MODEST: dict[str, Any] = {
    **dict.fromkeys(("receiver", "api", "gateway", "dispatcher", "preparation"), _FEW),
    "airflow": dict.fromkeys(("apiServer", "scheduler", "dagProcessor"), _FEW),
    "database": {"bundled": _FEW},
    "objectStore": {"bundled": _FEW},
}
RULED = "TRIAL"  # called AE title whose CT series get a run
SENDER_SECONDS = 600.0  # for which a sender tries to get one object acknowledged
ANSWER_SECONDS = 300.0  # of an api on a busy machine: hundreds of objects are fetched one by one
PAUSE = 0.5  # seconds before it tries again
LISTENING = 11112

S = TypeVar("S", bound=ClusterSite)

_ASSOCIATIONS = (
    "import pathlib\n"
    "lines = [line.split() for name in ('tcp', 'tcp6') for line in pathlib.Path('/proc/net', name).read_text().splitlines()[1:]]\n"
    f"print(sum(line[3] == '01' and int(line[1].rpartition(':')[2], 16) == {LISTENING} for line in lines))\n"
)
# Process 1 is not killed by its own: its children are, as the kernel kills for want of memory.
_KILL_CHILDREN = (
    "import os, pathlib, signal\n"
    "for entry in pathlib.Path('/proc').iterdir():\n"
    "    if entry.name.isdigit() and int(entry.name) not in (1, os.getpid()):\n"
    "        if int((entry / 'stat').read_text().rpartition(')')[2].split()[1]) == 1:\n"
    "            os.kill(int(entry.name), signal.SIGKILL)\n"
)


class ReplicatedSite(ClusterSite):
    """The platform of a release with two of each process."""

    def find(self) -> None:
        """Look its Services up again, after another installation."""
        host, port = self.service("api")
        self.http.base_url = f"http://{host}:{port}"
        self.dicom = self.service("receiver")

    def each_api(self) -> list[httpx.Client]:
        """A client of each api, past the Service, with the admin's token."""
        return [
            httpx.Client(
                base_url=f"http://{pod['status']['podIP']}:8080",
                headers={"Authorization": self.http.headers["Authorization"]},
                transport=InCluster(self.cluster),
                timeout=ANSWER_SECONDS,
            )
            for pod in self.pods("api")
        ]

    def inside(self, pod: str, program: str) -> str:
        """Run Python in the first container of a pod; what it prints."""
        return self.namespace.kubectl("exec", pod, "--", "python", "-c", program)

    def associations(self, pod: str) -> int:
        """Associations that a receiver has open."""
        return int(self.inside(pod, _ASSOCIATIONS))

    def busiest_receiver(self) -> str:
        """The receiver with the most open associations; there is one at least."""
        ready = [pod["metadata"]["name"] for pod in self.pods("receiver") if self.is_ready(pod)]
        counts = {name: self.associations(name) for name in ready}
        busiest = max(counts, key=lambda name: counts[name])
        assert counts[busiest], counts
        return busiest

    @staticmethod
    def is_ready(pod: dict[str, Any]) -> bool:
        """Whether the containers of a pod run and are ready."""
        statuses = pod["status"].get("containerStatuses", ())
        return bool(statuses) and all(status["ready"] for status in statuses)

    def kill_children(self, pod: str) -> None:
        """SIGKILL for the children of a pod's process."""
        self.inside(pod, _KILL_CHILDREN)

    def kill_pod(self, pod: str) -> None:
        """Take a pod away without a warning, as a node that fails does."""
        self.namespace.kubectl("delete", "pod", pod, "--grace-period=0", "--force")

    def stored_by(self, pod: str, calling: str) -> int:
        """Objects that a receiver has acknowledged to a sender on associations that have ended, by its log."""
        count = 0
        for line in self.namespace.kubectl("logs", pod).splitlines():
            entry: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            if entry.get("calling_ae") == calling:
                count += entry["stores"].get("0000", 0)
        return count

    def history(self) -> list[dict[str, Any]]:
        """The revisions of the release, the earliest first."""
        found: list[dict[str, Any]] = json.loads(self.release.helm("history", "--output", "json"))
        return found

    def whole(self) -> None:
        """Wait until every pod is as many as it should be, and the platform well."""
        for kind in ("deployment", "statefulset"):
            for item in self.namespace.get(kind)["items"]:
                name = f"{kind}/{item['metadata']['name']}"
                self.namespace.kubectl("rollout", "status", name, "--timeout=400s", timeout=420)
        self.until("health", lambda: self.http.get("/readyz").status_code, lambda status: status == 200)


@contextmanager
def replicated(cluster: Cluster, images: Images) -> Iterator[ReplicatedSite]:
    """An installed platform with two of each process; INSITU_TEST_REPLICATED names the namespace of one that is there and stays."""
    there = os.environ.get("INSITU_TEST_REPLICATED")
    if there:
        values = json.loads(cluster.helm("get", "values", NAME, "--namespace", there, "--output", "json"))
        yield ruled(ReplicatedSite(Release(Namespace(cluster, there), values), images))
        return
    with released(cluster, merge(settled(images), merge(TWO_OF_EACH, MODEST))) as release:
        began = time.monotonic()
        release.apply("install", "--wait", "--timeout", f"{INSTALL_SECONDS}s", timeout=INSTALL_SECONDS + 30)
        print(f"helm install --wait: {time.monotonic() - began:.0f} s")
        yield ruled(ReplicatedSite(release, images))


def ruled(site: S) -> S:
    """With a rule that runs an algorithm on what is sent to RULED."""
    site.http.timeout = ANSWER_SECONDS
    site.ensure_project("trial")
    site.rules(
        {
            "name": "trial-ct",
            "when": {"all": [{"called_ae": RULED}, {"Modality": "CT"}]},
            "then": {"project": "trial", "algorithms": [{"name": "ct-tissue"}]},
        }
    )
    return site


def title() -> str:
    """An AE title of a sender that nobody else has."""
    return f"CT-{uuid.uuid4().hex[:8].upper()}"


class Push(threading.Thread):
    """A sender in a thread: each object is sent until it is acknowledged, by new associations where it must be.

    Parameters
    ----------
    network : context manager
        What the thread enters to reach the platform.
    address : tuple of str and int
        Of the DICOM port.
    files : sequence of Path
    calling, called : str
        AE titles.
    each : int, optional
        Objects of one association; None: all.
    pause : float
        Seconds between two objects.
    held : int
        Objects that are kept back until `hurry`: the association stays open, and is used, as long as that.

    Attributes
    ----------
    acknowledged : list of str
        SOP Instance UIDs in their order.
    refused : Counter
        How often each status but success was answered.
    lost : int
        Associations that ended before they were released.
    """

    def __init__(
        self,
        network: AbstractContextManager[None],
        address: tuple[str, int],
        files: Sequence[Path],
        calling: str,
        called: str = "INSITU",
        *,
        each: int | None = None,
        pause: float = 0.0,
        held: int = 0,
    ) -> None:
        super().__init__(name=f"push of {calling}", daemon=True)
        self._network = network
        self._address = address
        self._files = list(files)
        self._called = called
        self._each = each
        self._pause = pause
        self._held = held
        self._hurry = threading.Event()
        self._association: Association | None = None
        self._used = 0
        self.acknowledged: list[str] = []
        self.refused: Counter[int] = Counter()
        self.lost = 0
        self.associations = 0
        self.unanswered = 0
        self.error: BaseException | None = None
        self._entity = AE(ae_title=calling)
        self._entity.acse_timeout = self._entity.dimse_timeout = self._entity.network_timeout = 90
        self._entity.connection_timeout = 20
        self._entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)  # as the files: bytes are compared
        self._entity.add_requested_context(Verification)

    def hurry(self) -> None:
        """Send what is left without pauses."""
        self._hurry.set()

    def done(self) -> None:
        """Wait for the end; what went wrong is raised here."""
        self.hurry()
        self.join(SENDER_SECONDS)
        assert not self.is_alive(), f"{self.name} has sent {len(self.acknowledged)} of {len(self._files)} objects"
        if self.error is not None:
            raise self.error

    def until(self, count: int) -> None:
        """Wait until so many objects are acknowledged."""
        deadline = time.monotonic() + SENDER_SECONDS
        while len(self.acknowledged) < count:
            assert self.is_alive(), self.error
            assert time.monotonic() < deadline, f"{self.name}: {len(self.acknowledged)} of {count}"
            time.sleep(0.05)

    def run(self) -> None:
        """Send everything."""
        try:
            with self._network:
                for number, file in enumerate(self._files):
                    while len(self._files) - number <= self._held and not self._hurry.wait(PAUSE):
                        self._echo()
                    self._send(dcmread(file))
                    self._hurry.wait(self._pause)
                self._release()
        except BaseException as error:  # noqa: BLE001  # for the thread that waits
            self.error = error

    def _send(self, dataset: Dataset) -> None:
        deadline = time.monotonic() + SENDER_SECONDS
        while time.monotonic() < deadline:
            association = self._open()
            if association is not None:
                try:
                    status = association.send_c_store(dataset).get("Status")
                except (RuntimeError, ValueError):  # it has ended meanwhile
                    status = None
                self._used += 1
                if status == 0:
                    self.acknowledged.append(dataset.SOPInstanceUID)
                    if self._used == self._each:
                        self._release()
                    return
                if status is None:
                    self.lost += 1
                    association.abort()
                    self._association = None
                else:
                    self.refused[status] += 1
            time.sleep(PAUSE)
        raise AssertionError(f"{self.name}: {dataset.SOPInstanceUID} was not acknowledged in time")

    def _echo(self) -> None:
        association = self._open()
        if association is not None and association.send_c_echo().get("Status") != 0:
            self.lost += 1
            self._association = None

    def _open(self) -> Association | None:
        """The open association; None where none was to be had just now."""
        if self._association is not None and not self._association.is_established:
            self.lost += 1
            self._association = None
        if self._association is None:
            association = self._entity.associate(*self._address, ae_title=self._called)
            if not association.is_established:
                self.unanswered += 1
                return None
            self.associations += 1
            self._association, self._used = association, 0
        return self._association

    def _release(self) -> None:
        if self._association is not None:
            self._association.release()
            self._association = None


@dataclass(frozen=True)
class Retrieved:
    """Objects as DICOMweb gave them: data sets in bytes, by SOP Instance UID, and how often each came."""

    datasets: dict[str, bytes]
    times: Counter[str]


def retrieve(http: httpx.Client, sent: Sent) -> Retrieved:
    """A whole series over WADO-RS."""
    answer = http.get(
        f"/dicom-web/studies/{sent.study}/series/{sent.series}",
        headers={"Accept": 'multipart/related; type="application/dicom"'},
    )
    assert answer.status_code == 200, answer.text
    boundary = answer.headers["content-type"].split("boundary=")[1].split(";")[0].strip('"').encode()
    datasets: dict[str, bytes] = {}
    times: Counter[str] = Counter()
    for part in answer.content.split(b"--" + boundary)[1:-1]:
        uid, dataset = bare(part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n"))
        datasets[uid] = dataset
        times[uid] += 1
    return Retrieved(datasets, times)


def bare(file: bytes) -> tuple[str, bytes]:
    """SOP Instance UID of a DICOM file, and its data set without what a file has before it."""
    meta = dcmread(io.BytesIO(file), stop_before_pixels=True).file_meta
    offset = 132 + 12 + int.from_bytes(file[140:144], "little")  # preamble and DICM, group length, group 2
    return str(meta.MediaStorageSOPInstanceUID), file[offset:]
