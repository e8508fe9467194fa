"""The run gateway: the one door through which the steps of an execution get their input and deliver results.

A step shows a token that is valid for one execution and one step (fetch or publish). Not here: what the workflow engine asks (engine).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, File, Form, UploadFile
from fastapi.responses import StreamingResponse

from insitu.archive import index
from insitu.database import Connection, Row
from insitu.errors import Conflict, Invalid, NotFound
from insitu.projects.permissions import Action, Principal, Resource, authorize
from insitu.runs import executions, results

from .access import requires
from .context import Context, Ctx

router = APIRouter(prefix="/gateway/v1/executions/{execution}", tags=["run gateway"])

CHUNK = 1 << 20
Fetcher = Annotated[Principal, Depends(requires(Action.GATEWAY_FETCH))]
Publisher = Annotated[Principal, Depends(requires(Action.GATEWAY_PUBLISH))]


def _execution(connection: Connection, principal: Principal, action: Action, execution: str) -> Row:
    """The execution, if this step token is for it and it is still going on."""
    authorize(principal, action, Resource(kind="run", id=execution, execution=execution))
    row = executions.get(connection, execution)
    if row["state"] not in executions.ACTIVE:
        raise Conflict("This execution has ended", value=execution, why=f"its state is {row['state']}")
    return row


@router.get("/manifest")
def manifest(execution: str, principal: Fetcher, context: Ctx) -> dict[str, Any]:
    """What the fetch and publish steps need to know: algorithm, parameters, inputs with their instances and digests."""
    with context.database.transaction() as connection:
        row = _execution(connection, principal, Action.GATEWAY_FETCH, execution)
        inputs = []
        for item in row["inputs"]:
            series = index.find_series(connection, item["series_instance_uid"], None)
            if series is None:
                raise NotFound("An input series is not in the archive any more", value=item["series_instance_uid"])
            digest = index.content_digest(connection, series["id"]).hex()
            if digest != item["content_digest"]:
                raise Conflict(
                    "An input series has changed since the run was requested",
                    value=item["series_instance_uid"],
                    why="objects were added or removed",
                    remedy="The new revision can be run on its own",
                )
            instances = [
                {"sop_instance_uid": i["sop_instance_uid"], "size": i["size"], "digest": bytes(i["digest"]).hex()}
                for i in index.series_instances(connection, series["id"])
            ]
            inputs.append(
                {"name": item["name"], "series_instance_uid": item["series_instance_uid"], "instances": instances}
            )
    return {
        "version": 1,
        "execution": execution,
        "number": row["number"],
        "requested_at": row["requested_at"].isoformat(),
        "project": row["project"],
        "algorithm": {
            "name": row["algorithm"],
            "version": row["algorithm_version"],
            "digest": row["algorithm_digest"],
            "manifest": row["manifest"],
        },
        "parameters": row["parameters"],
        "inputs": inputs,
    }


@router.get("/instances/{sop_instance_uid}", response_class=StreamingResponse)
def instance(execution: str, sop_instance_uid: str, principal: Fetcher, context: Ctx) -> StreamingResponse:
    """One input object as a DICOM file, byte for byte; only those of the execution's own input series."""
    with context.database.transaction() as connection:
        row = _execution(connection, principal, Action.GATEWAY_FETCH, execution)
        series = [item["series_instance_uid"] for item in row["inputs"]]
        found = connection.execute(
            "SELECT i.blob_key, i.size FROM instance i JOIN series s ON s.id = i.series"
            " WHERE i.sop_instance_uid = %s AND s.series_instance_uid = ANY(%s)",
            (sop_instance_uid, series),
        ).fetchone()
    if found is None:
        raise NotFound("This execution has no such input", value=sop_instance_uid)

    def chunks() -> Iterator[bytes]:
        with context.archive.blobs.open(found["blob_key"]) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk

    return StreamingResponse(chunks(), media_type="application/dicom", headers={"Content-Length": str(found["size"])})


@router.post("/stage")
def stage(
    execution: str, principal: Publisher, context: Ctx, stage: Annotated[str, Body(embed=True)]
) -> dict[str, Any]:
    """Note that the publish step has reached a stage."""
    with context.database.transaction() as connection:
        _execution(connection, principal, Action.GATEWAY_PUBLISH, execution)
        executions.record(connection, execution, stage[:40])
        return {"cancel_asked": executions.heartbeat(connection, execution)}


@router.post("/results")
def store_results(
    execution: str,
    principal: Publisher,
    context: Ctx,
    file: Annotated[list[UploadFile], File(description="DICOM files (PS3.10)")],
    summary: Annotated[str, Form(description="JSON: segments and measurements, without patient data")] = "{}",
) -> dict[str, Any]:
    """Take all results of the execution into the archive, in one transaction or none; a repeat is a no-op."""
    try:
        content = json.loads(summary)
    except ValueError as error:
        raise Invalid("The summary is not JSON", why=str(error)) from error
    with context.database.transaction() as connection:
        row = _execution(connection, principal, Action.GATEWAY_PUBLISH, execution)
    folder = Path(tempfile.mkdtemp(prefix="results-", dir=_incoming(context)))
    try:
        paths = []
        for number, upload in enumerate(file):
            path = folder / f"{number:04d}.dcm"
            with path.open("wb") as target:
                shutil.copyfileobj(upload.file, target, CHUNK)
            paths.append(path)
        stored = results.store(context.archive, row, paths, content)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"stored": [{"sop_instance_uid": s.sop_instance_uid, "outcome": s.outcome.value} for s in stored]}


def _incoming(context: Context) -> Path:
    folder = context.settings.home / "incoming"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
