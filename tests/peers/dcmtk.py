"""DCMTK's servers, on loopback: storescp, and dcmqrscp as a PACS. Not here: its clients, which tests call as programs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import preload
from .orthanc import free_port

START_SECONDS = 60.0


@dataclass(frozen=True)
class Storescp:
    """A running storescp."""

    port: int
    folder: Path
    pid: int


@contextmanager
def storescp(folder: Path, options: Sequence[str] = ()) -> Iterator[Storescp]:
    """Start one that writes into `folder`; it has ended when the block is left."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with _running(["storescp", *options, "-od", str(folder), str(port)], port) as pid:
        yield Storescp(port, folder, pid)


@dataclass(frozen=True)
class Dcmqrscp:
    """A running dcmqrscp, a PACS with the AE title QRSCP."""

    port: int
    pid: int
    ae_title: str = "QRSCP"


@contextmanager
def dcmqrscp(
    folder: Path,
    files: Sequence[Path],
    *,
    peers: Mapping[str, int] | None = None,
    options: Sequence[str] = (),
    port: int | None = None,
) -> Iterator[Dcmqrscp]:
    """Start one that holds `files`; it has ended when the block is left.

    Parameters
    ----------
    folder : Path
        Of its own.
    files : sequence of Path
        DICOM files; copied into its storage area.
    peers : mapping of str to int, optional
        Where a C-MOVE may send: AE titles with their ports on loopback.
    options : sequence of str, optional
        Of the program.
    port : int, optional
        By default a free one.
    """
    area = folder / "area"
    area.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    hosts = "".join(f"peer{n} = ({title}, localhost, {at})\n" for n, (title, at) in enumerate((peers or {}).items()))
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{hosts}HostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQRSCP {area} RW (200, 1024mb) ANY\nAETable END\n"
    )
    copies = [str(shutil.copy(file, area)) for file in files]
    if copies:
        subprocess.run(["dcmqridx", str(area), *copies], check=True, capture_output=True, timeout=120)
    with _running(["dcmqrscp", *options, "-c", str(configuration)], port) as pid:
        yield Dcmqrscp(port, pid)


@contextmanager
def _running(command: list[str], port: int) -> Iterator[int]:
    """A server of DCMTK that listens on `port`; its process id."""
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "TCP_NODELAY": "1",
        "LD_PRELOAD": str(preload.library(preload.LOOPBACK)),
    }
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)
