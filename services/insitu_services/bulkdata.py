"""The value of one attribute as bytes, by the path that BulkDataURI names: tags, and numbers of sequence items between them.

Not here: pixels by frame (frames).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from insitu.archive.blobs import BlobStore
from insitu.archive.header import syntax_of
from insitu.database import Row
from insitu.errors import NotFound

from . import frames

_ENCAPSULATED_DOCUMENT = 0x00420011
_WORDS = {"OW": 2, "US": 2, "SS": 2, "AT": 2, "OF": 4, "FL": 4, "OL": 4, "UL": 4, "SL": 4, "OD": 8, "FD": 8,
          "OV": 8, "SV": 8, "UV": 8}  # fmt: skip
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9.+-]+")


@dataclass(frozen=True)
class Value:
    """Bytes in little endian and what they are: `pieces(begin, end)` reads those from `begin` to before `end`."""

    length: int
    media_type: str
    pieces: Callable[[int, int], Iterator[bytes]]

    @property
    def chunks(self) -> Iterator[bytes]:
        """All of it."""
        return self.pieces(0, self.length)


def value(blobs: BlobStore, row: Row, path: str) -> Value:
    """The value of an attribute.

    Parameters
    ----------
    blobs : BlobStore
    row : dict
        The instance.
    path : str
        For example `00420011` or `54000100/0/54001010`; items count from 0.

    Raises
    ------
    NotFound
        The instance has no such value.
    """
    missing = NotFound("This instance has no such value", value=path[:100], remedy="Use a BulkDataURI of its metadata")
    parts = path.split("/")
    if len(parts) % 2 == 0 or not all(re.fullmatch(r"[0-9A-Fa-f]{8}", tag) for tag in parts[::2]):
        raise missing
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts[1::2]):
        raise missing
    if path.upper() == f"{frames.PIXEL_DATA:08X}":
        where = frames.layout(blobs, row)
        return _pixels(blobs, where)
    syntax, offset = row["transfer_syntax_uid"], row["dataset_offset"]
    with frames.source(blobs, row["blob_key"], syntax, offset) as stream:
        dataset = frames.header(stream, syntax, offset)
    return _find(dataset, parts, syntax_of(syntax).little, missing)


def little_endian(data: bytes, vr: str, bits: int = 0) -> bytes:
    """A big endian value in little endian.

    Parameters
    ----------
    data : bytes
    vr : str
        Value representation, which says how long a word is.
    bits : int
        Bits of a pixel, where they are more than those of a word.
    """
    word = _WORDS.get(vr, 1)
    if word > 1:
        word = max(word, bits // 8)
    if word == 1 or len(data) % word:
        return data
    return np.frombuffer(data, f">u{word}").astype(f"<u{word}").tobytes()


def _find(dataset: Dataset, parts: list[str], little: bool, missing: NotFound) -> Value:
    for tag, number in zip(parts[::2], parts[1::2], strict=False):
        element = dataset.get(int(tag, 16))
        if element is None or element.VR != "SQ" or int(number) >= len(element.value):
            raise missing
        dataset = element.value[int(number)]
    tag_number = int(parts[-1], 16)
    raw = dataset.get_item(tag_number)
    if raw is None or not isinstance(raw.value, bytes):
        raise missing
    data = raw.value if little else little_endian(raw.value, raw.VR or "")
    media_type = "application/octet-stream"
    if tag_number == _ENCAPSULATED_DOCUMENT:
        named = str(dataset.get("MIMETypeOfEncapsulatedDocument", "")).strip().lower()
        media_type = named if _MEDIA_TYPE.fullmatch(named) else media_type
    return Value(len(data), media_type, lambda begin, end: iter((data[begin:end],)))


def _pixels(blobs: BlobStore, where: frames.Layout) -> Value:
    """Pixel data frame by frame, so that none of it is held; compressed frames one behind the other."""
    sizes = [
        sum(length for _, length in where.fragments[number]) if where.encapsulated else (where.frame_bits + 7) // 8
        for number in range(where.frames)
    ]

    def pieces(begin: int, end: int) -> Iterator[bytes]:
        position, wanted = 0, []
        for number, size in enumerate(sizes, 1):
            if position < end and position + size > begin:
                wanted.append((number, position))
            position += size
        content = frames.stored(blobs, where, [number for number, _ in wanted])
        for (_, start), frame in zip(wanted, content, strict=True):
            yield frame[max(0, begin - start) : end - start]

    return Value(sum(sizes), "application/octet-stream", pieces)
