"""The step fetch: gets the input series from the run gateway, checks them, gives them to the algorithm as files.

    source/manifest.json, source/INPUT/0000.dcm ...   for publish; the algorithm does not see them
    input/INPUT/image.nii.gz, image.json              for the algorithm
    parameters.json                                   for the algorithm

Not here: reading DICOM as a volume (insitu.dicom.geometry).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from insitu.errors import InsituError
from insitu.runs.outcomes import Failure

from .gateway import Gateway
from .report import StepFailed, carry_out, work_folder

CONNECTIONS = 3  # objects are small: the time goes into waiting for answers
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
PREAMBLE = 132
LONG_FORMS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


def dataset_offset(head: bytes) -> int | None:
    """Byte at which the data set of a DICOM file starts, after preamble and file meta information (PS3.10 7.1).

    Parameters
    ----------
    head : bytes
        Beginning of the file.

    Returns
    -------
    int or None
        None where `head` ends before that.

    Raises
    ------
    ValueError
        It is not a DICOM file.
    """
    if len(head) < PREAMBLE:
        return None
    if head[128:132] != b"DICM":
        raise ValueError("no DICM prefix")
    position = PREAMBLE
    while True:
        if len(head) < position + 2:
            return None
        if head[position : position + 2] != b"\x02\x00":
            return position
        if len(head) < position + 12:
            return None
        if head[position + 4 : position + 6] in LONG_FORMS:
            position += 12 + int.from_bytes(head[position + 8 : position + 12], "little")
        else:
            position += 8 + int.from_bytes(head[position + 6 : position + 8], "little")


def write_checked(chunks: Iterable[bytes], file: Path, digest: str) -> None:
    """Write an object and compare the SHA-256 of its data set with the archive's.

    Raises
    ------
    ConnectionError
        They differ: what came is not what the archive holds, so it is asked for again.
    """
    hasher = hashlib.sha256()
    head: bytes | None = b""
    with file.open("wb") as stream:
        for chunk in chunks:
            stream.write(chunk)
            if head is None:
                hasher.update(chunk)
                continue
            head += chunk
            offset = dataset_offset(head)
            if offset is not None:
                hasher.update(head[offset:])
                head = None
    if head is not None or hasher.hexdigest() != digest:
        raise ConnectionError("an object came other than the archive holds it")


def fetch() -> None:
    """Do the work of the step, with the work folder and the gateway that the environment names."""
    began = time.monotonic()
    work = work_folder()
    source = work / "source"
    manifest = Gateway.from_environment(Failure.FETCH_FAILED).manifest()
    wanted: SimpleQueue[tuple[str, str, Path]] = SimpleQueue()
    listed: dict[str, list[Path]] = {}
    for item in manifest["inputs"]:
        name = _checked_name(item["name"])
        (source / name).mkdir(parents=True, exist_ok=True)
        listed[name] = []
        for number, instance in enumerate(item["instances"]):
            path = source / name / f"{number:05d}.dcm"
            listed[name].append(path)
            wanted.put((instance["sop_instance_uid"], instance["digest"], path))
    count = wanted.qsize()
    (source / "manifest.json").write_text(json.dumps(manifest))
    parameters = Path(os.environ.get("INSITU_PARAMETERS", work / "parameters.json"))
    parameters.write_text(json.dumps(manifest["parameters"]))
    if "INSITU_CLOSED" in os.environ:
        close(Path(os.environ["INSITU_CLOSED"]))
    loading = threading.Thread(target=_import_readers)
    loading.start()
    _get_all(wanted)
    print(f"fetched {count} objects in {time.monotonic() - began:.2f} s", flush=True)
    loading.join()
    convert(work, listed)
    print(f"ready for the algorithm after {time.monotonic() - began:.2f} s", flush=True)


def close(file: Path) -> None:
    """Make an empty file in a folder that only root may enter, for a mount that the algorithm must not get at."""
    file.parent.mkdir()
    file.touch()
    file.parent.chmod(0)


def convert(work: Path, listed: dict[str, list[Path]]) -> None:
    """Write every input as NIfTI with its sidecar.

    Raises
    ------
    StepFailed
        A series is empty or cannot be read as one volume.
    """
    from insitu.dicom.geometry import series_to_nifti

    for name, paths in listed.items():
        if not paths:
            raise StepFailed(Failure.INPUT_UNUSABLE, f"The input {name} has no images")
        folder = work / "input" / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            sidecar = series_to_nifti(paths, folder / "image.nii.gz")
        except InsituError as error:
            raise StepFailed(Failure.INPUT_UNUSABLE, str(error)) from error
        (folder / "image.json").write_text(json.dumps(sidecar))


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise StepFailed(Failure.FETCH_FAILED, f"The platform named an input {name!r}, which is no name of an input")
    return name


def _import_readers() -> None:
    import insitu.dicom.geometry  # noqa: F401  # takes longer than the network does


def _get_all(wanted: SimpleQueue[tuple[str, str, Path]]) -> None:
    failures: SimpleQueue[BaseException] = SimpleQueue()

    def work() -> None:
        gateway = Gateway.from_environment(Failure.FETCH_FAILED)
        try:
            while failures.empty():
                try:
                    uid, digest, path = wanted.get_nowait()
                except Empty:
                    return
                gateway.instance(uid, lambda chunks, path=path, digest=digest: write_checked(chunks, path, digest))  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001  # raised again in the main thread
            failures.put(error)
        finally:
            gateway.close()

    threads = [threading.Thread(target=work) for _ in range(min(CONNECTIONS, max(1, wanted.qsize())))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not failures.empty():
        raise failures.get()


def source_paths(work: Path, name: str) -> Iterator[Path]:
    """The objects of an input, in the order of the manifest."""
    yield from sorted((work / "source" / name).glob("*.dcm"))


if __name__ == "__main__":
    sys.exit(carry_out("fetch", fetch))
