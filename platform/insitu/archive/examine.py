"""Examination of an object as its bytes come by: what it is, whether it is whole, and the digest of its data set.

It decides, from bytes alone, whether an object can be archived. Not here: where the bytes go (insitu.archive.store) and
whether the object contradicts what is in the archive already.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from . import classes, levels, tolerant
from .header import IMAGE_CONTENT, VALUE_LIMIT, VRS, Irregular, Malformed, Scanner, Syntax, syntax_of

IMPLEMENTATION_CLASS_UID = "2.25.94701715828758647821626722696528464139"
IMPLEMENTATION_VERSION_NAME = "INSITU_1"
META_LIMIT = 1 << 20  # bytes of file meta information
PREAMBLE = 132

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_TEXT = frozenset((b"", *b"CS LO LT SH ST UC UI UN UT".split()))  # VRs in which a UID or a Patient ID reads the same
_SIZE = (levels.ROWS, levels.COLUMNS)
_META_HEAD = struct.Struct("<HH2sH")
_VRS = frozenset(b"AE SH UI UL OB UN UR LO ST".split())  # those of group 0002 (PS3.10 7.1), and some for private ones
_META_LONG = frozenset((b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OF", b"OD", b"OL", b"OV"))
_MEDIA_CLASS, _MEDIA_INSTANCE, _TRANSFER_SYNTAX, _GROUP_LENGTH = 0x00020002, 0x00020003, 0x00020010, 0x00020000


class Unfit(Exception):
    """The object cannot be archived; the text says why, without patient data."""


@dataclass(frozen=True)
class Identity:
    """What the index needs to know of one object."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    syntax: Syntax
    values: levels.Raw


def uid(name: str, value: str, *, present: bool = True) -> str:
    """`value` if it is a UID (PS3.5 9.1; leading zeros of components are tolerated).

    Raises
    ------
    Unfit
    """
    if not value:
        raise Unfit(f"{name} is {'empty' if present else 'missing'}")
    if len(value) > 64:
        raise Unfit(f"{name} is longer than 64 characters")
    if not _UID.fullmatch(value):
        raise Unfit(f"{name} is malformed: a UID holds numbers separated by dots")
    return value


def file_meta(transfer_syntax_uid: str, sop_class_uid: str, sop_instance_uid: str, source_ae: str | None) -> bytes:
    """Preamble and file meta information (PS3.10 7.1) of an object that came without them."""

    def element(number: int, vr: bytes, value: bytes) -> bytes:
        if len(value) % 2:
            value += b" " if vr == b"SH" or vr == b"AE" else b"\0"
        if vr == b"OB":
            return struct.pack("<HH2sHI", 2, number, vr, 0, len(value)) + value
        return struct.pack("<HH2sH", 2, number, vr, len(value)) + value

    body = element(0x0001, b"OB", b"\0\1")
    for number, text in ((0x0002, sop_class_uid), (0x0003, sop_instance_uid), (0x0010, transfer_syntax_uid)):
        if text:
            body += element(number, b"UI", text.encode("ascii", "replace")[:64])
    body += element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode())
    body += element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode())
    if source_ae and source_ae.strip():
        body += element(0x0016, b"AE", source_ae.strip().encode("ascii", "replace")[:16])
    return b"\0" * 128 + b"DICM" + element(0x0000, b"UL", struct.pack("<I", len(body))) + body


def parse_meta(data: bytes, *, whole: bool) -> tuple[int, dict[int, bytes]] | None:
    """Read preamble and file meta information.

    Parameters
    ----------
    data : bytes
        The start of a file.
    whole : bool
        Whether `data` is the whole file.

    Returns
    -------
    tuple or None
        Offset of the data set and the raw values by tag; None where more bytes are needed.

    Raises
    ------
    Unfit
        This is no DICOM file.
    """
    if len(data) < PREAMBLE and not whole:
        return None
    if data[128:132] != b"DICM":
        raise Unfit("this is not a DICOM file: the letters DICM are not at byte 128")
    values: dict[int, bytes] = {}
    at = PREAMBLE
    announced = -1
    while True:
        if at == announced and (whole or len(data) - at >= 8):
            # A length that says less than there is leaves elements of group 0002 where the data set should start.
            if len(data) - at < 8:
                return at, values
            group, _, vr, _ = _META_HEAD.unpack_from(data, at)
            if group != 2 or vr not in _VRS:
                return at, values
        if len(data) - at < 12:
            if whole and (len(data) - at < 8 or data[at : at + 2] != b"\2\0"):
                return at, values
            if whole:
                raise Unfit("the file is truncated in its file meta information")
            return None
        group, element, vr, length = _META_HEAD.unpack_from(data, at)
        if group != 2:
            return at, values
        if vr not in VRS or (element == 0 and vr != b"UL"):
            raise Unfit("the file meta information is not in explicit VR little endian")
        head = 8
        if vr in _META_LONG:
            head, length = 12, int.from_bytes(data[at + 8 : at + 12], "little")
        if at + head + length > META_LIMIT:
            raise Unfit(f"the file meta information is larger than {META_LIMIT} bytes")
        if at + head + length > len(data):
            if whole:
                raise Unfit("the file is truncated in its file meta information")
            return None
        tag = group << 16 | element
        values[tag] = data[at + head : at + head + length]
        at += head + length
        if tag == _GROUP_LENGTH and length == 4:
            announced = at + int.from_bytes(values[tag], "little")


class Examination:
    """Examines one object piece by piece.

    Parameters
    ----------
    transfer_syntax_uid : str, optional
        Where it is given the bytes are a bare data set, else a file with preamble and file meta information (PS3.10).
    sop_class_uid, sop_instance_uid, study_instance_uid : str, optional
        What the sender says the object is; another object is unfit.

    Attributes
    ----------
    transfer_syntax_uid : str
        Empty until it is known.
    dataset_offset : int
        Byte of the fed stream at which the data set starts.
    """

    def __init__(
        self,
        transfer_syntax_uid: str | None = None,
        sop_class_uid: str | None = None,
        sop_instance_uid: str | None = None,
        study_instance_uid: str | None = None,
    ) -> None:
        self.transfer_syntax_uid = ""
        self.dataset_offset = 0
        self._said = (sop_class_uid, sop_instance_uid, study_instance_uid)
        self._digest = hashlib.sha256()
        self._scanner: Scanner | None = None
        self._start: bytearray | None = bytearray()
        self._unfit: str | None = None
        self._irregular: str | None = None
        self._scanning = True
        self._fed = 0
        if transfer_syntax_uid is not None:
            self._start = None
            self._begin_dataset(transfer_syntax_uid.strip(" \0"))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the data set so far."""
        return self._digest.digest()

    @property
    def values(self) -> levels.Raw:
        """Raw values of the wanted attributes seen so far."""
        return self._scanner.values if self._scanner else {}

    def feed(self, data: bytes | memoryview) -> None:
        """Read on. Never raises: an object that is unfit is still read to its end, to be kept for a person."""
        self._fed += len(data)
        if self._start is None:
            self._feed_dataset(data)
            return
        self._start += data
        self._read_meta(whole=False)

    def finish(self, contents: Callable[[], BinaryIO]) -> Identity:
        """Say that there is no more; the object's identity.

        Parameters
        ----------
        contents : callable
            Opens the object as a DICOM file, for objects that need a more tolerant reader.

        Raises
        ------
        Unfit
        """
        if self._start is not None and self._unfit is None:
            if not self._fed:
                raise Unfit("the object is empty")
            self._read_meta(whole=True)
        if self._unfit is not None:
            raise Unfit(self._unfit)
        scanner = self._scanner
        if scanner is None:
            raise Unfit("the file ends before its data set")
        if self._irregular is None:
            try:
                scanner.finish()
            except Malformed as error:
                raise Unfit(str(error)) from error
            except Irregular as error:
                self._irregular = str(error)
        if self._irregular is not None:
            with contents() as stream:
                try:
                    scanner.values, scanner.too_long, tags = tolerant.read(stream, levels.WANTED)
                    if tags & IMAGE_CONTENT:
                        scanner.pixel_data = scanner.pixel_data or "unknown"
                except Malformed as error:
                    raise Unfit(f"{self._irregular}; {error}") from error
        return self._identify(scanner)

    def seen(self, tag: int) -> str | None:
        """The UID at `tag` as far as it can be told, for an answer about an unfit object."""
        value = levels.uid(self.values, tag)
        return value if _UID.fullmatch(value) and len(value) <= 64 else None

    def _identify(self, scanner: Scanner) -> Identity:
        def check(name: str, tag: int) -> None:
            if tag in scanner.ambiguous:
                raise Unfit(f"{name} stands more than once, with different values")
            vr = scanner.values.get(tag, (b"", b""))[0]
            if vr not in _TEXT:  # PS3.6 says which; read as numbers or as a sequence it would be something else
                raise Unfit(f"{name} has the VR {vr.decode('ascii', 'replace')}")

        def read(name: str, tag: int) -> str:
            if tag in scanner.too_long:
                raise Unfit(f"{name} is longer than 64 characters")
            check(name, tag)
            return uid(name, levels.uid(scanner.values, tag), present=tag in scanner.values)

        for name, tag in (("Specific Character Set", levels.CHARACTER_SET), ("Patient ID", levels.PATIENT_ID)):
            check(name, tag)
            if tag in scanner.too_long:
                raise Unfit(f"{name} is longer than {VALUE_LIMIT} bytes")
        # Nobody could decode a text of it.
        if not levels.uid(scanner.values, levels.CHARACTER_SET).isprintable():
            raise Unfit("Specific Character Set is malformed: it holds control characters")
        sop_class = read("SOP Class UID", levels.SOP_CLASS_UID)
        sop_instance = read("SOP Instance UID", levels.SOP_INSTANCE_UID)
        study = read("Study Instance UID", levels.STUDY_INSTANCE_UID)
        series = read("Series Instance UID", levels.SERIES_INSTANCE_UID)
        for name, said, found in (
            ("SOP Class UID", self._said[0], sop_class),
            ("SOP Instance UID", self._said[1], sop_instance),
            ("Study Instance UID", self._said[2], study),
        ):
            if said is not None and said.strip(" \0") != found:
                raise Unfit(f"the sender said {name} {said.strip(' ')[:64]!r}, the data set says {found!r}")
        if scanner.pixel_data is None and sop_class in classes.image_classes():
            # A cut exactly between two elements cannot be seen, but what then is missing can.
            rows, columns = (levels.unsigned_short(scanner.values, tag, scanner.syntax) for tag in _SIZE)
            if rows or columns:
                raise Unfit(
                    f"the data set is truncated or incomplete: an image of {columns} x {rows}, but no pixel data"
                )
        return Identity(
            sop_class, sop_instance, study, series, self.transfer_syntax_uid, scanner.syntax, scanner.values
        )

    def _read_meta(self, *, whole: bool) -> None:
        assert self._start is not None  # noqa: S101
        if self._unfit is not None:
            return
        start = bytes(self._start)
        try:
            parsed = parse_meta(start, whole=whole)
            if parsed is None:
                return
            self.dataset_offset, meta = parsed
            if _TRANSFER_SYNTAX not in meta:
                raise Unfit("the file meta information names no transfer syntax")
            self._begin_dataset(meta[_TRANSFER_SYNTAX].decode("latin-1").rstrip(" \0"))
        except Unfit as error:
            # What follows is kept for a person, but nothing more can be said of it.
            self._unfit = str(error)
            self._start = None
            self._digest.update(start)
            return
        self._start = None
        self._feed_dataset(start[self.dataset_offset :])

    def _begin_dataset(self, transfer_syntax_uid: str) -> None:
        try:
            self.transfer_syntax_uid = uid("Transfer Syntax UID", transfer_syntax_uid)
        except Unfit as error:
            self._unfit = str(error)
            return
        self._scanner = Scanner(syntax_of(transfer_syntax_uid), levels.WANTED)

    def _feed_dataset(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        if not self._scanning or self._scanner is None:
            return
        try:
            self._scanner.feed(data)
        except Malformed as error:
            self._unfit = self._unfit or str(error)
            self._scanning = False
        except Irregular as error:
            self._irregular = str(error)
            self._scanning = False
