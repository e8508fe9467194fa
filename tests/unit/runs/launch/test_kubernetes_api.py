"""Requests and watches against a server that answers as an API server in trouble does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from insitu.errors import Unavailable
from insitu.runs.launch.kubernetes.api import Access, Api, ApiRefused
from insitu.runs.launch.kubernetes.watching import Watch

PATH = "/api/v1/namespaces/a/pods"
PATIENCE = 20.0


class Server(ThreadingHTTPServer):
    """Answers each request by the next step of a script; the last one stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Callable[[Handler], None]] = []
        self.asked: list[str] = []
        self.open = threading.Event()

    @property
    def access(self) -> Access:
        """To it."""
        return Access(f"http://127.0.0.1:{self.server_address[1]}", None, token="t")


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Take the next step."""
        self.server.asked.append(self.path)
        script = self.server.script
        (script.pop(0) if len(script) > 1 else script[0])(self)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self, status: int, document: dict[str, Any], **headers: str) -> None:
        """JSON."""
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, *events: dict[str, Any], stay: bool = True) -> None:
        """Events of a watch, and then silence until the test ends or, without `stay`, a broken connection."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        if stay:
            self.server.open.wait(PATIENCE)
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    """On a port of this machine."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.open.set()
    server.shutdown()
    server.server_close()


def pod(name: str, version: int) -> dict[str, Any]:
    """An object."""
    return {"metadata": {"name": name, "resourceVersion": str(version), "managedFields": ["long"]}}


def listed(version: int, *pods: dict[str, Any]) -> Callable[[Handler], None]:
    """The answer to a list."""
    return lambda handler: handler.answer(200, {"metadata": {"resourceVersion": str(version)}, "items": list(pods)})


def watched(*events: tuple[str, dict[str, Any]], stay: bool = True) -> Callable[[Handler], None]:
    """The answer to a watch."""
    return lambda handler: handler.stream(*({"type": kind, "object": item} for kind, item in events), stay=stay)


def refuse(status: int, reason: str, **headers: str) -> Callable[[Handler], None]:
    """A refusal."""
    return lambda handler: handler.answer(status, {"kind": "Status", "reason": reason, "message": reason}, **headers)


def hang_up(handler: Handler) -> None:
    """Break the connection without an answer."""
    handler.close_connection = True


@pytest.fixture
def follow(server: Server) -> Iterator[Callable[[], Watch]]:
    """Start a watch; it ends with the test."""
    made = []

    def start() -> Watch:
        watch = Watch(Api(server.access), PATH, threading.Condition(), labelSelector="job-name=x")
        made.append(watch)
        watch.start()
        return watch

    yield start
    for watch in made:
        watch.stop()
        watch.join(PATIENCE)
        assert not watch.is_alive(), "a watch does not end when it is told to"


def until(true: Callable[[], bool]) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def query(address: str) -> dict[str, str]:
    """Of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


def test_changes_after_the_list_are_followed_from_its_version(server: Server, follow: Callable[[], Watch]) -> None:
    server.script = [
        listed(5, pod("a", 4)),
        watched(("MODIFIED", pod("a", 6)), ("ADDED", pod("b", 7)), ("DELETED", pod("a", 8))),
    ]
    watch = follow()
    until(lambda: "a" in watch.gone)
    assert set(watch.objects) == {"b"}
    assert "managedFields" not in watch.objects["b"]["metadata"]
    assert query(server.asked[1])["resourceVersion"] == "5"
    assert query(server.asked[1])["labelSelector"] == "job-name=x"


def test_watch_that_breaks_goes_on_where_it_was(server: Server, follow: Callable[[], Watch]) -> None:
    server.script = [
        listed(5), watched(("ADDED", pod("a", 6)), stay=False), hang_up, refuse(429, "TooManyRequests", Retry_After="0"),
        refuse(503, "ServiceUnavailable"), watched(("BOOKMARK", pod("", 9)), stay=False), watched(("ADDED", pod("b", 10))),
    ]  # fmt: skip
    watch = follow()
    until(lambda: set(watch.objects) == {"a", "b"})
    assert [query(address).get("resourceVersion") for address in server.asked] == [None, "5", "6", "6", "6", "6", "9"]
    assert watch.lists == 1


@pytest.mark.parametrize(
    "expired",
    [
        refuse(410, "Expired"),
        lambda handler: handler.stream(
            {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
        ),
    ],
)
def test_expired_version_means_to_list_again(
    server: Server, follow: Callable[[], Watch], expired: Callable[[Handler], None]
) -> None:
    server.script = [listed(5, pod("a", 4)), expired, listed(90, pod("b", 88)), watched(("ADDED", pod("c", 91)))]
    watch = follow()
    until(lambda: "c" in watch.objects)
    assert set(watch.objects) == {"b", "c"}
    assert set(watch.gone) == {"a"}


def test_watch_that_is_not_allowed_says_so(server: Server, follow: Callable[[], Watch]) -> None:
    server.script = [refuse(403, "Forbidden")]
    watch = follow()
    until(lambda: watch.refusal is not None)
    assert watch.refusal is not None
    assert watch.refusal.status == 403
    assert not watch.listed


def test_overloaded_server_is_asked_again_when_it_says(server: Server) -> None:
    server.script = [refuse(429, "TooManyRequests", Retry_After="1"), hang_up, refuse(500, "InternalError"), listed(1)]
    began = time.monotonic()
    assert Api(server.access).get(PATH, patience=PATIENCE)["items"] == []
    assert time.monotonic() - began > 0.7
    assert len(server.asked) == 4


def test_refusal_is_final_and_carries_the_servers_words(server: Server) -> None:
    server.script = [refuse(403, "Forbidden")]
    with pytest.raises(ApiRefused, match="403 Forbidden"):
        Api(server.access).get(PATH)
    assert len(server.asked) == 1


def test_server_that_stays_away_is_told_in_a_sentence(server: Server) -> None:
    server.script = [hang_up]
    with pytest.raises(Unavailable, match="The Kubernetes API does not answer"):
        Api(server.access).get(PATH, patience=0.5)


def test_only_beginning_and_end_of_a_long_log_are_held(server: Server) -> None:
    def log(handler: Handler) -> None:
        body = b"beginning" + b"x" * 3_000_000 + b"the end"
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    server.script = [log]
    assert Api(server.access).text(PATH, most=9, keep=7) == (b"beginning", b"the end")
