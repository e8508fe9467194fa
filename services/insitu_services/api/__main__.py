"""`python -m insitu_services.api`: the api process."""

from __future__ import annotations

import gc
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from insitu.archive.blobs import blob_store
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.errors import InsituError, Unavailable
from insitu.settings import HostPort, Settings, load
from insitu_services.logs import log_to_stderr

from .app import create_app
from .context import Context
from .zerocopy import Protocol

logger = logging.getLogger("insitu.api")

CONNECTIONS = 16
GARBAGE = 20_000  # new objects that call for a look at the youngest; a page of a search makes some ten thousand
GRACE = 2  # seconds that open answers get when the process is asked to end
GRACE_IN_CLUSTER = 20  # there another replica has taken over, and nobody waits for this one


def listen(address: HostPort) -> socket.socket:
    """A socket that listens on HOST:PORT.

    Raises
    ------
    Unavailable
        Another program has the port, or the address is not this machine's.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listener.close()
        raise Unavailable(
            "The web address cannot be used", value=address, why=str(error.strerror),
            remedy="End the program that uses it, or choose another one with --http or INSITU_HTTP",
        ) from error  # fmt: skip
    listener.listen(1024)
    listener.set_inheritable(True)
    return listener


def server(context: Context, application: Callable[[Context], FastAPI] = create_app) -> uvicorn.Server:
    """The HTTP server over `context`: no access log with queries, no trust in proxy headers, ends within seconds."""
    config = uvicorn.Config(
        application(context),
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_IN_CLUSTER if context.settings.in_cluster else GRACE,
    )
    return uvicorn.Server(config)


def _spare_the_collector() -> None:
    """Let the garbage collector not look again and again at what was made at the start: that took a third of a search."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 10, 10)


def run(settings: Settings, address: HostPort, application: Callable[[Context], FastAPI] = create_app) -> None:
    """Serve an application on HOST:PORT until SIGTERM or SIGINT."""
    listener = listen(address)
    database = Database(
        settings.database_dsn("api"), minimum=2, maximum=CONNECTIONS,
        patience=settings.database_patience, statement_seconds=settings.database_patience,
    )  # fmt: skip
    archive = Archive(database, blob_store(settings), settings)
    # uvicorn raises the signal again after its own orderly end; without a handler it would cut off what follows
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    logger.info("listening on %s:%d", *listener.getsockname()[:2])
    served = server(Context(settings=settings, database=database, archive=archive), application)
    _spare_the_collector()
    try:
        served.run(sockets=[listener])
    finally:
        archive.close()
        database.close()
        listener.close()


def begin(name: str) -> Settings:
    """Log as the process `name`; the settings."""
    log_to_stderr(name)
    # its INFO lines tell of every start and stop; its errors come with our own
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return load()


def main() -> None:
    """Entry point."""
    try:
        settings = begin("api")
        run(settings, settings.http)
    except InsituError as error:
        logger.error("%s", error)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
