"""Fetching objects from another node into the archive: by C-GET on our own association, C-MOVE to our receiver, or WADO-RS.

Not here: which objects are wanted (finding), the queue (insitu.nodes.retrievals).
"""

from __future__ import annotations

import email.message
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import StoragePresentationContexts, build_context, build_role, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from insitu.archive.receipts import Receipt
from insitu.archive.store import Archive
from insitu.errors import InsituError, Unavailable
from insitu.nodes.registry import Node
from insitu.settings import Settings
from insitu_services.receiver import storage

from . import web
from .connection import MOST_CONTEXTS, connect
from .finding import Content

logger = logging.getLogger("insitu.dispatcher")

PENDING = (0xFF00, 0xFF01)
CHUNK = 1 << 18
MOST_UIDS = 100  # in one identifier
NATIVE = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
# Compressed syntaxes that are asked for one by one, so that an object comes as it lies there.
COMPRESSED = (
    "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.5",
)  # fmt: skip

Going = Callable[[], bool]  # asked between objects: go on?
Refused = dict[str, str]  # what the archive did not take, with the reason


def _identifiers(study: str, series: str | None, missing: Mapping[str, Content] | None) -> Iterator[Dataset]:
    """What to ask for: all of it, or the missing objects series by series."""
    if missing is None:
        made = Dataset()
        made.QueryRetrieveLevel = "SERIES" if series else "STUDY"
        made.StudyInstanceUID = study
        if series:
            made.SeriesInstanceUID = series
        yield made
        return
    by_series: dict[str, list[str]] = {}
    for uid, content in missing.items():
        by_series.setdefault(content.series, []).append(uid)
    for each, uids in by_series.items():
        for begin in range(0, len(uids), MOST_UIDS):
            made = Dataset()
            made.QueryRetrieveLevel = "IMAGE"
            made.StudyInstanceUID, made.SeriesInstanceUID = study, each
            made.SOPInstanceUID = uids[begin : begin + MOST_UIDS]
            yield made


def _storage_contexts(classes: Collection[str]) -> list[Any]:
    """Contexts by which a C-GET can bring these SOP classes, or where none is known the usual ones. Pure."""
    room = MOST_CONTEXTS - 1
    if not classes:
        return [build_context(each.abstract_syntax, list(NATIVE)) for each in StoragePresentationContexts[:room]]
    made = [build_context(uid, list(NATIVE)) for uid in classes][:room]
    made += [build_context(uid, syntax) for syntax in COMPRESSED for uid in classes]
    return made[:room]


def by_get(
    node: Node,
    settings: Settings,
    archive: Archive,
    receipt: Receipt,
    study: str,
    series: str | None,
    missing: Mapping[str, Content] | None,
    classes: Collection[str],
    going: Going,
) -> Refused:
    """Fetch by C-GET (PS3.4 C.4.3); objects that the archive did not take.

    Raises
    ------
    Unavailable
        The node does not answer, or could not send everything.
    """
    refused: Refused = {}
    model = StudyRootQueryRetrieveInformationModelGet

    def store(event: Any) -> int:
        status, reason = _take(archive, receipt, event)
        if status != storage.SUCCESS:
            refused[str(event.request.AffectedSOPInstanceUID)] = reason or f"0x{status:04X}"
        return status

    wanted = _storage_contexts(classes)
    roles = [build_role(uid, scp_role=True) for uid in dict.fromkeys(str(each.abstract_syntax) for each in wanted)]
    contexts = [build_context(model), *wanted]
    with connect(node, settings, contexts, roles=roles, handlers=[(evt.EVT_C_STORE, store)]) as association:
        for number, identifier in enumerate(_identifiers(study, series, missing), start=1):
            answers = association.send_c_get(identifier, model, msg_id=number)
            _follow(node, association, answers, model, number, going, refused)
    return refused


def by_move(
    node: Node,
    settings: Settings,
    study: str,
    series: str | None,
    missing: Mapping[str, Content] | None,
    going: Going,
) -> None:
    """Have a node send to our receiver by C-MOVE (PS3.4 C.4.2).

    Raises
    ------
    Unavailable
        The node does not answer, does not know our AE title, or could not send everything.
    """
    model = StudyRootQueryRetrieveInformationModelMove
    with connect(node, settings, [build_context(model)]) as association:
        for number, identifier in enumerate(_identifiers(study, series, missing), start=1):
            answers = association.send_c_move(identifier, settings.ae_title, model, msg_id=number)
            _follow(node, association, answers, model, number, going, {})


def _follow(
    node: Node, association: Any, answers: Any, model: Any, number: int, going: Going, refused: Refused
) -> None:
    """Read the answers to a C-GET or C-MOVE until the last."""
    cancelled = False
    for status, _ in answers:
        code = status.get("Status")
        if code in PENDING:
            if not cancelled and not going():
                association.send_c_cancel(number, query_model=model)
                cancelled = True
        elif code is None:
            raise Unavailable(
                "The node broke off a retrieval, or gave no answer in time",
                value=node.address,
                remedy="Look at its log",
            )
        elif code == 0xA801:
            raise Unavailable(
                "The node does not know where to send", value=node.address, why="it does not know our AE title (0xA801)",
                remedy="Enter our AE title, this machine's address and the DICOM port there, or fetch by C-GET",
            )  # fmt: skip
        elif code not in (0x0000, 0xFE00):
            failed = status.get("NumberOfFailedSuboperations")
            if code == 0xB000 and refused:
                continue  # the archive refused these itself and knows them
            raise Unavailable(
                "The node could not send everything", value=node.address,
                why=f"it answered 0x{code:04X}" + (f", {failed} objects failed" if failed else ""),
                remedy="Look at its log",
            )  # fmt: skip


def _take(archive: Archive, receipt: Receipt, event: Any) -> tuple[int, str | None]:
    """Put an object that came by C-GET into the archive; C-STORE status and why."""
    request = event.request
    file = request._dataset_file
    try:
        file.close()
        _, offset = split_dataset(event.dataset_path)
        said = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        with archive.begin(
            receipt,
            transfer_syntax_uid=str(event.context.transfer_syntax),
            sop_class_uid=said[0],
            sop_instance_uid=said[1],
        ) as incoming:
            with open(event.dataset_path, "rb") as stream:
                stream.seek(offset)
                while chunk := stream.read(CHUNK):
                    incoming.write(chunk)
            return storage.status_of(incoming.commit(), said)
    except InsituError as error:
        logger.error("an object that was fetched could not be stored: %s", error)
        return storage.OUT_OF_RESOURCES, None
    finally:
        with suppress(OSError):
            os.unlink(file.name)


def by_web(
    node: Node,
    settings: Settings,
    archive: Archive,
    receipt: Receipt,
    study: str,
    series: str | None,
    missing: Mapping[str, Content] | None,
    going: Going,
) -> Refused:
    """Fetch by WADO-RS (PS3.18 10.4), streamed; objects that the archive did not take.

    Raises
    ------
    Unavailable
        The service does not answer, refuses, or its answer breaks off.
    """
    base = f"/studies/{study}" + (f"/series/{series}" if series else "")
    paths = [base]
    if missing is not None:
        paths = [f"/studies/{study}/series/{each.series}/instances/{uid}" for uid, each in missing.items()]
    refused: Refused = {}
    with web.client(node, settings) as session:
        for path in paths:
            if not going():
                break
            refused |= _one_answer(node, session, archive, receipt, path, study, going)
    return refused


def _one_answer(
    node: Node, session: Any, archive: Archive, receipt: Receipt, path: str, study: str, going: Going
) -> Refused:
    from insitu_services.api.dicomweb.session import Session  # loads libraries for images, which only this way needs

    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    with web.explained(node), session.stream("GET", path, headers={"Accept": accept}) as response:
        if response.status_code >= 400:
            response.read()
            web.check(node, response)
        boundary = _boundary(response.headers.get("content-type", ""))
        if boundary is None:
            raise Unavailable(
                "The node's DICOMweb service gave an answer that is no multipart",
                value=node.address,
                remedy="Look at its log",
            )
        parts = Session(archive, receipt, boundary, study)
        try:
            for chunk in response.iter_bytes(CHUNK):
                parts.feed(chunk)
                if not going():
                    return {}
            parts.finish()
        except InsituError as error:
            raise Unavailable(
                "The answer of the node's DICOMweb service cannot be used", value=node.address, why=error.what
            ) from error
        finally:
            parts.abort()
    return {
        item.sop_instance_uid or f"part {number}": f"0x{item.failure:04X}"
        for number, item in enumerate(parts.items, start=1)
        if item.failure is not None
    }


def _boundary(content_type: str) -> str | None:
    message = email.message.Message()
    message["content-type"] = content_type
    found = message.get_param("boundary")
    return found if isinstance(found, str) and message.get_content_maintype() == "multipart" else None
