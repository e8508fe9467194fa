"""`python -m insitu_services.dispatcher`: the dispatcher process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from datetime import UTC, datetime

from insitu.archive.blobs import blob_store
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.errors import InsituError, Invalid
from insitu.nodes import window
from insitu.runs.engine import Engine
from insitu.runs.launch.choice import launcher_for
from insitu.runs.launch.kubernetes.configuration import FILE_VARIABLE
from insitu.runs.launch.specification import Launcher
from insitu.settings import Settings, load
from insitu_services.airflow_configuration import USER
from insitu_services.logs import log_to_stderr
from insitu_services.prepare.secrets import secret

from .care import Care
from .exchange import Exchange
from .loop import Dispatcher
from .retrievals import RetrievalCarrier
from .transfers import TransferCarrier

logger = logging.getLogger("insitu.dispatcher")

STATEMENT_SECONDS = 60.0  # longer than any statement of a turn takes, also among millions of rows
CARE_SECONDS = 3600.0  # counting and scrubbing may take that


def launcher(settings: Settings) -> Launcher:
    """What ends jobs that the engine lost.

    Raises
    ------
    Invalid
        This is a cluster, and the launcher's configuration is not named.
    """
    if settings.in_cluster and not os.environ.get(FILE_VARIABLE):
        raise Invalid(
            "The cluster's launcher has no configuration",
            value=FILE_VARIABLE,
            why="the setting launcher is kubernetes",
            remedy=f"Name its file in the variable {FILE_VARIABLE}",
        )
    return launcher_for(settings.jobs)


def main() -> None:
    """Entry point."""
    log_to_stderr("dispatcher")
    try:
        run(load())
    except InsituError as error:
        logger.error("%s", error)
        raise SystemExit(1) from None


def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT."""
    database = Database(settings.database_dsn("dispatcher"), minimum=1, maximum=4, statement_seconds=STATEMENT_SECONDS)
    engine = Engine(settings.engine_url, USER, secret(settings.secrets, "airflow-password"))
    blobs = blob_store(settings)
    dispatcher = Dispatcher(settings, database, blobs, engine, launcher(settings))
    stopping = threading.Event()
    exchange_database = Database(
        settings.database_dsn("dispatcher"), minimum=0, maximum=2 * settings.transfers_at_once + 1,
        statement_seconds=STATEMENT_SECONDS,
    )  # fmt: skip
    exchange_archive = Archive(exchange_database, blobs, settings)
    sender = TransferCarrier(settings, exchange_database, exchange_archive, stopping)
    fetcher = RetrievalCarrier(settings, exchange_database, exchange_archive, stopping)
    exchange = Exchange(
        settings,
        exchange_database,
        {"transfer": sender.carry, "retrieval": fetcher.carry},
        stopping,
        is_peak=lambda: not window.is_open(settings.retrieval_window, datetime.now(UTC), settings.time_zone),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: dispatcher.stop())
    care_database = Database(settings.database_dsn("dispatcher"), minimum=0, maximum=2, statement_seconds=CARE_SECONDS)
    archive = Archive(care_database, blobs, settings)
    care = Care(archive)
    exchange.start()
    care.start()
    logger.info("ready")
    dispatcher.run()
    care.stop()
    archive.close()
    care_database.close()
    exchange.stop()
    exchange_archive.close()
    exchange_database.close()
    engine.close()
    database.close()


if __name__ == "__main__":
    main()
