"""The platform's engine API as a task calls it: prepare, stage, conclude. Standard library only, so that a task starts quickly.

Not here: Airflow (prepare, algorithm_job, conclude) and the server's side (insitu_services.api.engine).
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

URL = "INSITU_ENGINE_URL"
TOKEN_FILE = "INSITU_ENGINE_TOKEN_FILE"  # noqa: S105  # name of a variable
JOBS = "INSITU_ENGINE_JOBS"


class PlatformError(Exception):
    """The platform refused: `status` and the sentence of its problem document."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status


class PlatformUnavailable(Exception):
    """The platform does not answer, or says that something it needs is missing just now."""


class PlatformClient:
    """Client of the engine API.

    Parameters
    ----------
    url : str
        Base URL of the platform.
    token : str
        The engine's token.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token
        # The platform is on this machine or in this cluster: no proxy, whatever the environment says.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @classmethod
    def from_environment(cls) -> PlatformClient:
        """The client that the environment names; the token is read from a file, never from a variable or connection."""
        return cls(os.environ[URL], Path(os.environ[TOKEN_FILE]).read_text().strip())

    def prepare(self, execution: str, patience: float = 60.0) -> dict[str, Any]:
        """The specification of the job of an execution. It holds tokens: never put it into an XCom or a log."""
        return self._post(execution, "prepare", None, patience)

    def stage(self, execution: str, stage: str | None = None, detail: dict[str, Any] | None = None) -> dict[str, Any]:
        """Give a sign of life, with the stage reached if any; answers `cancel_asked` and the execution's `state`."""
        return self._post(execution, "stage", {"stage": stage, "detail": detail}, 0.0)

    def conclude(
        self, execution: str, outcome: dict[str, Any], logs: dict[str, str], patience: float = 300.0
    ) -> dict[str, Any]:
        """Tell the outcome of the job with its logs; answers the execution's `state`."""
        return self._post(execution, "conclude", {"outcome": outcome, "logs": logs}, patience)

    def _post(self, execution: str, verb: str, body: dict[str, Any] | None, patience: float) -> dict[str, Any]:
        """Post until there is an answer, at most for `patience` seconds.

        Raises
        ------
        PlatformError
            The platform refused.
        PlatformUnavailable
            There was no answer in time.
        """
        deadline = time.monotonic() + patience
        pause = 0.2
        while True:
            try:
                return self._post_once(execution, verb, body)
            except PlatformUnavailable:
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                pause = min(2.0, pause * 1.5)

    def _post_once(self, execution: str, verb: str, body: dict[str, Any] | None) -> dict[str, Any]:
        address = f"{self._url}/engine/v1/executions/{urllib.parse.quote(execution, safe='')}/{verb}"
        request = urllib.request.Request(  # noqa: S310  # the scheme is in the supervisor's configuration
            address,
            data=b"" if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            method="POST",
        )
        try:
            with self._opener.open(request, timeout=30) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                detail = _detail(error.read())
            if error.code >= 500:
                raise PlatformUnavailable(f"{error.code}: {detail}") from None
            raise PlatformError(error.code, detail) from None
        except (OSError, ValueError) as error:
            raise PlatformUnavailable(str(error)) from error


def _detail(body: bytes) -> str:
    try:
        document = json.loads(body)
        return str(document.get("detail") or document.get("title"))
    except (ValueError, AttributeError):
        return body[:300].decode(errors="replace")
