"""How each part of the platform is, in one word and a sentence, for `/readyz`, `/metrics`, `insitu status` and `insitu doctor`.

Everything is asked at the same time and nothing for longer than some seconds. No patient data. Not here: the processes of this
machine (processes), and what would keep the platform from starting (insitu.doctor).
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from insitu import life
from insitu.archive import reserve
from insitu.archive.blobs import blob_store
from insitu.errors import InsituError
from insitu.life import Life
from insitu.patience import cut
from insitu.settings import Settings

ANSWER_SECONDS = 3.0
SLOW_SECONDS = 2.0  # of an answer
LOCK_SECONDS = 5.0  # of waiting for a lock
SILENT_FOR = 60.0  # seconds for which a silent process of PostgreSQL is told
MOST_WAITING = 10_000  # events; more than a dispatcher that works leaves behind
AGAIN = 1.0  # seconds for which an answer is good

STATES = ("ok", "degraded", "away")


@dataclass(frozen=True)
class Component:
    """How one part is: `state` is ok, degraded (the others go on) or away (nothing can be stored); `facts` are for metrics."""

    state: str
    says: str
    facts: Mapping[str, float] = field(default_factory=dict)


class Health:
    """The components of one installation.

    Parameters
    ----------
    settings : Settings
    dsn : str
        libpq connection string; a connection of its own is made each time, so that nothing waits for a pool.
    silent_at : callable, optional
        When this process itself found a process of PostgreSQL silent, in seconds since the epoch.
    """

    def __init__(self, settings: Settings, dsn: str, silent_at: Callable[[], float | None] = lambda: None) -> None:
        self._settings = settings
        self._dsn = dsn
        self._silent_at = silent_at
        self._disk = Disk(settings)
        self._store = ObjectStore(settings) if settings.object_store else None
        self._lock = threading.Lock()
        self._seen: tuple[float, dict[str, Component]] | None = None

    def look(self) -> dict[str, Component]:
        """Every component by its name; asked at most once a second, however many want to know."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > AGAIN:
                found: dict[str, Component] = {}
                asked: list[Callable[[], dict[str, Component]]] = [
                    lambda: database(self._dsn, self._silent_at()),
                    lambda: {"disk": self._disk.look()},
                    lambda: {"airflow": airflow(self._settings)},
                ]
                if self._store is not None:
                    store = self._store
                    asked.append(lambda: {OBJECT_STORE: store.look()})
                threads = [threading.Thread(target=lambda ask=ask: found.update(ask()), daemon=True) for ask in asked]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                self._seen = (time.monotonic(), {name: found[name] for name in COMPONENTS if name in found})
            return self._seen[1]


OBJECT_STORE = "object store"  # only where the settings name one
COMPONENTS = ("database", "disk", OBJECT_STORE, "receiver", "dispatcher", "airflow")
PROBE = "health/probe"  # key of a blob that is written to see whether one can be


def worst(components: Mapping[str, Component]) -> str:
    """The state of the whole."""
    return max((component.state for component in components.values()), key=STATES.index)


def database(dsn: str, silent_at: float | None) -> dict[str, Component]:
    """PostgreSQL, and what it knows of the receiver and the dispatcher."""
    began = time.monotonic()
    try:
        with psycopg.connect(
            dsn, row_factory=dict_row, connect_timeout=round(ANSWER_SECONDS), options="-c statement_timeout=3000"
        ) as connection:
            guard = threading.Timer(ANSWER_SECONDS, cut, (connection.fileno(),))
            guard.daemon = True
            guard.start()
            try:
                row = connection.execute(
                    "SELECT (SELECT count(*) FROM (SELECT 1 FROM series_event LIMIT %s) AS event) AS waiting,"
                    " (SELECT extract(epoch FROM max(clock_timestamp() - waitstart))::float8 FROM pg_locks"
                    "  WHERE NOT granted) AS locked",
                    (MOST_WAITING,),
                ).fetchone()
                signs = life.signs(connection)
            finally:
                guard.cancel()
    except psycopg.OperationalError:
        unknown = Component("degraded", "unknown without the database")
        away = "does not answer: senders are told to try again later; it heals when PostgreSQL is back"
        return {"database": Component("away", away), "receiver": unknown, "dispatcher": unknown}
    assert row is not None  # noqa: S101  a row of counts
    return {
        "database": database_state(
            time.monotonic() - began, row["locked"], [silent_at, *(sign.facts.get("silent_at") for sign in signs)]
        ),
        "receiver": receiver_state(signs),
        "dispatcher": dispatcher_state(row["waiting"], signs),
    }


def database_state(seconds: float, locked: float | None, silences: list[float | None]) -> Component:
    """PostgreSQL by how long its answer took, the longest wait for a lock, and when processes of it were found silent."""
    facts = {"answer_seconds": seconds, "lock_wait_seconds": locked or 0.0}
    if any(at is not None and time.time() - at < SILENT_FOR for at in silences):
        return Component(
            "degraded",
            "one of its processes fell silent within the last minute: what waited for it was cut off; look at its machine",
            facts,
        )
    if locked is not None and locked > LOCK_SECONDS:
        return Component(
            "degraded", f"something waits for a lock since {locked:.0f} s: look for long transactions", facts
        )
    if seconds > SLOW_SECONDS:
        return Component("degraded", f"answers slowly, after {seconds:.1f} s: look at its machine and disk", facts)
    return Component("ok", "answers", facts)


def receiver_state(signs: list[Life]) -> Component:
    """The receiver's processes by their signs of life. Pure."""
    ours = [sign for sign in signs if sign.process == "receiver"]
    silent = sum(sign.silent for sign in ours)
    facts = {
        "processes": float(len(ours) - silent),
        "associations": float(sum(sign.facts.get("associations", 0) for sign in ours if not sign.silent)),
    }
    if silent == len(ours):
        return Component("degraded", "shows no sign of life: nothing is received by DICOM, STOW-RS goes on", facts)
    if silent:
        return Component(
            "degraded",
            f"{silent} of its {len(ours)} processes show no sign of life: kill them, they are replaced",
            facts,
        )
    return Component("ok", f"{len(ours)} processes, {facts['associations']:.0f} associations", facts)


def dispatcher_state(waiting: int, signs: list[Life]) -> Component:
    """The dispatcher by its sign of life and by what waits for it. Pure."""
    ours = [sign for sign in signs if sign.process == "dispatcher"]
    facts = {"events_waiting": float(waiting)}
    if all(sign.silent for sign in ours):
        return Component(
            "degraded",
            "shows no sign of life: objects are stored, their series become complete when it is back",
            facts,
        )
    if waiting >= MOST_WAITING:
        return Component("degraded", f"{waiting} events or more wait: it is slow; objects are stored", facts)
    return Component("ok", f"{waiting} events wait", facts)


class Disk:
    """The disk of the blobs, or of the spool: what is free, and whether something can be made durable on it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._trial: _Trial | None = None

    def look(self) -> Component:
        """How it is; a trial that hangs is waited for once, and no other is begun meanwhile."""
        settings = self._settings
        try:
            left = reserve.free(settings)
        except OSError as error:
            return Component("away", f"cannot be looked at: {error.strerror}")
        facts: dict[str, Any] = {"free_bytes": left}
        says = f"{left / 1e9:.1f} GB free"
        if left < settings.disk_reserve:
            return Component(
                "away", f"{says}, less than the reserve (disk_reserve): no objects are taken until there is more", facts
            )
        if self._trial is None:
            self._trial = _Trial(functools.partial(_write_on_disk, settings.blobs))
        trial = self._trial
        seconds = trial.wait(ANSWER_SECONDS)
        if trial.error is not None:
            self._trial = None
            return Component("away", f"does not take objects: {trial.error}", facts)
        if seconds is None:
            hangs = time.monotonic() - trial.began
            return Component("degraded", f"makes nothing durable since {hangs:.0f} s: senders wait", facts)
        self._trial = None
        facts["write_seconds"] = seconds
        if seconds > SLOW_SECONDS:
            return Component("degraded", f"is slow: {seconds:.1f} s to make a few bytes durable; senders wait", facts)
        if left < 2 * settings.disk_reserve:
            return Component(
                "degraded", f"{says}: soon no objects are taken; free space on the disk of the home", facts
            )
        return Component("ok", says, facts)


class ObjectStore:
    """The object store: whether a few bytes can be made durable in it, and how long that takes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._trial: _Trial | None = None
        self._silent_since: float | None = None

    def look(self) -> Component:
        """How it is; a trial that gets no answer is waited for once, and no other is begun meanwhile."""
        if self._trial is None:
            try:
                store = blob_store(self._settings)  # loads its client, which must not count as the store's time
            except InsituError as error:
                return Component("away", str(error))
            self._trial = _Trial(lambda: store.put(PROBE, bytes(64)))
        trial = self._trial
        seconds = trial.wait(ANSWER_SECONDS)
        if seconds is None:
            self._silent_since = self._silent_since or trial.began
            silent = time.monotonic() - self._silent_since
            return Component(
                "away", f"has not answered for {silent:.0f} s: senders are told to try again later; look at its machine"
            )
        self._trial = None
        if trial.error is not None:
            return Component("away", f"does not take objects, senders are told to try again later: {trial.error}")
        self._silent_since = None
        facts = {"write_seconds": seconds}
        if seconds > SLOW_SECONDS:
            return Component("degraded", f"is slow: {seconds:.1f} s to make a few bytes durable; senders wait", facts)
        return Component("ok", "takes objects", facts)


class _Trial:
    """A few bytes made durable, in a thread of their own: a disk may hang for ever."""

    def __init__(self, write: Callable[[], object]) -> None:
        self.began = time.monotonic()
        self.error: str | None = None
        self._ended: float | None = None
        self._thread = threading.Thread(target=self._run, args=(write,), name="trial of the store", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> float | None:
        """Seconds it took; None while it goes on."""
        self._thread.join(seconds)
        return None if self._ended is None else self._ended - self.began

    def _run(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            self.error = error.strerror or str(error)
        except InsituError as error:
            self.error = str(error)
        self._ended = time.monotonic()


def _write_on_disk(folder: Path) -> None:
    while not folder.exists():
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder) as stream:  # has no name where the file system can do that
        stream.write(bytes(4096))
        stream.flush()
        os.fsync(stream.fileno())


def airflow(settings: Settings) -> Component:
    """Airflow by what it says of its parts; without it objects are stored and runs wait."""
    wait = "objects are stored, runs wait until it is back"
    try:
        answer = httpx.get(f"{settings.engine_url}/api/v2/monitor/health", timeout=ANSWER_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return Component("degraded", f"does not answer: {wait}")
    parts: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        parts = answer.json()
    ill = [
        name.replace("_", " ")
        for name in ("metadatabase", "scheduler", "dag_processor")
        if answer.status_code != 200 or parts.get(name, {}).get("status") != "healthy"
    ]
    if ill:
        return Component("degraded", f"is not healthy ({', '.join(ill)}): {wait}")
    return Component("ok", "answers")
