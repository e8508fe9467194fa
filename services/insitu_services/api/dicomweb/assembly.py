"""Objects stored as metadata and bulk data apart (PS3.18 10.5.1.4): put together again once every part of a request is here.

Metadata comes as one JSON array or as XML documents, bulk data in parts whose Content-Location is the BulkDataURI. No address
is ever fetched: what is not in the request is missing. Bulk data lies in one file without a name and goes from there to the disk
piece by piece. Not here: the parts of the request and what its answer says (stow).
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urljoin

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate_buffer
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset
from pydicom.valuerep import BUFFERABLE_VRS

from insitu.archive.header import syntax_of
from insitu.archive.tolerant import FAILURES
from insitu.dicom.syntaxes import EXPLICIT_LITTLE
from insitu.errors import Invalid

from . import native
from .negotiation import JSON_TYPES, XML_TYPE, BadRequest, parse_media_type

logger = logging.getLogger(__name__)

METADATA_LIMIT = 16 << 20  # bytes of all metadata of a request, which is held in memory
SMALL_LIMIT = 16 << 20  # bytes of a value that cannot be written piece by piece
PIXEL_DATA = "7FE00010"

# Transfer syntax of a part whose Content-Type names none (PS3.18 table 8.7.3-5).
_DEFAULTS = {
    "image/jpeg": "1.2.840.10008.1.2.4.70",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jpx": "1.2.840.10008.1.2.4.92",
}
_NUMBERS = {"FD": "<f8", "FL": "<f4", "SL": "<i4", "SS": "<i2", "SV": "<i8", "UL": "<u4", "US": "<u2", "UV": "<u8"}


@dataclass(frozen=True)
class Piece:
    """One part of bulk data: where it lies in the file, and what it is."""

    offset: int
    length: int
    transfer_syntax: str


@dataclass
class Built:
    """An object ready to be written, with what it says it is; `failure` where it could not be put together."""

    sop_class_uid: str | None
    sop_instance_uid: str | None
    transfer_syntax: str = EXPLICIT_LITTLE
    dataset: Dataset | None = None
    why: str | None = None


@dataclass
class Assembly:
    """The parts of one request.

    Parameters
    ----------
    kind : str
        Media type of its metadata.
    folder : Path
        Where the bulk data waits.
    base : str
        Address of the request, to which relative ones are relative.
    """

    kind: str
    folder: Path
    base: str
    _metadata: list[bytearray] = field(default_factory=list)
    _held: int = 0
    _pieces: dict[str, list[Piece]] = field(default_factory=dict)
    _file: IO[bytes] | None = None
    _into: bytearray | None = None
    _location: str = ""
    _syntax: str = EXPLICIT_LITTLE
    _begin: int = 0

    def begin(self, headers: dict[str, str]) -> None:
        """Begin a part.

        Raises
        ------
        BadRequest
            It is neither metadata of this request's kind nor bulk data with an address.
        OSError
            The disk does not take a file.
        """
        media = parse_media_type(headers.get("content-type") or self.kind)
        self._into = None
        if media.name == self.kind or (self.kind in JSON_TYPES and media.name in JSON_TYPES):
            self._into = bytearray()
            self._metadata.append(self._into)
            return
        location = headers.get("content-location")
        if not location:
            raise BadRequest("A part is neither metadata nor bulk data with a Content-Location", value=media.name)
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - `close` does
        self._location = urljoin(self.base, location)
        self._syntax = media.parameter("transfer-syntax") or _DEFAULTS.get(media.name, EXPLICIT_LITTLE)
        self._begin = self._file.tell()

    def write(self, data: memoryview) -> None:
        """Take bytes of the part that began last.

        Raises
        ------
        BadRequest
            The metadata is too large.
        OSError
            The disk does not take it.
        """
        if self._into is None:
            if self._file is not None:
                self._file.write(data)
            return
        self._held += len(data)
        if self._held > METADATA_LIMIT:
            raise BadRequest(
                "The metadata of this request is too large", why=f"at most {METADATA_LIMIT >> 20} MB are taken"
            )
        self._into += data

    def end(self) -> None:
        """End the part."""
        if self._into is None and self._file is not None:
            piece = Piece(self._begin, self._file.tell() - self._begin, self._syntax)
            self._pieces.setdefault(self._location, []).append(piece)

    def close(self) -> None:
        """Forget the bulk data."""
        if self._file is not None:
            self._file.close()

    def objects(self) -> Iterator[Built]:
        """The objects of the request, each with its bulk data.

        Raises
        ------
        BadRequest
            The metadata cannot be read.
        """
        if self._file is not None:
            self._file.flush()
        for document in self._documents():
            yield self._build(document)

    def _documents(self) -> Iterator[dict[str, Any]]:
        if not self._metadata:
            raise BadRequest("The request has no metadata", remedy=f"Send a part of {self.kind}")
        for text in self._metadata:
            if self.kind == XML_TYPE:
                yield native.from_xml(bytes(text))
                continue
            try:
                documents = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise BadRequest("The JSON cannot be read", why=type(error).__name__) from error
            documents = documents if isinstance(documents, list) else [documents]
            if not all(isinstance(document, dict) for document in documents):
                raise BadRequest("The JSON is no array of DICOM JSON objects")
            yield from documents

    def _build(self, document: dict[str, Any]) -> Built:
        built = Built(_uid(document, "00080016"), _uid(document, "00080018"))
        try:
            pieces = self._of(document.get(PIXEL_DATA, {}).get("BulkDataURI"))
            built.transfer_syntax = pieces[0].transfer_syntax if pieces else EXPLICIT_LITTLE
            dataset = Dataset.from_json({**_in_utf8(document)}, self._value)
            if pieces and syntax_of(built.transfer_syntax).encapsulated is not False:
                frames: list[Any] = [self._open(piece) for piece in pieces]
                dataset.PixelData = encapsulate_buffer(frames)
                dataset["PixelData"].VR = "OB"
                dataset["PixelData"].is_undefined_length = True
                if "Rows" not in dataset:
                    _describe(dataset, self._open(pieces[0]), built.transfer_syntax)
            elif built.transfer_syntax != EXPLICIT_LITTLE:
                raise Invalid("Bulk data is in explicit VR little endian or compressed", value=built.transfer_syntax)
            built.dataset = dataset
        except Invalid as error:
            built.why = str(error)
        except FAILURES as error:
            built.why = f"the metadata is no data set ({type(error).__name__})"
        return built

    def _of(self, uri: Any) -> list[Piece]:
        """The parts that an address names.

        Raises
        ------
        Invalid
            There is none.
        """
        if uri is None:
            return []
        pieces = self._pieces.get(urljoin(self.base, str(uri[0] if isinstance(uri, list) else uri)))
        if pieces is None:
            raise Invalid(
                "The request lacks bulk data that its metadata names", remedy="Send a part of that Content-Location"
            )
        return pieces

    def _value(self, tag: str, vr: str, uri: str) -> Any:
        """What stands at an address as a value; a file where it may be large."""
        pieces = self._of(uri)
        if tag.upper() == PIXEL_DATA and syntax_of(pieces[0].transfer_syntax).encapsulated is not False:
            return b""  # comes frame by frame
        if len(pieces) > 1:
            raise Invalid("A value has several parts", value=tag)
        if vr in BUFFERABLE_VRS and pieces[0].length % 2 == 0:
            return self._open(pieces[0])
        if pieces[0].length > SMALL_LIMIT:
            raise Invalid(
                "A value is too long", value=tag, why=f"{vr} of more than {SMALL_LIMIT >> 20} MB is not taken"
            )
        data = self._open(pieces[0]).read()
        if vr in _NUMBERS:
            return np.frombuffer(data, _NUMBERS[vr]).tolist()
        return data + b"\0" * (len(data) % 2) if vr in (*BUFFERABLE_VRS, "UN") else data.decode()

    def _open(self, piece: Piece) -> _Part:
        return _Part(cast(IO[bytes], self._file), piece)


class _Part(io.BufferedIOBase):
    """One part of the bulk data as a file of its own."""

    def __init__(self, file: IO[bytes], piece: Piece) -> None:
        self._file = file
        self._piece = piece
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._piece.length}[whence]
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on."""
        left = max(0, self._piece.length - self._at)
        self._file.seek(self._piece.offset + self._at)
        data = self._file.read(left if size is None or size < 0 else min(size, left))
        self._at += len(data)
        return data


class _Sink(io.RawIOBase):
    """Hands on what is written."""

    def __init__(self, write: Any) -> None:
        self._write = write
        self._at = 0

    def write(self, data: Any, /) -> int:
        """Hand it on."""
        self._write(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Refused."""
        raise io.UnsupportedOperation("seek")

    def read(self, size: int | None = -1, /) -> bytes:
        """Refused."""
        raise io.UnsupportedOperation("read")


def write(dataset: Dataset, into: Any) -> None:
    """Write a data set in explicit VR little endian.

    Parameters
    ----------
    dataset : Dataset
    into : callable
        Takes the bytes, piece by piece.
    """
    fp = DicomIO(_Sink(into))
    fp.is_little_endian, fp.is_implicit_VR = True, False
    write_dataset(fp, dataset)


def _describe(dataset: Dataset, picture: _Part, transfer_syntax: str) -> None:
    """Add the Image Pixel Description attributes, which the sender may leave to the picture (PS3.18 10.5.1.4)."""
    try:
        image = Image.open(cast(IO[bytes], picture))
    except (OSError, ValueError) as error:
        raise Invalid(
            "Rows and Columns are missing, and the picture does not tell them", value=transfer_syntax
        ) from error
    if image.mode not in ("L", "RGB"):
        raise Invalid("The picture has pixels that have to be described", value=image.mode)
    dataset.Columns, dataset.Rows = image.size
    dataset.SamplesPerPixel = len(image.getbands())
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if image.mode == "RGB":
        dataset.PlanarConfiguration = 0
        lossless = "YBR_RCT" if transfer_syntax == "1.2.840.10008.1.2.4.90" else "YBR_ICT"
        dataset.PhotometricInterpretation = "YBR_FULL_422" if image.format == "JPEG" else lossless
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0


def _uid(document: dict[str, Any], tag: str) -> str | None:
    attribute = document.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values[0][:64] if isinstance(values, list) and values and isinstance(values[0], str) else None


def _in_utf8(document: dict[str, Any]) -> dict[str, Any]:
    """The document without file meta information and group lengths, and with the character set its text is in."""
    kept = {tag: value for tag, value in document.items() if not tag.startswith("0002") and tag[4:] != "0000"}
    if "00080005" in kept or not json.dumps(kept, ensure_ascii=False).isascii():
        kept["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    return kept
