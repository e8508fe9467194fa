"""Certificates for tests, made by openssl: an authority, and what it signs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        """Its SHA-256 fingerprint, as openssl writes it."""
        said = _openssl("x509", "-in", self.certificate, "-noout", "-fingerprint", "-sha256")
        return said.partition("=")[2].strip()


class Authority:
    """One that signs certificates, in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificate, self.key = folder / f"{name}.crt", folder / f"{name}.key"
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={name}",
            "-keyout", self.key, "-out", self.certificate,
        )  # fmt: skip

    def issue(self, name: str, *, days: int = 30, hosts: str = "DNS:localhost,IP:127.0.0.1") -> Issued:
        """A certificate, by default for loopback; `days` of -1 make one that has expired."""
        issued = Issued(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={hosts}\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", issued.key, "-out", request)
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
            "-days", str(days), "-extfile", extensions, "-out", issued.certificate,
        )  # fmt: skip
        return issued


def _openssl(*arguments: str | Path) -> str:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, text=True).stdout
