"""A real registry (Debian's docker-registry) on the loopback address, and what stands before registries in hospitals.

Not here: the registry of the test cluster.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

# The password is `correct`.
USERS = "insitu:$2b$04$5edyFKeN8emssoeUtBIdYuIQCUjED8prTMr.Px.eOrgFFDZFsuQl6\n"


class Registry:
    """A registry that answers at an address of this machine."""

    def __init__(self, address: str, storage: Path) -> None:
        self.address = address
        self._repositories = storage / "docker" / "registry" / "v2" / "repositories"

    def manifests(self, repository: str) -> set[str]:
        """Digests of the manifests of a repository, as its storage has them."""
        folder = self._repositories / repository / "_manifests" / "revisions" / "sha256"
        return {f"sha256:{one.name}" for one in folder.iterdir()} if folder.exists() else set()

    def tags(self, repository: str) -> dict[str, str]:
        """The digest each tag stands for."""
        folder = self._repositories / repository / "_manifests" / "tags"
        return {one.name: (one / "current" / "link").read_text() for one in folder.iterdir()} if folder.exists() else {}


@contextmanager
def running(folder: Path, *, logins: bool = False, tls: tuple[Path, Path] | None = None) -> Iterator[Registry]:
    """Start a registry; `tls` are certificate and key."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs a registry (Debian package docker-registry)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder.mkdir()
    settings: dict[str, Any] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "log": {"level": "warn"},
    }
    if logins:
        (folder / "users").write_text(USERS)
        settings["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "users")}}
    if tls:
        settings["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    (folder / "settings.yml").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, "serve", str(folder / "settings.yml")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "the registry does not start"
                time.sleep(0.05)
        yield Registry(f"127.0.0.1:{port}", folder / "storage")
    finally:
        process.terminate()
        process.wait(timeout=20)


class Front:
    """A server before a registry that hands requests on, but for those that a test has an answer for. It is a proxy too."""

    def __init__(self, behind: str, tls: tuple[Path, Path] | None = None) -> None:
        self._behind = behind
        self._scripted: list[list[Any]] = []
        self.seen: list[str] = []
        self.tokens: dict[str, list[str]] = {}
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                front.answer(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_any

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def script(
        self, pattern: str, status: int, headers: dict[str, str] | None = None, body: str = "", times: int = 1000
    ) -> None:
        """Answer requests (`METHOD path`) that match by this; 0: end the connection in the middle."""
        self._scripted.append([re.compile(pattern), status, headers or {}, body, times])

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        line = f"{request.command} {request.path}"
        self.seen.append(line)
        for entry in self._scripted:
            pattern, status, headers, body, times = entry
            if times and pattern.search(line) and not self._allowed(request, headers):
                entry[4] -= 1
                if status == 0:
                    request.rfile.read(10)
                    request.close_connection = True
                    request.connection.shutdown(socket.SHUT_RDWR)
                    return
                length = int(request.headers.get("Content-Length") or 0)
                request.rfile.read(length)
                self._reply(request, status, headers, body.encode())
                return
        self._hand_on(request)

    @staticmethod
    def _allowed(request: BaseHTTPRequestHandler, headers: dict[str, str]) -> bool:
        wanted = headers.get("X-Unless-Authorization")
        return wanted is not None and request.headers.get("Authorization") == wanted

    def _hand_on(self, request: BaseHTTPRequestHandler) -> None:
        connection = http.client.HTTPConnection(self._behind, timeout=30)
        length = int(request.headers.get("Content-Length") or 0)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in {"host", "authorization"}}
        headers["Host"] = self.address
        path = re.sub(r"^http://[^/]+", "", request.path)
        connection.request(request.command, path, request.rfile.read(length), headers)
        answer = connection.getresponse()
        body = answer.read()
        given = {
            key: value
            for key, value in answer.headers.items()
            if key.lower() not in {"content-length", "transfer-encoding"}
        }
        self._reply(request, answer.status, given, body)
        connection.close()

    @staticmethod
    def _reply(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        request.send_response(status)
        for key, value in headers.items():
            if not key.startswith("X-Unless"):
                request.send_header(key, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    def __enter__(self) -> Front:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def certificates(folder: Path, name: str = "IP:127.0.0.1") -> tuple[Path, tuple[Path, Path]]:
    """An authority's certificate, and certificate and key of a server it signed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl (Debian package openssl)")
    folder.mkdir(exist_ok=True)
    authority, key = folder / "authority.pem", folder / "authority.key"
    server, server_key, asked = folder / "server.pem", folder / "server.key", folder / "asked.pem"
    lines = [
        f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=Authority -keyout {key} -out {authority}",
        f"req -new -newkey rsa:2048 -nodes -subj /CN=registry -addext subjectAltName={name} -keyout {server_key} -out {asked}",
        f"x509 -req -in {asked} -CA {authority} -CAkey {key} -CAcreateserial -days 2 -copy_extensions copy -out {server}",
    ]
    for line in lines:
        subprocess.run(["openssl", *line.split()], check=True, capture_output=True)
    return authority, (server, server_key)


def basic(name: str, password: str) -> str:
    """Value of the header Authorization."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
