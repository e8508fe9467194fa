"""The run gateway as the steps use it. Standard library only, because a step must start fast.

Not here: what the gateway answers (insitu_services.api.gateway).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from insitu.runs.outcomes import Failure

from .report import StepFailed

CHUNK = 1 << 18
TIMEOUT = 120.0  # seconds without an answer
PATIENCE = 90.0  # seconds during which a platform that is away is asked again
T = TypeVar("T")


class Refused(Exception):
    """The gateway refused a request: its status and what its problem document says."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Gateway:
    """One keep-alive connection to the gateway, for one execution and one step.

    Parameters
    ----------
    url : str
        Base URL of the platform.
    execution : str
    token : str
        Of the step.
    other : Failure
        What a run has failed by where the gateway cannot be reached.
    """

    def __init__(self, url: str, execution: str, token: str, other: Failure) -> None:
        self._url = urlsplit(url)
        self._base = f"{self._url.path.rstrip('/')}/gateway/v1/executions/{quote(execution, safe='')}"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._other = other
        self._connection: http.client.HTTPConnection | None = None

    @classmethod
    def from_environment(cls, other: Failure) -> Gateway:
        """The gateway that the runner named."""
        environment = os.environ
        return cls(environment["INSITU_GATEWAY"], environment["INSITU_EXECUTION"], _token(), other)

    def manifest(self) -> dict[str, Any]:
        """What to fetch, and for which algorithm."""
        content: dict[str, Any] = self._patiently(lambda: json.loads(self._ask("GET", "/manifest").read()))
        return content

    def instance(self, sop_instance_uid: str, take: Callable[[Iterator[bytes]], T]) -> T:
        """Give the bytes of an input object to `take`, which can be called again where the connection broke."""

        def once() -> T:
            response = self._ask("GET", f"/instances/{quote(sop_instance_uid, safe='')}")
            return take(iter(lambda: response.read(CHUNK), b""))

        return self._patiently(once)

    def results(self, files: Sequence[Path], summary: dict[str, Any]) -> dict[str, Any]:
        """Deliver all results in one request; the platform takes all or none."""

        def once() -> dict[str, Any]:
            boundary = uuid.uuid4().hex
            parts = list(_parts(files, summary, boundary))
            length = sum(len(part) if isinstance(part, bytes) else part.stat().st_size for part in parts)
            headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Content-Length": str(length)}
            answer: dict[str, Any] = json.loads(self._ask("POST", "/results", _stream(parts), headers).read())
            return answer

        return self._patiently(once)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(
        self, method: str, path: str, body: Iterator[bytes] | None = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(self._url.hostname or "", self._url.port, timeout=TIMEOUT)
        self._connection.request(method, self._base + path, body, self._headers | (headers or {}))
        response = self._connection.getresponse()
        if response.status >= 400:
            raise Refused(response.status, _detail(response.read(CHUNK), response.reason))
        return response

    def _patiently(self, action: Callable[[], T]) -> T:
        """Do it, again for a while where the platform is away; a broken connection is made anew.

        Raises
        ------
        StepFailed
            The platform stayed away, or refused.
        """
        deadline = time.monotonic() + PATIENCE
        pause = 0.2
        while True:
            try:
                return action()
            except (OSError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}: {error}"
            except Refused as error:
                if error.status < 500:
                    self.close()
                    gone = error.status in (404, 409, 422)
                    failure = Failure.INPUT_UNUSABLE if gone and self._other is Failure.FETCH_FAILED else self._other
                    raise StepFailed(failure, f"The platform refused: {error.detail}") from error
                why = error.detail
            self.close()
            if time.monotonic() > deadline:
                raise StepFailed(self._other, f"The platform's API did not answer for {PATIENCE:g} s ({why})")
            time.sleep(pause)
            pause = min(pause * 2, 5.0)


def _token() -> str:
    """The step's token: from a file where one is named, as in a cluster, else from the environment."""
    file = os.environ.get("INSITU_STEP_TOKEN_FILE")
    return os.environ["INSITU_STEP_TOKEN"] if file is None else Path(file).read_text().strip()


def _detail(body: bytes, reason: str) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(body).get("detail") or reason)
    return reason


def _parts(files: Sequence[Path], summary: dict[str, Any], boundary: str) -> Iterator[bytes | Path]:
    disposition = "Content-Disposition: form-data; name="
    text = json.dumps(summary)
    yield f'--{boundary}\r\n{disposition}"summary"\r\n\r\n{text}\r\n'.encode()
    for file in files:
        head = f'--{boundary}\r\n{disposition}"file"; filename="{file.name}"\r\nContent-Type: application/dicom\r\n\r\n'
        yield head.encode()
        yield file
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _stream(parts: Sequence[bytes | Path]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
        else:
            with part.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk
