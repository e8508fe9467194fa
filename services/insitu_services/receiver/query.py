"""C-FIND: a search of the index, its answers sent while the database still reads (PS3.4 C.4.1).

Not here: what an identifier means (identifier), the SQL (insitu.archive.search_sql), how an answer is written (answers).
"""

from __future__ import annotations

import psycopg

from insitu.archive import metadata, search_sql
from insitu.archive.search import Level
from insitu.audit import trail
from insitu.database import Row
from insitu.errors import InsituError

from . import answers, identifier
from .dialogue import (
    CANCELLED,
    PENDING,
    PENDING_UNSUPPORTED_KEYS,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    UNABLE_TO_PROCESS,
    Dialogue,
    Refusal,
    Request,
)  # fmt: skip
from .identifier import Identifier, Question
from .sop_classes import QUERY_RETRIEVE, Operation, QueryRetrieve

BATCH = 100  # answers that are read from the database, and sent, between two looks for a cancel


def find(dialogue: Dialogue, request: Request) -> None:
    """Answer a C-FIND; memory does not grow with the number of matches.

    Raises
    ------
    Refusal
        The identifier does not fit the SOP class, or cannot be meant.
    """
    model = model_of(request, Operation.FIND)
    asked = identifier.read(request.data_set, request.transfer_syntax, model.root)
    question = identifier.question(
        asked,
        model.root,
        relational=model.uid in dialogue.agreement.relational,
        date_times=model.uid in dialogue.agreement.date_times,
    )
    _audit(dialogue, model, asked)
    try:
        done = _answer(dialogue, request, asked, question)
    except psycopg.DataError as error:  # the value is none that PostgreSQL can search by, such as a broken pattern
        raise Refusal(UNABLE_TO_PROCESS, "A value cannot be searched by") from error
    dialogue.respond(request, SUCCESS if done else CANCELLED)


def model_of(request: Request, operation: Operation) -> QueryRetrieve:
    """The information model that a request is for.

    Raises
    ------
    Refusal
        Its context is for another SOP class.
    """
    model = QUERY_RETRIEVE.get(request.abstract_syntax)
    if model is None or model.operation is not operation:
        raise Refusal(SOP_CLASS_NOT_SUPPORTED, "The context is for another SOP class")
    return model


def _answer(dialogue: Dialogue, request: Request, asked: Identifier, question: Question) -> bool:
    """Send every match; False where the peer has cancelled."""
    status = PENDING_UNSUPPORTED_KEYS if question.unsupported else PENDING
    level = question.search.level
    needs_body = level is Level.INSTANCE and answers.needs_body(question.returned)
    ae_title = dialogue.settings.ae_title
    sql = search_sql.statement(question.search, dialogue.caller.projects)
    with dialogue.caller.database.transaction() as connection, connection.cursor(name="matches") as cursor:
        cursor.execute(sql.page, sql.parameters)
        while rows := cursor.fetchmany(BATCH):
            if dialogue.cancelled(request):
                return False
            for row in rows:
                if needs_body and row["body"] is None:
                    row["body"] = _body(dialogue, row)
                document = answers.document(level, row, question.returned, ae_title)
                encoded = answers.encode(document, request.transfer_syntax, asked.character_set)
                dialogue.respond(request, status, data_set=encoded)
            dialogue.flush()
        return not dialogue.cancelled(request)


def _body(dialogue: Dialogue, row: Row) -> dict[str, object]:
    """The metadata of an instance to which the dispatcher has not come yet; empty where its blob cannot be read."""
    try:
        return metadata.instance_metadata(dialogue.archive.blobs, row)
    except InsituError:
        return {}


def _audit(dialogue: Dialogue, model: QueryRetrieve, asked: Identifier) -> None:
    """Note the query before the first answer leaves."""
    studies = asked.values(Level.STUDY)
    with dialogue.caller.database.transaction() as connection:
        trail.record(
            connection,
            dialogue.caller.principal.name,
            "find",
            asked.level.value,
            studies[0] if len(studies) == 1 else "",
            detail={"model": model.root.value, "keys": [key.tag for key in asked.keys.values() if not key.universal]},
        )
