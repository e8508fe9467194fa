"""Structured logs of the processes: one JSON object a line on standard error. No patient data goes in."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; fields given as `extra={"fields": {...}}` stand beside the message."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`."""
        entry: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            entry.update(fields)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def log_to_stderr(process: str, level: int = logging.INFO) -> None:
    """Send every record of this process to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # their INFO lines hold a URL or an object's content each
    for noisy in ("httpx", "httpcore", "highdicom", "pynetdicom"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # its warnings, logged and issued, quote the value they are about
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pydicom\.")
