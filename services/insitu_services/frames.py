"""Single frames of an object, by offset from its blob: as they are stored, or decoded to explicit VR little endian.

The object is never held whole (except deflated ones, which have no offsets).
Not here: routes and media types (api.dicomweb.wado), windows and colours for the eye (api.dicomweb.rendered).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, BinaryIO, cast

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, parse_basic_offsets, parse_fragments
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from insitu.archive.blobs import BlobStore
from insitu.archive.header import syntax_of
from insitu.database import Row
from insitu.dicom import decoders
from insitu.dicom.syntaxes import EXPLICIT_LITTLE
from insitu.errors import InsituError, NotFound

PIXEL_DATA = 0x7FE00010
_PIXELS = frozenset({PIXEL_DATA, 0x7FE00008, 0x7FE00009})  # integer, float, double
_LONG_LENGTH = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN", b"UC", b"UR", b"UT", b"SQ", b"SV", b"UV"}
_EXTENDED_OFFSETS, _EXTENDED_LENGTHS = 0x7FE00001, 0x7FE00002
_DESCRIPTION = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
_DESCRIPTION_TAGS = [0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101,
                     0x00280102, 0x00280103, _EXTENDED_OFFSETS, _EXTENDED_LENGTHS]  # fmt: skip


class Undecodable(InsituError):
    """The pixel data cannot be decoded: an unknown compression, or damaged data."""

    status = 406
    slug = "undecodable"


@dataclass(frozen=True)
class Layout:
    """Where the frames of an object are.

    Attributes
    ----------
    frames : int
        Number of frames.
    description : Dataset
        The attributes that describe a pixel.
    start : int
        Byte of the first frame, for native pixel data.
    fragments : tuple of tuple of (offset, length)
        Per frame, for encapsulated pixel data; empty otherwise.
    word : int
        Bytes of a word, where words of native data are big endian; 1 otherwise.
    """

    blob_key: str
    transfer_syntax: str
    dataset_offset: int
    frames: int
    description: Dataset
    start: int
    length: int
    fragments: tuple[tuple[tuple[int, int], ...], ...]
    word: int

    @property
    def encapsulated(self) -> bool:
        """Whether frames are compressed."""
        return bool(self.fragments)

    @property
    def frame_bits(self) -> int:
        """Bits of one native frame."""
        d = self.description
        samples = 2 if d.get("PhotometricInterpretation") == "YBR_FULL_422" else int(d.get("SamplesPerPixel", 1))
        return int(d.Rows) * int(d.Columns) * samples * int(d.BitsAllocated)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of one compressed frame once it is decoded."""
        d = self.description
        pixels = int(d.Rows) * int(d.Columns) * int(d.get("SamplesPerPixel", 1))
        return pixels * max(1, int(d.get("BitsAllocated", 16)) // 8)


@contextmanager
def source(blobs: BlobStore, key: str, transfer_syntax: str, dataset_offset: int) -> Iterator[BinaryIO]:
    """The object as a seekable file; a deflated one inflated, its data set at the same offset."""
    with blobs.open(key) as stream:
        if not syntax_of(transfer_syntax).deflated:
            yield stream
            return
        stream.seek(dataset_offset)
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read())
        yield io.BytesIO(b"\0" * dataset_offset + inflated)


def header(stream: BinaryIO, transfer_syntax: str, dataset_offset: int, tags: list[Any] | None = None) -> Dataset:
    """The data set up to its pixel data, where `stream` then stands."""
    stream.seek(dataset_offset)
    syntax = syntax_of(transfer_syntax)
    return read_dataset(
        stream,
        not syntax.explicit,
        syntax.little,
        stop_when=lambda tag, vr, length: tag in _PIXELS,
        specific_tags=tags,
    )


def layout(blobs: BlobStore, row: Row) -> Layout:
    """The layout of an instance; kept for the instances asked for last, since blobs never change.

    Raises
    ------
    NotFound
        The instance has no pixel data.
    """
    return _layout(cast(Hashable, blobs), row["blob_key"], row["transfer_syntax_uid"], row["dataset_offset"])


@lru_cache(maxsize=512)
def _layout(blobs: Any, key: str, transfer_syntax: str, dataset_offset: int) -> Layout:
    with source(blobs, key, transfer_syntax, dataset_offset) as stream:
        dataset = header(stream, transfer_syntax, dataset_offset, _DESCRIPTION_TAGS)
        tag, vr, length = _element(stream, transfer_syntax)
        if tag not in _PIXELS or "Rows" not in dataset or "Columns" not in dataset:
            raise NotFound("This instance has no frames", why="There is no pixel data in it")
        description = Dataset()
        for keyword in _DESCRIPTION:
            if keyword in dataset:
                setattr(description, keyword, dataset[keyword].value)
        try:
            frames = int(dataset.get("NumberOfFrames") or 1)
        except (TypeError, ValueError):
            frames = 1
        start = stream.tell()
        fragments: tuple[tuple[tuple[int, int], ...], ...] = ()
        if length == 0xFFFFFFFF:
            extended = (dataset.get_item(_EXTENDED_OFFSETS), dataset.get_item(_EXTENDED_LENGTHS))
            tables = [element.value for element in extended if element is not None and element.value]
            fragments = _fragments(stream, frames, tables)
            frames = len(fragments)
        word = 1
        if not syntax_of(transfer_syntax).little:
            word = max(2 if vr == b"OW" else 1, int(description.get("BitsAllocated", 8)) // 8)
    return Layout(key, transfer_syntax, dataset_offset, frames, description, start, length, fragments, word)


def _element(stream: BinaryIO, transfer_syntax: str) -> tuple[int, bytes, int]:
    """Tag, VR and length of the element at which `stream` stands; afterwards it stands at the value."""
    syntax = syntax_of(transfer_syntax)
    order = "<" if syntax.little else ">"
    head = stream.read(8)
    if len(head) < 8:
        return 0, b"", 0
    group, number = struct.unpack(f"{order}HH", head[:4])
    if not syntax.explicit:
        return group << 16 | number, b"OW", struct.unpack("<I", head[4:])[0]
    vr = head[4:6]
    if vr in _LONG_LENGTH:
        return group << 16 | number, vr, struct.unpack(f"{order}I", stream.read(4))[0]
    return group << 16 | number, vr, struct.unpack(f"{order}H", head[6:])[0]


def _fragments(stream: BinaryIO, frames: int, extended: list[bytes]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Offset and length of the fragments of each frame (PS3.5 A.4); only item headers are read.

    The extended offset table is used where there is one, then the basic one; without either, a frame has one fragment,
    or all of them, or ends with the fragment that holds the end-of-image marker.
    """
    basic = parse_basic_offsets(stream)
    first = stream.tell()
    if len(extended) == 2:
        offsets = struct.unpack(f"<{len(extended[0]) // 8}Q", extended[0])
        lengths = struct.unpack(f"<{len(extended[1]) // 8}Q", extended[1])
        return tuple(((first + offset + 8, size),) for offset, size in zip(offsets, lengths, strict=False))
    _, positions = parse_fragments(stream)
    pieces = []
    for position in positions:
        stream.seek(position + 4)
        pieces.append((position + 8, struct.unpack("<I", stream.read(4))[0]))
    if not pieces:
        raise NotFound("This instance has no frames", why="Its pixel data is empty")
    if basic and len(basic) == frames:
        starts = [first + offset + 8 for offset in basic] + [1 << 63]
        return tuple(tuple(piece for piece in pieces if low <= piece[0] < high) for low, high in pairwise(starts))
    if frames == 1:
        return (tuple(pieces),)
    if len(pieces) == frames:
        return tuple((piece,) for piece in pieces)
    grouped: list[tuple[tuple[int, int], ...]] = []
    current: list[tuple[int, int]] = []
    for offset, size in pieces:
        current.append((offset, size))
        stream.seek(offset + max(0, size - 10))
        if b"\xff\xd9" in stream.read(min(10, size)):
            grouped.append(tuple(current))
            current = []
    if current:
        grouped.append(tuple(current))
    return tuple(grouped)


def check_numbers(where: Layout, numbers: list[int]) -> None:
    """Return if all frames exist.

    Raises
    ------
    NotFound
        Names the first one that does not.
    """
    for number in numbers:
        if not 1 <= number <= where.frames:
            raise NotFound(
                "This instance has no such frame", value=str(number), why=f"Its frames are 1 to {where.frames}"
            )


def stored(blobs: BlobStore, where: Layout, numbers: list[int]) -> Iterator[bytes]:
    """Frames one by one: compressed ones as stored, native ones in little endian.

    Parameters
    ----------
    blobs : BlobStore
    where : Layout
    numbers : list of int
        From 1; checked before.
    """
    with source(blobs, where.blob_key, where.transfer_syntax, where.dataset_offset) as stream:
        for number in numbers:
            if where.encapsulated:
                yield b"".join(_read(stream, offset, length) for offset, length in where.fragments[number - 1])
            else:
                yield _native(stream, where, number - 1)


def _read(stream: BinaryIO, offset: int, length: int) -> bytes:
    stream.seek(offset)
    data = stream.read(length)
    if len(data) != length:
        raise Undecodable("The object ends within this frame")
    return data


def _native(stream: BinaryIO, where: Layout, index: int) -> bytes:
    bits = where.frame_bits
    begin, end = index * bits, (index + 1) * bits
    if (end + 7) // 8 > where.length:
        raise Undecodable("The pixel data is shorter than its frames", value=str(index + 1))
    if begin % 8 or bits % 8:  # one bit per pixel, and frames do not begin with bytes
        first = begin // 8
        data = np.frombuffer(_read(stream, where.start + first, (end + 7) // 8 - first), np.uint8)
        pixels = np.unpackbits(data, bitorder="little")[begin - first * 8 :][:bits]
        return np.packbits(pixels, bitorder="little").tobytes()
    if where.word == 1:
        return _read(stream, where.start + begin // 8, bits // 8)
    first = begin // 8 // where.word * where.word
    last = -(-end // 8 // where.word) * where.word
    data = np.frombuffer(_read(stream, where.start + first, last - first), f">u{where.word}")
    return data.astype(f"<u{where.word}").tobytes()[begin // 8 - first :][: bits // 8]


def decodable(where: Layout) -> bool:
    """Whether a decoder for the transfer syntax is installed."""
    return not where.encapsulated or decoders.decodable(where.transfer_syntax)


def decode(where: Layout, frame: bytes, *, raw: bool = False) -> np.ndarray[Any, Any]:
    """Pixels of one frame that `stored` gave.

    Parameters
    ----------
    where : Layout
    frame : bytes
    raw : bool
        Leave colours in the object's colour space; by default YBR becomes RGB.

    Returns
    -------
    ndarray
        Shape (rows, columns) or (rows, columns, samples).

    Raises
    ------
    Undecodable
        No decoder takes it.
    """
    dataset = Dataset()
    dataset.update(where.description)
    dataset.NumberOfFrames = 1
    dataset.file_meta = FileMetaDataset()
    syntax = UID(where.transfer_syntax if where.encapsulated else EXPLICIT_LITTLE)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame]) if where.encapsulated else frame + b"\0" * (len(frame) % 2)
    dataset["PixelData"].VR = "OB" if where.encapsulated or int(dataset.BitsAllocated) <= 8 else "OW"
    try:
        array, _ = get_decoder(syntax).as_array(dataset, index=0, raw=raw)
    except Exception as error:  # decoders raise what they like
        raise Undecodable(
            "This frame cannot be decoded",
            why="; ".join(line.strip() for line in str(error).splitlines())[:500],
            remedy="Ask for it as it is stored: transfer-syntax=*",
        ) from error
    pixels: np.ndarray[Any, Any] = array
    return pixels


def uncompressed(blobs: BlobStore, where: Layout, numbers: list[int]) -> Iterator[bytes]:
    """Frames one by one in explicit VR little endian, compressed ones decoded; colours become RGB, by pixel."""
    for frame in stored(blobs, where, numbers):
        if not where.encapsulated:
            yield frame
            continue
        array = decode(where, frame)
        yield array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
