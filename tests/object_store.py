"""A real S3 server (versitygw) over a folder, on a free port of the loopback address unless told otherwise."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from insitu.archive.blobs.s3 import ACCESS_KEY, SECRET_KEY, S3BlobStore

VERSION = "v1.8.0"  # tests/install_object_store.sh builds it
START_SECONDS = 30.0
NO_GO = f"needs Go, with which `make setup-tests` builds the S3 server versitygw {VERSION}"
NOT_BUILT = f"needs the S3 server versitygw {VERSION}, and `make setup-tests` could not build it"


def need_object_store() -> Path:
    """Path of the server's program; the test is skipped where it was not built."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "insitu-tests"
    program = folder / f"versitygw-{VERSION}" / "versitygw"
    if not os.access(program, os.X_OK):
        pytest.skip(NO_GO if shutil.which("go") is None else NOT_BUILT)
    return program


class ObjectStore:
    """The server, with one bucket. Use it as a context.

    Parameters
    ----------
    folder : Path
        Of its data and of the files with its keys; what is there from an earlier one stays.
    """

    bucket = "images"
    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self._program = need_object_store()
        self._folder = folder
        self.root = folder / "root"
        self.secrets = folder / "secrets"
        (self.root / self.bucket).mkdir(parents=True, exist_ok=True)
        self.secrets.mkdir(exist_ok=True)
        for name in (ACCESS_KEY, SECRET_KEY):
            if not (self.secrets / name).exists():
                (self.secrets / name).write_text(secrets.token_hex(20) + "\n")
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.certificate: tuple[Path, Path] | None = None  # with its key; the server speaks TLS then

    def __enter__(self) -> ObjectStore:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.kill()

    @property
    def keys(self) -> tuple[str, str]:
        """Access key and secret key, which must stand in no log."""
        access, secret = ((self.secrets / name).read_text().strip() for name in (ACCESS_KEY, SECRET_KEY))
        return access, secret

    @property
    def server(self) -> str:
        """URL of the server."""
        return f"{'https' if self.certificate else 'http'}://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What the setting `object_store` says."""
        return f"{self.server}/{self.bucket}"

    def start(self) -> None:
        """Start it on its port, and wait until it answers."""
        access, secret = self.keys
        (self._folder / "iam").mkdir(exist_ok=True)
        tls = ["--cert", str(self.certificate[0]), "--key", str(self.certificate[1])] if self.certificate else []
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, "--quiet", "--port", f"{self.host}:{self.port}", "--health", "/health", "--iam-dir",
                 self._folder / "iam", *tls, "posix", *self._options(), self.root],
                env={"ROOT_ACCESS_KEY": access, "ROOT_SECRET_KEY": secret, "PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.server}/health", timeout=1, trust_env=False, verify=False).status_code == 200:  # noqa: S501
                    return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError(f"versitygw does not start: {(self._folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """End it at once, as a machine that fails."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Let it go silent: connections stay open, nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the silence."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def blobs(self, spool: Path, **options: object) -> S3BlobStore:
        """A blob store on its bucket."""
        return S3BlobStore(self.url, spool, secrets=self.secrets, **options)  # type: ignore[arg-type]

    def files(self) -> dict[str, Path]:
        """What lies in its bucket, by key, as nobody but a test may look at it."""
        top = self.root / self.bucket
        return {
            path.relative_to(top).as_posix(): path
            for path in sorted(top.rglob("*"))
            if path.is_file() and not path.relative_to(top).parts[0].startswith(".sgwtmp")
        }

    def _options(self) -> list[str]:
        if _has_attributes(self.root):
            return []
        sidecar = self._folder / "sidecar"
        sidecar.mkdir(exist_ok=True)
        return ["--sidecar", str(sidecar)]


@functools.cache
def _has_attributes(folder: Path) -> bool:
    """Whether files there can have attributes, in which the server keeps what it knows of objects."""
    try:
        os.setxattr(folder, "user.insitu-test", b"1")
        os.removexattr(folder, "user.insitu-test")
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
