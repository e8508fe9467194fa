"""The platform's API as the commands use it: base URL, token, and its problem documents as our own errors.

Not here: commands that work on database and blobs directly (archive).
"""

from __future__ import annotations

import os
from typing import Any

import httpx

from insitu import errors, processes
from insitu.settings import Settings, load

ERRORS: dict[int, type[errors.InsituError]] = {
    kind.status: kind
    for kind in (
        errors.Invalid,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.Unavailable,
    )
}


class PlatformClient(httpx.Client):
    """An httpx client that raises our errors: `Unavailable` for no answer, else what the problem document says."""

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request; see httpx. Raises InsituError for every answer from 400 on."""
        try:
            response = super().send(request, **options)
        except httpx.TransportError as error:
            raise errors.Unavailable(
                "The platform does not answer",
                value=str(self.base_url),
                why=str(error) or type(error).__name__,
                remedy="Start it with `insitu up`, or name another address in INSITU_URL",
            ) from error
        # STOW-RS answers 409 with the fate of every object; that is an answer, no error of the request.
        if response.status_code >= 400 and "dicom+json" not in response.headers.get("content-type", ""):
            response.read()
            raise error_of(response)
        return response


def error_of(response: httpx.Response) -> errors.InsituError:
    """The error a problem document (RFC 9457) was made from; for other bodies one that names the status."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or "title" not in document:
        document = {"title": f"The platform answered {response.status_code} {response.reason_phrase}"}
    kind = ERRORS.get(response.status_code, errors.InsituError)
    parts = {name: str(document[name]) for name in ("value", "why", "remedy") if document.get(name) is not None}
    return kind(str(document["title"]), **parts)


def token(settings: Settings) -> str:
    """The bearer token: INSITU_TOKEN, else the admin's of this home.

    Raises
    ------
    Unauthenticated
        There is neither.
    """
    given = os.environ.get("INSITU_TOKEN")
    if given:
        return given
    file = settings.secrets / "admin-token"
    try:
        return file.read_text().strip()
    except OSError as error:
        raise errors.Unauthenticated(
            "There is no token to log in with",
            value=str(file),
            why=str(error.strerror),
            remedy="Set INSITU_TOKEN to a token, or run as the user who started the platform",
        ) from error


def address(settings: Settings) -> str:
    """Base URL of the platform that runs in this home, else that of the settings."""
    state = processes.running(settings)
    return settings.model_copy(update={"http": state.http}).http_url if state else settings.http_url


def client(settings: Settings, *, timeout: float = 60.0) -> PlatformClient:
    """A client of the running platform: INSITU_URL or the settings' address, with `token(settings)`."""
    return PlatformClient(
        base_url=os.environ.get("INSITU_URL") or address(settings),
        headers={"Authorization": f"Bearer {token(settings)}"},
        timeout=timeout,
        trust_env=False,
    )


def call(method: str, path: str, **options: Any) -> Any:
    """One call of the running platform's API: the answer's JSON, or its text where it is none."""
    with client(load()) as session:
        response = session.request(method, path, **options)
    has_json = response.content and "json" in response.headers.get("content-type", "")
    return response.json() if has_json else response.text
