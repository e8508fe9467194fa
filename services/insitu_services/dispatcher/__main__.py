"""`python -m insitu_services.dispatcher`: the dispatcher process."""

from __future__ import annotations

import logging
import signal
import threading
from datetime import UTC, datetime

from insitu.archive.blobs import blob_store
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.nodes import window
from insitu.runs.engine import Engine
from insitu.runs.launch.choice import launcher_for
from insitu.settings import load
from insitu_services.logs import log_to_stderr

from .care import Care
from .exchange import Exchange
from .loop import Dispatcher
from .retrievals import RetrievalCarrier
from .transfers import TransferCarrier

logger = logging.getLogger("insitu.dispatcher")

STATEMENT_SECONDS = 60.0  # longer than any statement of a turn takes, also among millions of rows
CARE_SECONDS = 3600.0  # counting and scrubbing may take that


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    log_to_stderr("dispatcher")
    settings = load()
    database = Database(settings.database_dsn("dispatcher"), minimum=1, maximum=4, statement_seconds=STATEMENT_SECONDS)
    password = (settings.secrets / "airflow-password").read_text().strip()
    engine = Engine(settings.engine_url, "insitu", password)
    blobs = blob_store(settings)
    dispatcher = Dispatcher(settings, database, blobs, engine, launcher_for(settings.jobs))
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
