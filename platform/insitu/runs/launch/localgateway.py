"""A run gateway over files of this machine, to try a package without a platform: input from a folder, results into one.

Speaks the protocol of insitu_services.api.gateway for one execution. Not here: archive, projects, tokens that expire.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from insitu.runs.steps.fetch import dataset_offset

MADE_AT = "2000-01-01T00:00:00+00:00"  # a trial has no row with a date; a fixed one keeps its bytes equal


class LocalGateway:
    """Serves one execution on a free port while its `with` block lasts.

    Parameters
    ----------
    execution : str
    algorithm : dict
        name, version, digest, manifest, as the gateway's manifest has them.
    parameters : dict
    inputs : dict of str to sequence of pathlib.Path
        DICOM files of each named input.
    results : pathlib.Path
        Folder for the results.
    host : str
        Address of this machine to serve on; loopback unless the steps run elsewhere.
    """

    def __init__(
        self,
        execution: str,
        algorithm: dict[str, Any],
        parameters: dict[str, Any],
        inputs: dict[str, Sequence[Path]],
        results: Path,
        host: str = "127.0.0.1",
    ) -> None:
        self.execution = execution
        self.fetch_token = secrets.token_urlsafe()
        self.publish_token = secrets.token_urlsafe()
        self.results = results
        self.summary: dict[str, Any] | None = None
        self.posts = 0
        self._files: dict[str, Path] = {}
        self._manifest = {
            "version": 1,
            "execution": execution,
            "number": 1,
            "requested_at": MADE_AT,
            "project": "local",
            "algorithm": algorithm,
            "parameters": parameters,
            "inputs": [self._input(name, paths) for name, paths in inputs.items()],
        }
        gateway = self

        class Handler(_Handler):
            owner = gateway

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Base URL."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _input(self, name: str, paths: Sequence[Path]) -> dict[str, Any]:
        import pydicom

        instances = []
        series = ""
        for path in paths:
            header = pydicom.dcmread(
                path, specific_tags=["SOPInstanceUID", "SeriesInstanceUID"], stop_before_pixels=True
            )
            content = path.read_bytes()
            series = str(header.SeriesInstanceUID)
            uid = str(header.SOPInstanceUID)
            self._files[uid] = path
            digest = hashlib.sha256(content[dataset_offset(content) or 0 :]).hexdigest()
            instances.append({"sop_instance_uid": uid, "size": len(content), "digest": digest})
        return {"name": name, "series_instance_uid": series, "instances": instances}

    def answer(self, method: str, path: str, token: str, content_type: str, body: bytes) -> tuple[int, str, bytes]:
        """Status, media type and body for a request."""
        place = path.removeprefix(f"/gateway/v1/executions/{self.execution}/")
        wanted = self.fetch_token if method == "GET" else self.publish_token
        if token != wanted:
            return _problem(401, "This token is not valid here")
        if method == "GET" and place == "manifest":
            return 200, "application/json", json.dumps(self._manifest).encode()
        file = self._files.get(place.removeprefix("instances/")) if method == "GET" else None
        if file is not None:
            return 200, "application/dicom", file.read_bytes()
        if method == "POST" and place == "results":
            return self._store(content_type, body)
        return _problem(404, "There is no such thing here")

    def _store(self, content_type: str, body: bytes) -> tuple[int, str, bytes]:
        self.posts += 1
        self.results.mkdir(parents=True, exist_ok=True)
        stored = []
        for name, filename, content in _multipart(content_type, body):
            if name == "summary":
                self.summary = json.loads(content)
                (self.results / "summary.json").write_bytes(content)
            elif name == "file" and re.fullmatch(r"[A-Za-z0-9._-]+", filename) and not filename.startswith("."):
                (self.results / filename).write_bytes(content)
                stored.append({"sop_instance_uid": filename, "outcome": "stored"})
        return 200, "application/json", json.dumps({"stored": stored}).encode()


class _Handler(BaseHTTPRequestHandler):
    owner: LocalGateway
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _handle(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        status, media_type, content = self.owner.answer(
            method, self.path, token, self.headers.get("Content-Type") or "", body
        )
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the steps' own logs tell what happened."""


def _problem(status: int, title: str) -> tuple[int, str, bytes]:
    return status, "application/problem+json", json.dumps({"title": title, "status": status, "detail": title}).encode()


def _multipart(content_type: str, body: bytes) -> list[tuple[str, str, bytes]]:
    """Parts of a form as (name, filename, content)."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    parts = []
    for piece in body.split(b"--" + boundary)[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        found = dict(re.findall(r'(name|filename)="([^"]*)"', head.decode()))
        parts.append((found.get("name", ""), found.get("filename", ""), content.removesuffix(b"\r\n")))
    return parts
