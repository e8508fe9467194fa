"""A throw-away Orthanc with its DICOMweb plugin, on loopback. Not here: DCMTK's servers (dcmtk)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import preload

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_SECONDS = 60.0


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc.

    Attributes
    ----------
    url : str
        Of its REST API, without a slash at the end; DICOMweb is below `/dicom-web`.
    dicom_port : int
    pid : int
    """

    url: str
    dicom_port: int
    pid: int

    @property
    def dicomweb(self) -> str:
        """URL of its DICOMweb service."""
        return f"{self.url}/dicom-web"

    def request(self, method: str, path: str, body: object = None) -> object:
        """Call its REST API with JSON; the decoded answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None


def installed() -> bool:
    """Whether Orthanc, its DICOMweb plugin and a C compiler (it would listen on every address otherwise) are here."""
    return bool(shutil.which("Orthanc")) and PLUGIN.is_file() and bool(shutil.which("cc") or shutil.which("gcc"))


def free_port() -> int:
    """A TCP port nobody listens on just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def orthanc(
    folder: Path, *, modalities: Mapping[str, tuple[str, int]] | None = None, extra: Mapping[str, object] | None = None
) -> Iterator[Orthanc]:
    """Start one in `folder`; it has ended when the block is left.

    Parameters
    ----------
    folder : Path
        For its database, images and log.
    modalities : mapping, optional
        Symbolic name to (AE title, port) of DICOM peers on loopback.
    extra : mapping, optional
        More of its configuration, over ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    http, dicom = free_port(), free_port()
    configuration = {
        "Name": "peer",
        "StorageDirectory": str(folder / "database"),
        "IndexDirectory": str(folder / "database"),
        "StorageCompression": False,
        "HttpServerEnabled": True,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": True,
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "DicomCheckCalledAet": False,
        "DicomCheckModalityHost": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "UnknownSopClassAccepted": True,
        "StableAge": 2,
        "OverwriteInstances": True,
        "DicomModalities": {
            name: [ae_title, "127.0.0.1", port] for name, (ae_title, port) in (modalities or {}).items()
        },
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {
            "Enable": True,
            "Root": "/dicom-web/",
            "EnableWado": True,
            "WadoRoot": "/wado",
            "Ssl": False,
            "StudiesMetadata": "Full",
            "SeriesMetadata": "Full",
        },
    } | dict(extra or {})
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration, indent=1))
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LANG": "C.UTF-8",
        "TCP_NODELAY": "1",
        "LD_PRELOAD": str(preload.library(preload.LOOPBACK)),
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["Orthanc", file], env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        url = f"http://127.0.0.1:{http}"
        deadline = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Orthanc did not start: " + (folder / "log").read_text()[-2000:])
            try:
                urllib.request.urlopen(f"{url}/system", timeout=5).close()  # noqa: S310
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        yield Orthanc(url, dicom, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
