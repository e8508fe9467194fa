"""One object on its way out: its data set as it is stored, or transcoded to an uncompressed transfer syntax.

As stored it is read from its blob in pieces; a transcoded one is written to a file without a name first, frame by frame, so that
neither is ever held whole.
Not here: which syntax is right (WADO-RS, C-GET and C-MOVE, transfers to nodes), single frames (frames).
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO

from insitu.archive.blobs import BlobStore
from insitu.archive.header import syntax_of
from insitu.archive.tolerant import FAILURES
from insitu.database import Row
from insitu.dicom.decoders import decodable
from insitu.errors import InsituError, Invalid

from .receiver.sop_classes import PLAIN_SYNTAXES

CHUNK = 131_072
_PIXELS = {0x7FE00008: b"OF", 0x7FE00009: b"OD", 0x7FE00010: b"OW"}
_OFFSET_TABLES = (0x7FE00001, 0x7FE00002)  # of compressed frames


def can_be_sent_in(stored: str, wanted: str) -> bool:
    """Whether objects stored in one transfer syntax can be sent in another."""
    if stored == wanted:
        return True
    if wanted not in PLAIN_SYNTAXES:
        return False
    return syntax_of(stored).encapsulated is False or decodable(
        stored
    )  # of an unknown one nobody knows what the pixels are


@contextmanager
def opened(blobs: BlobStore, row: Row, transfer_syntax: str) -> Iterator[BinaryIO]:
    """The data set of an object as a file that stands at its first byte.

    Parameters
    ----------
    blobs : BlobStore
    row : dict
        The instance, with `blob_key`, `transfer_syntax_uid` and `dataset_offset`.
    transfer_syntax : str
        The one it is wanted in; see `can_be_sent_in`.

    Raises
    ------
    NotFound
        The blob is missing.
    Invalid
        The object cannot be decoded.
    """
    if transfer_syntax == row["transfer_syntax_uid"]:
        with blobs.open(row["blob_key"]) as stream:
            stream.seek(row["dataset_offset"])
            yield stream
        return
    with tempfile.TemporaryFile(prefix="insitu-") as file:
        try:
            _transcode(blobs, row, transfer_syntax, file)
        except InsituError:
            raise
        except FAILURES as error:
            raise Invalid(
                "An object cannot be sent in another transfer syntax",
                value=row["sop_instance_uid"],
                why=type(error).__name__,
            ) from error
        file.seek(0)
        yield file


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The rest of a file in pieces."""
    while piece := stream.read(CHUNK):
        yield piece


def _transcode(blobs: BlobStore, row: Row, transfer_syntax: str, out: IO[bytes]) -> None:
    from . import frames  # loads numpy, which a process that only receives does not need

    stored, offset = row["transfer_syntax_uid"], row["dataset_offset"]
    explicit = syntax_of(transfer_syntax).explicit
    with frames.source(blobs, row["blob_key"], stored, offset) as stream:
        dataset = frames.header(stream, stored, offset)
        tag = _tag(stream, stored)
        if tag not in _PIXELS or "Rows" not in dataset:
            if tag in _PIXELS:  # pixel data of no image
                dataset = _whole(stream, stored, offset)
            _write(out, dataset, stored, explicit)
            return
        where = frames.layout(blobs, row)
        for table in _OFFSET_TABLES:
            dataset.pop(table, None)
        bits = int(dataset.get("BitsAllocated", 16))
        samples = int(dataset.get("SamplesPerPixel", 1))
        if where.encapsulated:
            if samples > 1:
                dataset.PlanarConfiguration = 0
                dataset.PhotometricInterpretation = "RGB"
            length = where.frames * where.decoded_bytes
        else:
            length = where.length
        _write(out, dataset, stored, explicit)
        vr = b"OB" if bits <= 8 and explicit and tag == 0x7FE00010 else _PIXELS[tag]
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        padded = length + length % 2
        out.write(head + (vr + struct.pack("<HI", 0, padded) if explicit else struct.pack("<I", padded)))
        begin = out.tell()
        if where.encapsulated:
            for frame in frames.uncompressed(blobs, where, list(range(1, where.frames + 1))):
                out.write(frame)
            end = max(start + size for pieces in where.fragments for start, size in pieces) + 8
        else:
            _copy(stream, where.start, where.length, where.word, out)
            end = where.start + where.length
        if out.tell() - begin != length:
            raise Invalid("The pixel data is not as long as its frames are", value=row["sop_instance_uid"])
        out.write(b"\0" * (length % 2))
        stream.seek(end)
        _write(out, _rest(stream, stored), stored, explicit)


def _tag(stream: BinaryIO, stored: str) -> int:
    head = stream.read(4)
    stream.seek(-len(head), os.SEEK_CUR)
    if len(head) < 4:
        return 0
    group, element = struct.unpack("<HH" if syntax_of(stored).little else ">HH", head)
    return int(group) << 16 | int(element)


def _whole(stream: BinaryIO, stored: str, offset: int) -> Any:
    stream.seek(offset)
    return _rest(stream, stored)


def _rest(stream: BinaryIO, stored: str) -> Any:
    from pydicom.filereader import read_dataset

    return read_dataset(stream, not syntax_of(stored).explicit, syntax_of(stored).little)


def _copy(stream: BinaryIO, start: int, length: int, word: int, out: IO[bytes]) -> None:
    """Native pixel data in little endian; `word` bytes are swapped where it is more than one."""
    import numpy as np

    stream.seek(start)
    left = length
    while left:
        piece = stream.read(min(CHUNK, left))
        if not piece:
            return
        left -= len(piece)
        out.write(np.frombuffer(piece, f">u{word}").astype(f"<u{word}").tobytes() if word > 1 else piece)


def _write(out: IO[bytes], dataset: Any, stored: str, explicit: bool) -> None:
    """Write the elements of a data set that was read in the stored syntax in the new one."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    from . import bulkdata

    if not syntax_of(stored).little:
        for element in dataset.iterall():  # values are read in the old byte order before they are written in the new
            if isinstance(element.value, bytes):
                element.value = bulkdata.little_endian(element.value, element.VR)
    for element in list(dataset):
        if element.tag.element == 0:
            del dataset[element.tag]  # group lengths would be wrong
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, not explicit
    write_dataset(buffer, dataset)
    out.write(buffer.getvalue())
