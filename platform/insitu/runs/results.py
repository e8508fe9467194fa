"""Results of an execution on their way into the archive: all in one transaction, listed with the execution.

Not here: how results are made and checked (insitu.runs.steps.publish, insitu.dicom).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from insitu.archive.outcome import Outcome
from insitu.archive.store import Archive, Stored
from insitu.database import Connection, Row
from insitu.errors import Conflict

from .executions import ACTIVE, get, record

KINDS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.88.34": "SR",
    "1.2.840.10008.5.1.4.1.1.104.1": "PDF",
}


def store(archive: Archive, execution: Row, files: list[Path], summary: dict[str, Any]) -> list[Stored]:
    """Store the result files of `execution` and list them with it; a repeat of the same files changes nothing.

    Raises
    ------
    Conflict
        The execution ended meanwhile (it was cancelled), or other results of it are already stored.
    """
    receipt = archive.open_receipt(
        channel="result",
        principal=f"{execution['algorithm']} {execution['algorithm_version']}",
        project=execution["project"],
        execution=execution["id"],
    )

    def list_results(connection: Connection, stored: list[Stored]) -> None:
        row = get(connection, execution["id"], lock=True)
        if row["state"] not in ACTIVE:
            raise Conflict("This execution has ended", value=row["id"], why=f"its state is {row['state']}")
        new = False
        for item in stored:
            kind = KINDS.get(item.sop_class_uid or "", "other")
            inserted = connection.execute(
                "INSERT INTO execution_result (execution, sop_instance_uid, series_instance_uid, kind, summary)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (row["id"], item.sop_instance_uid, item.series_instance_uid, kind, Jsonb(summary)),
            )
            new = new or inserted.rowcount > 0
        if new:
            record(connection, row["id"], "published", {"objects": len(stored)})

    try:
        stored = archive.store_results(
            receipt, files, execution["id"], execution["project"], connection_hook=list_results
        )
    finally:
        archive.close_receipt(receipt)
    refused = [item for item in stored if item.outcome not in (Outcome.STORED, Outcome.DUPLICATE)]
    if refused:
        raise Conflict("A result was not taken into the archive", why=refused[0].reason or refused[0].outcome.value)
    return stored
