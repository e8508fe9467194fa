"""A server that makes one mistake: a proxy in front of a good one, which changes requests or answers on their way.

Not here: which mistakes (test_mistakes).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import httpx

_HOP = {"transfer-encoding", "connection", "content-length", "keep-alive", "server", "date"}


@dataclass
class Request:
    """A request on its way to the good server; `path` with the query."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """An answer on its way back. Status 0: the connection is closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


Change = Callable[[Request, Answer], Answer]


@dataclass(frozen=True)
class Mistake:
    """What the server does wrong.

    Attributes
    ----------
    request : callable
        Changes a request before the good server sees it; an Answer instead is given back at once.
    answer : callable
        Changes the answer.
    """

    request: Callable[[Request], Request | Answer] = field(default=lambda request: request)
    answer: Change = field(default=lambda request, answer: answer)


class _Handler(BaseHTTPRequestHandler):
    server: _Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        """Pass a request on, and its answer back."""
        request = Request(self.command, self.path, dict(self.headers.items()), self._body())
        changed = self.server.mistake.request(request)
        answer = changed if isinstance(changed, Answer) else self.server.mistake.answer(changed, self._ask(changed))
        self.close_connection = True
        if answer.status == 0:
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = handle_any

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _ask(self, request: Request) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        message = self.server.client.build_request(
            request.method, self.server.upstream + request.path, headers=headers, content=request.body
        )
        if "accept" not in {name.lower() for name in headers}:
            message.headers.pop("accept", None)
        response = self.server.client.send(message)
        return Answer(response.status_code, dict(response.headers.items()), response.content)


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str, mistake: Mistake) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.mistake = upstream, mistake
        self.client = httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


@contextmanager
def wrong_server(url: str, mistake: Mistake) -> Iterator[str]:
    """The address of a server that is like the one at `url`, but for a mistake."""
    parts = urlsplit(url)
    proxy = _Proxy(f"{parts.scheme}://{parts.netloc}", mistake)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}{parts.path}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        proxy.client.close()
        thread.join(60)
