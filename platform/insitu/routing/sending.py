"""Queue what a routing decision sends to other nodes, and keep with the decision what became of each.

Not here: which rules send what (evaluate), the queue (insitu.nodes.transfers).
"""

from __future__ import annotations

from typing import Any

from insitu.archive.completeness import CompleteSeries
from insitu.audit import trail
from insitu.database import Connection
from insitu.errors import InsituError
from insitu.events.wake import CHANNEL
from insitu.nodes import transfers

from . import apply
from .evaluate import Decision


def for_decision(connection: Connection, series: CompleteSeries, decision: Decision) -> list[dict[str, Any]]:
    """Queue a complete series for every node of a decision: those of its objects that no rule has sent there yet.

    What cannot be sent (the node has no address) is explained there; the others go on.
    """
    answers: list[dict[str, Any]] = []
    for send in decision.sends:
        answer: dict[str, Any] = {"rule": send.rule, "node": send.node}
        by = f"rule {send.rule}"
        try:
            with connection.transaction():
                made = transfers.create(
                    connection,
                    send.node,
                    series=series.series_instance_uid,
                    projects=None,
                    requested_by=by,
                    rule=send.rule,
                )
                if made is not None:
                    row = transfers.get(connection, made, None)
                    trail.record(
                        connection, by, "export", "series", series.series_instance_uid,
                        detail={
                            "node": send.node, "transfer": made, "study": row["study_instance_uid"],
                            "objects": row["waiting"],
                        },
                    )  # fmt: skip
            answer["transfer"] = made  # None: a rule has sent every object there already
        except InsituError as error:
            answer["refused"] = str(error)
        answers.append(answer)
    if answers:
        apply.add(connection, series, "transfers", answers)
        connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))
    return answers
