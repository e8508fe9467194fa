"""The Kubernetes API as the launcher uses it: requests for JSON, repeated while the server is away or asks to wait.

Of its own because the official client takes seconds to import, in every task. Not here: following objects (watching).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import yaml

from insitu.errors import Invalid, Unavailable

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = 15.0  # seconds without an answer to a request
PATIENCE = 120.0  # seconds during which a server that is away is asked again
LONGEST_PAUSE = 5.0
CHUNK = 1 << 16
RETRIED = (429, 500, 502, 503, 504)
MERGE_PATCH = "application/merge-patch+json"
T = TypeVar("T")


class ApiRefused(Exception):
    """The API server refused a request: status, its machine-readable reason, its message."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True)
class Access:
    """Where the API server is and how to be known to it. The token is read anew for each request: it is renewed in place."""

    url: str
    context: ssl.SSLContext | None
    token_file: Path | None = None
    token: str | None = None

    @classmethod
    def of_pod(cls) -> Access:
        """That of the service account of the pod this runs in.

        Raises
        ------
        Unavailable
            This is no pod, or it has no service account token.
        """
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if host is None or not (ACCOUNT / "token").exists():
            raise Unavailable(
                "The Kubernetes API cannot be found",
                why="this process runs in no pod with a service account token",
                remedy="Name a kubeconfig in the launcher's configuration",
            )
        place = f"[{host}]" if ":" in host else host
        return cls(
            f"https://{place}:{port}",
            ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")),
            token_file=ACCOUNT / "token",
        )

    @classmethod
    def of_kubeconfig(cls, file: Path) -> Access:
        """That of the current context of a kubeconfig with a client certificate or a token.

        Raises
        ------
        Invalid
            It cannot be read, or uses another way to be known.
        """
        try:
            document = yaml.safe_load(file.read_text())
            current = _named(document["contexts"], document["current-context"])["context"]
            cluster = _named(document["clusters"], current["cluster"])["cluster"]
            user = _named(document["users"], current["user"])["user"]
            context = ssl.create_default_context()
            with _as_file(cluster, "certificate-authority", file.parent) as authority:
                if authority is not None:
                    context = ssl.create_default_context(cafile=authority)
            with (
                _as_file(user, "client-certificate", file.parent) as certificate,
                _as_file(user, "client-key", file.parent) as key,
            ):
                if certificate is not None:
                    context.load_cert_chain(certificate, key)
        except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
            raise Invalid("This kubeconfig cannot be used", value=str(file), why=str(error)) from error
        if certificate is None and "token" not in user:
            raise Invalid(
                "This kubeconfig cannot be used",
                value=str(file),
                why="its user has neither a client certificate nor a token",
            )
        return cls(cluster["server"], context, token=user.get("token"))

    def headers(self) -> dict[str, str]:
        """That make the caller known."""
        token = self.token if self.token_file is None else self.token_file.read_text().strip()
        return {} if token is None else {"Authorization": f"Bearer {token}"}


def _named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for item in items:
        if item["name"] == name:
            return item
    raise LookupError(f"nothing in it is named {name}")


@contextlib.contextmanager
def _as_file(holder: Mapping[str, Any], name: str, folder: Path) -> Iterator[str | None]:
    """Path of what a kubeconfig names or holds; the ssl module takes certificates of files only."""
    if f"{name}-data" in holder:
        with tempfile.NamedTemporaryFile() as stream:
            stream.write(base64.b64decode(holder[f"{name}-data"]))
            stream.flush()
            yield stream.name
    else:
        yield None if name not in holder else str(folder / holder[name])


class Api:
    """Requests to the API server. Used by one thread at a time, except `stream`, which opens a connection of its own.

    Parameters
    ----------
    access : Access
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._url = urlsplit(access.url)
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()

    def get(self, path: str, *, patience: float = PATIENCE, **query: Any) -> dict[str, Any]:
        """An object or a list."""
        return self._json("GET", path, None, query, patience)

    def text(self, path: str, *, patience: float = PATIENCE, most: int, keep: int, **query: Any) -> tuple[bytes, bytes]:
        """The first `most` bytes of a text, and the last `keep` bytes of what follows them; never more is held."""

        def read(response: http.client.HTTPResponse) -> tuple[bytes, bytes]:
            head = response.read(most)
            tail = b""
            while chunk := response.read(CHUNK):
                tail = (tail + chunk)[-keep:] if keep else b""
            return head, tail

        return self._patiently(lambda: self._with_connection("GET", _target(path, query), None, "", read), patience)

    def create(self, path: str, body: Mapping[str, Any], *, patience: float = PATIENCE) -> dict[str, Any]:
        """Create an object. Refused with 409 where it is there, also where an earlier try of this call made it."""
        return self._json("POST", path, body, {}, patience)

    def patch(self, path: str, body: Mapping[str, Any], *, patience: float = PATIENCE) -> dict[str, Any]:
        """Change fields of an object; with `metadata.resourceVersion` in it only if nobody else changed it."""
        return self._json("PATCH", path, body, {}, patience, MERGE_PATCH)

    def delete(self, path: str, *, patience: float = PATIENCE, **query: Any) -> None:
        """Delete an object; that it is not there is no error."""
        try:
            self._json("DELETE", path, None, query, patience)
        except ApiRefused as error:
            if error.status != 404:
                raise

    def stream(self, path: str, silence: float, **query: Any) -> tuple[http.client.HTTPResponse, socket.socket]:
        """An answer that goes on, and its socket; `silence` seconds without a byte end it with an OSError.

        Raises
        ------
        ApiRefused, OSError, http.client.HTTPException
            There is no such answer now.
        """
        connection = self._connect(silence)
        try:
            connection.request("GET", _target(path, query), headers=self._access.headers())
            own = connection.sock
            response = connection.getresponse()
            if response.status >= 400:
                raise _refusal(response, response.read(CHUNK))
        except BaseException:
            connection.close()
            raise
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return response, own

    def _json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any],
        patience: float,
        media_type: str = "application/json",
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()

        def read(response: http.client.HTTPResponse) -> dict[str, Any]:
            answer: dict[str, Any] = json.loads(response.read())
            return answer

        return self._patiently(
            lambda: self._with_connection(method, _target(path, query), content, media_type, read), patience
        )

    def _with_connection(
        self,
        method: str,
        target: str,
        content: bytes | None,
        media_type: str,
        read: Callable[[http.client.HTTPResponse], T],
    ) -> T:
        headers = self._access.headers() | {"Accept": "application/json, */*"}
        if content is not None:
            headers["Content-Type"] = media_type
        with self._lock:
            if self._connection is None:
                self._connection = self._connect(TIMEOUT)
            try:
                self._connection.request(method, target, content, headers)
                response = self._connection.getresponse()
                if response.status >= 400:
                    raise _refusal(response, response.read(CHUNK))
                return read(response)
            except BaseException:
                self._connection.close()  # a kept connection that broke is made anew by the next try
                self._connection = None
                raise

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port or 80, timeout=timeout)
        return http.client.HTTPSConnection(host, port or 443, timeout=timeout, context=self._access.context)

    def _patiently(self, action: Callable[[], T], patience: float) -> T:
        """Do it, again for a while where the server is away, overloaded or asks to wait.

        Raises
        ------
        ApiRefused
            The server refused for good.
        Unavailable
            It stayed away.
        """
        deadline = time.monotonic() + patience
        first = True
        pause = 0.1
        while True:
            try:
                return action()
            except ApiRefused as error:
                if error.status not in RETRIED:
                    raise
                why: str = str(error)
                wait = error.retry_after if error.retry_after is not None else pause
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = f"{type(error).__name__}: {error}"
                wait = 0.0 if first and isinstance(error, http.client.RemoteDisconnected) else pause
            first = False
            if time.monotonic() + wait > deadline:
                raise Unavailable("The Kubernetes API does not answer", value=self._access.url, why=why)
            time.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311  # so that many launchers do not come at once
            pause = min(pause * 2, LONGEST_PAUSE)


def _target(path: str, query: Mapping[str, Any]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return path + ("?" + urlencode(given) if given else "")


def _refusal(response: http.client.HTTPResponse, body: bytes) -> ApiRefused:
    try:
        status = json.loads(body)
        reason, message = str(status.get("reason") or ""), str(status.get("message") or response.reason)
    except (ValueError, AttributeError):
        reason, message = "", body.decode(errors="replace").strip() or response.reason
    after = response.getheader("Retry-After")
    retry_after = min(float(after), 60.0) if after is not None and after.isdigit() else None
    return ApiRefused(response.status, reason, message[:2000], retry_after)
