"""Run in two pods: one serves three ports and tells what it reaches; the other tries these ports, and what is forbidden to it."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

CONNECT = 3.0  # seconds
GETS_THROUGH = 25.0  # within which an allowed connection must succeed
SHUT_AFTER = 10.0  # within which a forbidden one must not succeed any more
KUBELET = 10250
RESOLVES = 12.0


def reach(host: str, port: int) -> str:
    """What becomes of a connection: open, refused, silent, or why there was none."""
    try:
        socket.create_connection((host, port), timeout=CONNECT).close()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silent"
    except OSError as error:
        return error.strerror or str(error)
    return "open"


def opens(host: str, port: int) -> dict[str, object]:
    """An allowed connection, tried until it succeeds."""
    first = last = reach(host, port)
    began = time.monotonic()
    while last != "open" and time.monotonic() - began < GETS_THROUGH:
        time.sleep(0.5)
        last = reach(host, port)
    return {"first": first, "last": last, "seconds": time.monotonic() - began}


def shuts(host: str, port: int) -> dict[str, object]:
    """A forbidden connection, tried until it does not succeed any more."""
    first = last = reach(host, port)
    began = time.monotonic()
    while last == "open" and time.monotonic() - began < SHUT_AFTER:
        time.sleep(0.5)
        last = reach(host, port)
    return {"first": first, "last": last, "seconds": time.monotonic() - began}


def domain() -> str:
    """The cluster's domain by the search list, with the dot that makes a name whole."""
    with open("/etc/resolv.conf") as file:
        for line in file:
            for name in line.split()[1:]:
                if line.startswith("search") and name.startswith("svc."):
                    return name.removeprefix("svc").rstrip(".") + "."
    return ""


def resolves(name: str) -> str:
    """An address of the name, or empty; a lookup that hangs is left to itself."""
    found: list[str] = []

    def look() -> None:
        with contextlib.suppress(OSError):
            found.append(str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(RESOLVES)
    return found[0] if found else ""


def ahead(host: str, port: int) -> float | None:
    """Seconds that this node's clock is before the API server's."""
    context = ssl._create_unverified_context()  # noqa: S323  # nothing is believed but the time
    connection = http.client.HTTPSConnection(host, port, timeout=CONNECT * 2, context=context)
    try:
        began = time.time()
        connection.request("GET", "/version")
        date = connection.getresponse().getheader("Date")
        middle = (began + time.time()) / 2
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return None if date is None else middle - parsedate_to_datetime(date).timestamp() - 0.5


def processes() -> str:
    """The limit of processes that this pod sees."""
    for path in ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"):
        try:
            with open(path) as file:
                return file.read().strip()
        except OSError:
            continue
    return ""


def serve(port: int) -> None:
    """Take connections on a port, for ever."""
    both = socket.has_dualstack_ipv6()
    address = ("", port)
    server = (
        socket.create_server(address, family=socket.AF_INET6, dualstack_ipv6=True)
        if both
        else socket.create_server(address)
    )

    def take() -> None:
        while True:
            server.accept()[0].close()

    threading.Thread(target=take, daemon=True).start()


def together(tasks: dict[str, Callable[[], object]]) -> dict[str, object]:
    """What each task gives, all of them at the same time."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        begun = {name: pool.submit(task) for name, task in tasks.items()}
        return {name: task.result() for name, task in begun.items()}


def place_found(place: dict[str, object]) -> dict[str, object]:
    """A server of the site: its address, and what becomes of a connection to it."""
    host = str(place["host"])
    return place | {"address": resolves(host), "state": reach(host, int(str(place["port"])))}


def main() -> None:
    """Serve or try, as asked."""
    asked = json.loads(os.environ["ASKED"])
    api = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    node = os.environ["NODE_ADDRESS"]
    name = "kubernetes.default.svc" + domain()
    both: dict[str, Callable[[], object]] = {
        "node": lambda: reach(node, KUBELET),
        "dns": lambda: bool(resolves(name)),
    }
    if "serve" in asked:
        for port in asked["serve"]:
            serve(port)
        found = together(
            both
            | {
                "api": lambda: opens(*api)["last"],
                "ahead": lambda: ahead(*api),
                "processes": processes,
                "places": lambda: [place_found(place) for place in asked["places"]],
            }
        )
        print(json.dumps(found), flush=True)
        time.sleep(asked["seconds"])
        return
    host = asked["host"]
    found = together(
        both
        | {
            "ingress": lambda: shuts(host, asked["ingress"]),
            "egress": lambda: shuts(host, asked["egress"]),
            "control": lambda: opens(host, asked["control"]),
            "api": lambda: reach(*api),
        }
    )
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
