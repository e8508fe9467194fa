"""Following objects of the cluster by a watch: a list, then every change; made anew where it ends, breaks or expires.

Only the latest state of the objects that the selector names is held. Not here: what it means (outcome).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
from typing import Any

from .api import Api, ApiRefused

SECONDS = 300  # the server ends a watch then, and the next goes on from there
SILENCE = 100.0  # seconds; the server sends a bookmark about every minute, so a longer silence is a broken connection
LONGEST_PAUSE = 5.0
LONGEST_LINE = 8 << 20
HEAVY = ("managedFields",)


class Watch(threading.Thread):
    """Holds the objects of a collection that selectors name, as they are.

    Parameters
    ----------
    api : Api
    path : str
        Of the collection.
    changed : threading.Condition
        Notified after every change; also guards the attributes.
    **selectors : str
        `labelSelector`, `fieldSelector`.

    Attributes
    ----------
    objects : dict of str to dict
        By name.
    gone : dict of str to dict
        Last state of objects that were deleted while they were watched.
    listed : bool
        Whether the collection was read at least once.
    """

    def __init__(self, api: Api, path: str, changed: threading.Condition, **selectors: str) -> None:
        super().__init__(name=f"watch {path}", daemon=True)
        self._api = api
        self._path = path
        self._changed = changed
        self._selectors = selectors
        self._ending = threading.Event()
        self._socket: socket.socket | None = None
        self._version: str | None = None
        self.objects: dict[str, dict[str, Any]] = {}
        self.gone: dict[str, dict[str, Any]] = {}
        self.listed = False
        self.refusal: ApiRefused | None = None
        self.lists = 0

    def stop(self) -> None:
        """End the watch; does not wait for it."""
        self._ending.set()
        own = self._socket
        if own is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(own, socket.SHUT_RDWR)  # not TLS's own, which is not made for another thread

    def run(self) -> None:
        """Follow until stopped."""
        pause = 0.1
        while not self._ending.is_set():
            try:
                if self._version is None:
                    self._list()
                if self._follow():
                    pause = 0.1
                    continue
            except ApiRefused as error:
                if error.status == 410:
                    self._version = None
                    continue
                self._tell_refusal(error)
                wait = error.retry_after if error.retry_after is not None else pause
            except (OSError, http.client.HTTPException, ValueError):
                wait = pause
            else:
                wait = pause
            self._ending.wait(wait * random.uniform(0.8, 1.2))  # noqa: S311  # so that many do not come at once
            pause = min(pause * 2, LONGEST_PAUSE)

    def _tell_refusal(self, error: ApiRefused) -> None:
        with self._changed:
            self.refusal = error
            self._changed.notify_all()

    def _list(self) -> None:
        response, own = self._api.stream(self._path, 15.0, **self._selectors)
        try:
            content = json.loads(response.read())
        finally:
            response.close()
            own.close()
        items = {item["metadata"]["name"]: _lighter(item) for item in content.get("items") or []}
        with self._changed:
            for name, known in self.objects.items():
                if name not in items:
                    self.gone[name] = known
            self.objects = items
            self.listed = True
            self.refusal = None
            self.lists += 1
            self._version = content["metadata"]["resourceVersion"]
            self._changed.notify_all()

    def _follow(self) -> bool:
        """Take changes until the watch ends; whether there was any."""
        response, own = self._api.stream(
            self._path,
            SILENCE,
            watch="true",
            allowWatchBookmarks="true",
            timeoutSeconds=SECONDS,
            resourceVersion=self._version,
            **self._selectors,
        )
        self._socket = own
        heard = False
        try:
            while not self._ending.is_set():
                line = response.readline(LONGEST_LINE)
                if not line:
                    return heard
                self._take(json.loads(line))
                heard = True
        finally:
            self._socket = None
            response.close()
            own.close()
        return heard

    def _take(self, event: dict[str, Any]) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise ApiRefused(int(item.get("code") or 500), str(item.get("reason")), str(item.get("message")))
        self._version = item["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        name = item["metadata"]["name"]
        with self._changed:
            if kind == "DELETED":
                self.objects.pop(name, None)
                self.gone[name] = _lighter(item)
            else:
                self.objects[name] = _lighter(item)
            self._changed.notify_all()


def _lighter(item: dict[str, Any]) -> dict[str, Any]:
    for name in HEAVY:
        item["metadata"].pop(name, None)
    return item
