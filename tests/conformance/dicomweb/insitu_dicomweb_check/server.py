"""The server under test: requests to it, each noted so that a person can replay it with curl.

Not here: what the answers mean (checks).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import httpx

JSON = "application/dicom+json"
NO_ACCEPT = ""  # send no Accept header at all
_QUIET = {"host", "user-agent", "connection", "accept-encoding", "content-length", "transfer-encoding"}


@dataclass(frozen=True)
class Exchange:
    """One request and the status of its answer. `secrets`: header names whose values are not written down."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: Path | int | None
    status: int
    chunked: bool = False

    def curl(self) -> str:
        """The request as a command line; credentials are taken from the variable AUTHORIZATION."""
        words = ["curl", "-sS", "-i"]
        words += ["--head"] if self.method == "HEAD" else ["-X", self.method] if self.method != "GET" else []
        line = " ".join([*words, shlex.quote(self.url)])
        names = {name.lower() for name, _ in self.headers}
        for name, value in self.headers:
            line += f' -H "{name}: $AUTHORIZATION"' if value == SECRET else f" -H {shlex.quote(f'{name}: {value}')}"
        if "accept" not in names:
            line += " -H Accept:"
        if self.chunked:
            line += " -H 'Transfer-Encoding: chunked'"
        if isinstance(self.body, Path):
            line += f" --data-binary @{shlex.quote(str(self.body))}"
        elif self.body is not None:
            line += f" --data-binary @BODY  # {self.body} bytes; --bodies DIR keeps them"
        return line


QP_CHARS = "!$'()*;:@/?,"  # + is legal too, but is read as a space by many
SECRET = "(secret)"


class Server:
    """A DICOMweb server.

    Parameters
    ----------
    url : str
        Its base, to which `/studies` is added.
    headers : mapping
        Sent with every request; their values are not written down.
    user : (str, str), optional
        Name and password for basic authentication.
    timeout : float
        Seconds to wait for an answer.
    bodies : Path, optional
        Folder that keeps the bodies of requests, so that they can be replayed.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        user: tuple[str, str] | None = None,
        timeout: float = 60.0,
        bodies: Path | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.exchanges: list[Exchange] = []
        self._secret = dict(headers or {})
        self._auth = httpx.BasicAuth(*user) if user else None
        self._bodies = bodies
        # a connection for each request: a server that closes idle ones just then would look as if it gave no answer
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(timeout=timeout, follow_redirects=False, trust_env=False, limits=limits)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str, accept: str = JSON, **options: object) -> httpx.Response:
        """GET a resource; the options are those of `request`."""
        return self.request("GET", path, accept=accept, **options)  # type: ignore[arg-type]

    def request(
        self,
        method: str,
        path: str,
        *,
        accept: str = "*/*",
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        chunked: bool = False,
    ) -> httpx.Response:
        """Send a request and read the whole answer.

        Parameters
        ----------
        method : str
        path : str
            Below the base, or a whole address (a BulkDataURI); credentials go to the server's own host only.
        accept : str
            Accept header; NO_ACCEPT sends none.
        query : sequence of (name, value)
        headers : mapping, optional
        body : bytes, optional
        chunked : bool
            Send the body with chunked transfer coding instead of a length.

        Raises
        ------
        httpx.HTTPError
            There was no answer.
        """
        url = path if "://" in path else self.url + path
        if query:
            url += ("&" if "?" in url else "?") + encoded(query)
        shown = {"Accept": accept} if accept else {}
        shown |= dict(headers or {})
        at_home = origin(url) == origin(self.url)
        sent = (self._secret if at_home else {}) | shown | {"Accept-Encoding": "identity"}
        content: bytes | Iterable[bytes] | None = _pieces(body) if chunked and body is not None else body
        request = self._client.build_request(method, url, headers=sent, content=content)
        if not accept:
            del request.headers["accept"]
        response = self._client.send(request, auth=self._auth if at_home else None)
        self._note(request, response, body, secret=at_home, chunked=chunked)
        return response

    def absolute(self, base: str, uri: str) -> str:
        """The address of a reference that stood in the answer from `base` (RFC 3986 5)."""
        return urljoin(base, uri)

    def _note(
        self, request: httpx.Request, response: httpx.Response, body: bytes | None, *, secret: bool, chunked: bool
    ) -> None:
        hidden = {name.lower() for name in self._secret} | {"authorization"}
        headers = [
            (name.title(), SECRET if name in hidden else value)
            for name, value in request.headers.items()
            if name not in _QUIET
        ]
        if self._auth and secret and "authorization" not in request.headers:
            headers.append(("Authorization", SECRET))
        kept: Path | int | None = None if body is None else len(body)
        if body is not None and self._bodies is not None:
            kept = self._bodies / f"body-{len(list(self._bodies.glob('body-*'))) + 1:03}.bin"
            kept.write_bytes(body)
        self.exchanges.append(
            Exchange(request.method, str(request.url), tuple(headers), kept, response.status_code, chunked)
        )


def encoded(query: Iterable[tuple[str, str]]) -> str:
    """The query string (PS3.18 8.3.1): commas separate the values of a list and stay; what is no qp-char is percent-encoded."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe=QP_CHARS)}" for name, value in query)


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _pieces(body: bytes, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
