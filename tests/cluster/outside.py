"""Hosts outside the cluster for its pods to try: a network namespace of the tests' own beside the node, in which somebody answers.

One stands for any host of the internet, one for the metadata service of a cloud. Nothing that a pod sends to them leaves this machine.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .cluster import Cluster

HOST = "192.0.2.10"  # RFC 5737: of nobody
METADATA = "169.254.169.254"
NODE = "192.0.2.1"
WEB, NAMES = 80, 53

ANSWER = f"""
import socket, socketserver, sys, threading
visitors = open(sys.argv[1], "a", buffering=1)
class Web(socketserver.BaseRequestHandler):
    def handle(self):
        print(self.client_address[0], file=visitors)
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
class Names(socketserver.BaseRequestHandler):
    def handle(self):
        print(self.client_address[0], file=visitors)
        self.request[1].sendto(self.request[0], self.client_address)
socketserver.ThreadingTCPServer.allow_reuse_address = True
servers = [socketserver.ThreadingTCPServer(("0.0.0.0", {WEB}), Web)]
# One per address: an answer must come from the address that was asked.
servers += [socketserver.ThreadingUDPServer((address, {NAMES}), Names) for address in ("{HOST}", "{METADATA}")]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Outside:
    """The hosts, and whom they have seen."""

    log: Path

    def visitors(self) -> set[str]:
        """Addresses from which anything came."""
        return set(self.log.read_text().split())


@contextlib.contextmanager
def outside(cluster: Cluster, folder: Path) -> Iterator[Outside | None]:
    """The hosts, reachable by the node and by pods that no policy keeps; None where the cluster is not one beside this clone."""
    if cluster.network_namespace is None:
        yield None
        return
    node, own = cluster.network_namespace.name, f"out-{secrets.token_hex(3)}"
    log = folder / "visitors"
    log.touch()
    _ip("netns", "add", own)
    try:
        _ip("link", "add", own, "netns", node, "type", "veth", "peer", "name", "node", "netns", own)
        _ip("-n", node, "addr", "add", f"{NODE}/32", "dev", own)
        _ip("-n", node, "link", "set", own, "up")
        for address in (HOST, METADATA):
            _ip("-n", own, "addr", "add", f"{address}/32", "dev", "node")
        _ip("-n", own, "link", "set", "node", "up")
        _ip("-n", own, "link", "set", "lo", "up")
        _ip("-n", own, "route", "add", f"{NODE}/32", "dev", "node")
        _ip("-n", own, "route", "add", "default", "via", NODE, "src", HOST)
        for address in (HOST, METADATA):
            _ip("-n", node, "route", "add", f"{address}/32", "dev", own, "src", NODE)
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{own}", sys.executable, "-c", ANSWER, str(log)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            yield Outside(log)
        finally:
            process.terminate()
            process.wait(timeout=20)
    finally:
        _ip("netns", "delete", own)  # and with it the pair of interfaces, and the node's routes to it


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
