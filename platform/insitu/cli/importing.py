"""Import of files, folders and zip files over STOW-RS: every object is examined here first, so that a bad file is named.

Not here: the command (archive).
"""

from __future__ import annotations

import os
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from insitu.archive.examine import Examination, Unfit
from insitu.errors import Invalid
from insitu.settings import Settings

from .client import PlatformClient, client

STEP = 1 << 20
OBJECTS_AT_ONCE = 500
BYTES_AT_ONCE = 256 << 20
NO_DICOM = "not a DICOM file"

# Failure Reason (0008,1197), PS3.18 10.5.3.2
REASONS = {
    0x0111: "another object is known under its SOP Instance UID, and this site refuses such objects",
    0xA700: "the archive is out of resources; try again",
    0xA900: "it does not belong to the study it was stored to",
    0xC000: "the archive put it into quarantine; see `insitu quarantine list`",
}


@dataclass(frozen=True)
class Failure:
    """A file that was not archived, and why."""

    name: str
    reason: str


@dataclass
class Report:
    """What became of the files.

    Attributes
    ----------
    stored : int
        Objects that are in the archive now, those included that were there before.
    skipped : int
        Files found in folders and zip files that are no DICOM objects.
    failed : list of Failure
    """

    stored: int = 0
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A file to import: its name, how to open it, whether the user named it himself."""

    name: str
    open: Callable[[], BinaryIO]
    named: bool


@dataclass(frozen=True)
class Item:
    """An object that is fit to be sent."""

    source: Source
    sop_instance_uid: str
    size: int


def sources(paths: list[Path]) -> Iterator[Source]:
    """The files behind `paths`: folders with all below them, zip files with all in them."""
    for path in paths:
        if path.is_dir():
            for folder, folders, files in os.walk(path):
                folders.sort()
                for name in sorted(files):
                    yield from _file(Path(folder, name), named=False)
        else:
            yield from _file(path, named=True)


def import_paths(
    settings: Settings, paths: list[Path], project: str | None, progress: Callable[[int], None] | None = None
) -> Report:
    """Send the DICOM objects behind `paths` to the running platform.

    Raises
    ------
    InsituError
        The platform does not answer or refuses the request as a whole (project, permission).
    """
    report = Report()
    batch: list[Item] = []
    with client(settings) as session:
        session.timeout = httpx.Timeout(60.0, read=None, write=None)
        for source in sources(paths):
            item = _examine(source, report)
            if item is None:
                continue
            batch.append(item)
            if len(batch) >= OBJECTS_AT_ONCE or sum(one.size for one in batch) >= BYTES_AT_ONCE:
                _send(session, batch, project, report)
                batch = []
            if progress is not None:
                progress(report.stored + len(batch))
        if batch:
            _send(session, batch, project, report)
    return report


def _file(path: Path, *, named: bool) -> Iterator[Source]:
    if path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    yield Source(f"{path}/{member.filename}", _member(path, member.filename), named=False)
    else:
        yield Source(str(path), lambda: path.open("rb"), named)


def _member(path: Path, name: str) -> Callable[[], BinaryIO]:
    def open_member() -> BinaryIO:
        # A zip file of its own per member: members are opened one after the other, and each closes what it opened.
        archive = zipfile.ZipFile(path)
        stream: Any = archive.open(name)
        archive.close()  # the file stays open until the member is closed
        return stream  # type: ignore[no-any-return]

    return open_member


def _examine(source: Source, report: Report) -> Item | None:
    """The object if it is fit to be archived; otherwise it is noted in the report."""
    examination = Examination()
    size = 0
    try:
        with source.open() as stream:
            while chunk := stream.read(STEP):
                size += len(chunk)
                examination.feed(chunk)
                if size == len(chunk) and chunk[128:132] != b"DICM":
                    break  # no need to read a large file that is something else
        identity = examination.finish(source.open)
    except Unfit as error:
        if Path(source.name).name == "DICOMDIR" or (NO_DICOM in str(error) and not source.named):
            report.skipped += 1
        else:
            report.failed.append(Failure(source.name, str(error)))
        return None
    except (
        OSError,
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
    ) as error:  # zipfile: encrypted, unknown method
        report.failed.append(Failure(source.name, f"it cannot be read: {error}"))
        return None
    return Item(source, identity.sop_instance_uid, size)


def _body(batch: list[Item], boundary: str) -> Iterator[bytes]:
    for item in batch:
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        with item.source.open() as stream:
            while chunk := stream.read(STEP):
                yield chunk
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _send(session: PlatformClient, batch: list[Item], project: str | None, report: Report) -> None:
    boundary = uuid.uuid4().hex
    request = session.build_request(
        "POST",
        "/dicom-web/studies",
        params={"project": project} if project else None,
        content=_body(batch, boundary),
        headers={
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        },
    )
    answer = session.send(request).json()
    document = answer[0] if isinstance(answer, list) and answer else answer
    if not isinstance(document, dict):
        raise Invalid("The platform's answer to STOW-RS cannot be understood")
    stored = len(document.get("00081199", {}).get("Value", []))
    failures = document.get("00081198", {}).get("Value", [])
    names = {item.sop_instance_uid: item.source.name for item in batch}
    for failure in failures:
        uid = str((failure.get("00081155", {}).get("Value") or [""])[0])
        code = int((failure.get("00081197", {}).get("Value") or [0])[0])
        reason = REASONS.get(code, f"failure reason {code:#06x}")
        report.failed.append(Failure(names.get(uid, uid or "an object"), reason))
    report.stored += stored
