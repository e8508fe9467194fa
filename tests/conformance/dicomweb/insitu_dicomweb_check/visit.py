"""A visit to a server: its objects there, and what several checks ask for, asked once.

Not here: judging the answers (checks).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import httpx

from . import dicomjson, multipart
from .check import Broken, NotOffered, Skipped
from .objects import Sample, Samples
from .server import JSON, Exchange, Server

ABSENT = (404, 405, 501)  # what a server answers where it has no such resource or method (RFC 9110 15.5, 15.6)
INDEXING_SECONDS = 30.0  # how long a server may take until what it stored is found by a search

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """An instance to retrieve."""

    study: str
    series: str
    instance: str

    @property
    def path(self) -> str:
        """Path of its resource."""
        return f"/studies/{self.study}/series/{self.series}/instances/{self.instance}"

    @property
    def series_path(self) -> str:
        """Path of its series."""
        return f"/studies/{self.study}/series/{self.series}"

    @property
    def study_path(self) -> str:
        """Path of its study."""
        return f"/studies/{self.study}"


@dataclass(frozen=True)
class Deposit:
    """A store request of the preparation and its answer."""

    samples: list[Sample]
    response: httpx.Response
    exchange: Exchange


class Visit:
    """What the checks share.

    Parameters
    ----------
    server : Server
    samples : Samples
    read_only : bool
        Store and delete nothing; what needs own objects is skipped, the rest asks for what is there.
    """

    def __init__(self, server: Server, samples: Samples, *, read_only: bool = False) -> None:
        self.server = server
        self.samples = samples
        self.read_only = read_only
        self.stored = False
        self.extra: list[str] = []  # the study of what checks stored beside the samples
        self._deposits: dict[str, Deposit] = {}
        self._kept: dict[str, tuple[Any, list[Exchange]]] = {}

    def prepare(self) -> None:
        """Store the samples; three requests, which the checks of storing look at again."""
        if self.read_only:
            return
        ct, rest = self.samples.ct, [s for s in self.samples.all if s not in self.samples.ct]
        for name, path, several in (
            ("one", "/studies", ct[:1]),
            ("study", f"/studies/{ct[0].study}", ct[1:]),
            ("many", "/studies", rest),
        ):
            self._deposits[name] = self._deposit(path, several)
        self.stored = all(deposit.response.status_code in (200, 202) for deposit in self._deposits.values())
        if self.stored:
            self._wait_until_found()
        self.server.exchanges.clear()

    def _deposit(self, path: str, samples: list[Sample]) -> Deposit:
        response = self.store([sample.file for sample in samples], path)
        return Deposit(samples, response, self.server.exchanges[-1])

    def store(self, files: list[bytes], path: str = "/studies", accept: str = JSON, **options: Any) -> httpx.Response:
        """POST files as application/dicom parts."""
        headers = {"Content-Type": multipart.content_type()} | options.pop("headers", {})
        return self.server.request(
            "POST", path, accept=accept, headers=headers, body=multipart.put_together(files), **options
        )

    def _wait_until_found(self) -> None:
        deadline = time.monotonic() + INDEXING_SECONDS
        while time.monotonic() < deadline:
            if all(self._indexed(study) for study in self.samples.studies):
                return
            time.sleep(0.25)

    def _indexed(self, study: str) -> bool:
        """Whether a search finds all of a study; also where the answer is no list, as waiting will not make it one."""
        response = self.server.get(f"/studies/{study}/instances")
        if response.status_code == 204:
            return False
        try:
            found = response.json()
        except ValueError:
            return True
        return (
            response.status_code != 200
            or not isinstance(found, list)
            or len(found) == len(self.samples.of_study(study))
        )

    def deposit(self, name: str) -> Deposit:
        """The request `one`, `study` or `many` of the preparation.

        Raises
        ------
        NotOffered
            The server does not store.
        """
        if name not in self._deposits:
            raise Skipped("nothing is stored in a read-only visit")
        found = self._deposits[name]
        self.server.exchanges.append(found.exchange)
        if found.response.status_code in ABSENT:
            raise NotOffered(f"POST answers {found.response.status_code}")
        return found

    def own(self) -> Samples:
        """The samples, where the server has them.

        Raises
        ------
        Skipped
            They are not there.
        """
        if not self.stored:
            raise Skipped("the suite's own objects are not on the server")
        return self.samples

    def target(self) -> Target:
        """An instance to retrieve: the first CT, or in a read-only visit the first one a search finds.

        Raises
        ------
        Skipped
            There is none.
        """
        if self.stored:
            sample = self.samples.ct[0]
            return Target(sample.study, sample.series, sample.instance)
        return self.once("target", self._any)

    def _any(self) -> Target:
        response = self.server.get("/instances", query=[("limit", "1")])
        if response.status_code != 200 or not response.json():
            raise Skipped("the server holds no instance that a search finds")
        row = response.json()[0]
        return Target(*(str(dicomjson.first(row.get(tag))) for tag in ("0020000D", "0020000E", "00080018")))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` returns; made once, its requests belong to each check that uses it."""
        if name not in self._kept:
            before = len(self.server.exchanges)
            value = make()
            self._kept[name] = (value, self.server.exchanges[before:])
            return value
        value, exchanges = self._kept[name]
        self.server.exchanges.extend(exchanges)
        return cast(T, value)

    def search(self, path: str, **query: str) -> list[Mapping[str, Any]]:
        """The results of a search that must succeed; parameters have `__` in their name where the attribute has a dot.

        Raises
        ------
        Broken
            The answer is no list of results.
        """
        return self.results(self.server.get(path, query=[(name.replace("__", "."), v) for name, v in query.items()]))

    def results(self, response: httpx.Response) -> list[Mapping[str, Any]]:
        """The results in an answer: none with 204, the array with 200.

        Raises
        ------
        Broken
            The answer is something else.
        """
        if response.status_code == 204:
            return []
        if response.status_code != 200:
            raise Broken(said(response))
        return documents(response)

    def metadata(self, path: str) -> list[Mapping[str, Any]]:
        """The metadata below a path, asked for once."""

        def ask() -> list[Mapping[str, Any]]:
            response = self.server.get(f"{path}/metadata")
            if response.status_code != 200:
                raise Broken(said(response))
            return documents(response)

        return self.once(f"metadata {path}", ask)

    def metadata_of(self, sample: Sample) -> Mapping[str, Any]:
        """The metadata of one of the samples."""
        found = self.metadata(sample.path)
        if len(found) != 1:
            raise Broken(f"{len(found)} documents for one instance")
        return found[0]

    def leave(self) -> list[str]:
        """Delete what was stored; the studies that are still there."""
        studies = dict.fromkeys([*self.samples.studies, *self.extra]) if self._deposits else []
        left = []
        for study in studies:
            response = self.server.request("DELETE", f"/studies/{study}")
            if response.status_code not in (200, 202, 204, 404, 410) or self.server.get(
                f"/studies/{study}/metadata"
            ).status_code not in (404, 410):
                left.append(study)
        return left


def documents(response: httpx.Response) -> list[Mapping[str, Any]]:
    """The array of DICOM JSON objects in an answer.

    Raises
    ------
    Broken
        It is not one.
    """
    try:
        found = response.json()
    except ValueError as error:
        raise Broken(f"{said(response)}, and the body is not JSON") from error
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise Broken(f"{said(response)}, and the body is not an array of objects")
    return found


def said(response: httpx.Response) -> str:
    """Status and media type of an answer, and the beginning of what it says where it refuses."""
    kind = response.headers.get("content-type", "no Content-Type") if response.content else "no body"
    text = f"{response.status_code} ({kind})"
    if response.status_code >= 400 and kind.startswith(("text/plain", "application/problem+json", "application/json")):
        text += f": {' '.join(response.text.split())[:160]}"
    return text


def status(response: httpx.Response, *wanted: int, offered: tuple[int, ...] = ()) -> str:
    """What came, where the status is a wanted one.

    Parameters
    ----------
    response : httpx.Response
    *wanted : int
    offered : tuple of int
        Statuses by which a server says that it does not have this.

    Raises
    ------
    NotOffered, Broken
        Another status came.
    """
    if response.status_code in offered:
        raise NotOffered(said(response))
    if response.status_code not in wanted:
        raise Broken(said(response))
    return said(response)


def demand(condition: object, came: str) -> None:
    """Break the check where a condition does not hold, saying what came."""
    if not condition:
        raise Broken(came)
