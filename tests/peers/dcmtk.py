"""DCMTK's servers, on loopback: storescp. Not here: its clients, which tests call as programs."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
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
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "TCP_NODELAY": "1",
        "LD_PRELOAD": str(preload.library(preload.LOOPBACK)),
    }
    process = subprocess.Popen(
        ["storescp", *options, "-od", str(folder), str(port)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("storescp did not start")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield Storescp(port, folder, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=30)
