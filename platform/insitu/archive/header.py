"""A lean reader of data sets as they stream by: keeps the few values the index needs, and knows whether the end is the end.

It follows the structure of PS3.5 section 7 (element headers, sequences and items, encapsulated pixel data) and skips
values by their length, so that it costs a few microseconds per element and holds no more than one small value.
Not here: the file meta information (insitu.archive.examine) and values as Python objects (insitu.archive.levels).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from struct import Struct

VALUE_LIMIT = 16_384  # bytes of a wanted value that are kept; longer ones are noted as too long
DEPTH_LIMIT = 128  # nested sequences; the readers that come later take one call after the other for each
INFLATED_LIMIT = 1 << 36  # bytes a deflated data set may grow to
INFLATE_STEP = 1 << 20
UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010
# Pixel Data Provider URL, Float Pixel Data, Double Float Pixel Data, Pixel Data
IMAGE_CONTENT = frozenset((0x00287FE0, 0x7FE00008, 0x7FE00009, PIXEL_DATA))

_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # VRs with a length of 32 bits (PS3.5 7.1.2)
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
VRS = _LONG | _SHORT

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
# What the reader is inside of: bit 0 set for a list of items, clear for the elements of an item; bit 1 for implicit VR.
_IN_ITEM, _IN_SEQUENCE, _IMPLICIT, _FRAGMENTS = 0, 1, 2, 5


@dataclass(frozen=True)
class Syntax:
    """How a transfer syntax encodes a data set.

    Attributes
    ----------
    encapsulated : bool or None
        Whether pixel data is encapsulated; None where the syntax is not known to tell.
    """

    explicit: bool = True
    little: bool = True
    deflated: bool = False
    encapsulated: bool | None = None


_NATIVE = {
    "1.2.840.10008.1.2": Syntax(explicit=False, encapsulated=False),
    "1.2.840.10008.1.2.1": Syntax(encapsulated=False),
    "1.2.840.10008.1.2.2": Syntax(little=False, encapsulated=False),
    "1.2.840.10008.1.2.1.99": Syntax(deflated=True, encapsulated=False),
    "1.2.840.113619.5.2": Syntax(explicit=False, encapsulated=False),  # GE private: implicit, pixel data big endian
    "1.2.840.10008.1.2.4.95": Syntax(deflated=True),  # JPIP: pixel data is elsewhere
    "1.2.840.10008.1.2.4.205": Syntax(deflated=True),
    "1.2.840.10008.1.2.4.94": Syntax(),
    "1.2.840.10008.1.2.4.204": Syntax(),
}


def syntax_of(transfer_syntax_uid: str) -> Syntax:
    """The encoding of a transfer syntax. Those that are not known are explicit VR little endian (PS3.5 A.4)."""
    known = _NATIVE.get(transfer_syntax_uid)
    if known:
        return known
    standard = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.")
    return Syntax(encapsulated=True if transfer_syntax_uid.startswith(standard) else None)


class Malformed(Exception):
    """The bytes are no data set of the declared transfer syntax; the text says why, without values of the data set."""


class Irregular(Exception):
    """The bytes leave the beaten track (an unknown VR, say); a more tolerant reader may make sense of them."""


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


@dataclass
class Scanner:
    """Reads one data set, piece by piece.

    Parameters
    ----------
    syntax : Syntax
    wanted : frozenset of int
        Tags at the top level whose values are kept.

    Attributes
    ----------
    values : dict of int to (bytes, bytes)
        VR (empty for implicit) and raw value of the wanted tags that came by.
    too_long : set of int
        Wanted tags whose value was longer than `VALUE_LIMIT`.
    ambiguous : set of int
        Wanted tags that came by more than once, with different values.
    pixel_data : str or None
        "native", "encapsulated" or "elsewhere" (by URL) once it was seen.
    """

    syntax: Syntax
    wanted: frozenset[int]
    values: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    too_long: set[int] = field(default_factory=set)
    ambiguous: set[int] = field(default_factory=set)
    pixel_data: str | None = None

    def __post_init__(self) -> None:
        order = "<" if self.syntax.little else ">"
        self._explicit_head = Struct(f"{order}HH2sH")
        self._implicit_head = Struct(f"{order}HHI")
        self._long = Struct(f"{order}I")
        self._stack: list[int] = []
        self._skip = 0
        self._rest = b""
        self._first = True
        self._last_tag = 0
        self._trailer = False
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if self.syntax.deflated else None
        self._inflated = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Read on.

        Raises
        ------
        Malformed
            The bytes contradict the declared transfer syntax or the encoding rules.
        Irregular
            This reader cannot follow, another may.
        """
        inflate = self._inflate
        if inflate is None:
            self._scan(data)
            return
        pending: bytes | memoryview = data
        while pending and not inflate.eof:
            try:
                piece = inflate.decompress(pending, INFLATE_STEP)
            except zlib.error as error:
                raise Malformed("the deflated data set cannot be inflated") from error
            pending = inflate.unconsumed_tail
            self._inflated += len(piece)
            if self._inflated > INFLATED_LIMIT:
                raise Malformed(f"the deflated data set grows beyond {INFLATED_LIMIT} bytes")
            self._scan(piece)

    def finish(self) -> None:
        """Say that there is no more.

        Raises
        ------
        Malformed
            The data set is cut off; the text names the element in which.
        """
        if self._inflate is not None:
            self._drain(self._inflate)
            if not self._inflate.eof:
                raise Malformed("the data set is truncated: the deflated stream has no end")
        if self._trailer:
            return
        if self._first:
            raise Malformed("the data set is truncated: it holds no element")
        if self._skip:
            fault = f"{self._skip} bytes are missing"
        elif self._stack:
            fault = "a sequence or item has no end"
        elif self._rest.strip(b"\0"):
            fault = f"{len(self._rest)} bytes are left over"
        else:
            return
        raise Malformed(f"the data set is truncated in or after {_name(self._last_tag)}: {fault}")

    def _drain(self, inflate: zlib._Decompress) -> None:
        piece = inflate.flush()
        if piece:
            self._scan(piece)

    def _scan(self, data: bytes | memoryview) -> None:
        length = len(data)
        at = self._skip
        if at >= length:
            self._skip = at - length
            return
        self._skip = 0
        if self._trailer:
            self._check_trailer(data)
            return
        if self._rest:
            data = self._rest + bytes(data)
            length = len(data)
            self._rest = b""
        stack = self._stack
        explicit_head, implicit_head, long = self._explicit_head, self._implicit_head, self._long
        explicit_syntax = self.syntax.explicit
        wanted = self.wanted
        while length - at >= 8:
            inside = stack[-1] if stack else -1
            if inside > 0 and inside & 1:
                self._stack_item(implicit_head.unpack_from(data, at), inside)
                at += 8 + self._skip
                if at > length:
                    break
                self._skip = 0
                continue
            if explicit_syntax and inside != _IMPLICIT:
                group, element, vr, value_length = explicit_head.unpack_from(data, at)
                if self._first:
                    self._check_first(group, vr, bytes(data[at : at + 8]))
                if group == 0xFFFE:
                    self._end_item(group << 16 | element, inside)
                    at += 8
                    continue
                if vr in _SHORT:
                    head = 8
                elif vr in _LONG:
                    head = 12
                    if length - at < 12:
                        break
                    (value_length,) = long.unpack_from(data, at + 8)
                elif not stack and self._is_trailer(data, at):
                    return
                else:
                    raise Irregular(f"the element {_name(group << 16 | element)} has an unknown VR")
            else:
                group, element, value_length = implicit_head.unpack_from(data, at)
                vr, head = b"", 8
                if self._first:
                    self._check_first(group, bytes(data[at + 4 : at + 6]), bytes(data[at : at + 8]))
                if group == 0xFFFE:
                    self._end_item(group << 16 | element, inside)
                    at += 8
                    continue
                if not stack and group == 0 and self._is_trailer(data, at):
                    return
            tag = group << 16 | element
            self._first = False
            self._last_tag = tag
            if not stack and tag in IMAGE_CONTENT:
                self._note_pixel_data(tag, value_length)
            if value_length == UNDEFINED:
                if not stack and tag in wanted:
                    self._keep(tag, (vr, b""))
                self._enter(tag, vr, inside)
                at += head
                continue
            if not stack and tag in wanted:
                if value_length > VALUE_LIMIT:
                    self.too_long.add(tag)
                elif length - at < head + value_length:
                    break  # wait for the whole value
                else:
                    self._keep(tag, (vr, bytes(data[at + head : at + head + value_length])))
            at += head + value_length
        if at >= length:
            self._skip = at - length
        else:
            self._rest = bytes(data[at:])

    def _keep(self, tag: int, value: tuple[bytes, bytes]) -> None:
        if self.values.setdefault(tag, value) != value:
            self.ambiguous.add(tag)

    def _stack_item(self, header: tuple[int, int, int], inside: int) -> None:
        """Take the header of an item or of the end of a list of items; sets the bytes to skip."""
        group, element, value_length = header
        tag = group << 16 | element
        self._last_tag = tag
        if tag == _ITEM:
            if value_length != UNDEFINED:
                self._skip = value_length
            elif inside == _FRAGMENTS:
                raise Malformed("a fragment of the pixel data has no length")
            else:
                self._push(inside & ~1)
        elif tag == _SEQUENCE_END:
            self._stack.pop()
        else:
            raise Irregular(f"{_name(tag)} stands where an item should")

    def _end_item(self, tag: int, inside: int) -> None:
        if inside < 0:
            raise Malformed(f"{_name(tag)} stands outside a sequence")
        if tag != _ITEM_END:
            raise Irregular(f"{_name(tag)} stands among the elements of an item")
        self._last_tag = tag
        self._stack.pop()

    def _enter(self, tag: int, vr: bytes, inside: int) -> None:
        """Go into a value of undefined length."""
        if tag == PIXEL_DATA and vr in (b"OB", b"OW", b"UN", b""):
            self._push(_FRAGMENTS)
        elif vr == b"SQ":
            self._push(_IN_SEQUENCE)
        elif vr in (b"UN", b""):  # PS3.5 6.2.2: UN of undefined length is a sequence in implicit VR little endian
            if vr and not self.syntax.little:
                raise Irregular(f"{_name(tag)} is UN of undefined length in big endian")
            self._push(_IN_SEQUENCE | _IMPLICIT)
        elif vr in (b"OB", b"OW"):
            self._push(_FRAGMENTS)
        else:
            raise Malformed(f"{_name(tag)} has no length, but its VR {vr.decode('ascii')} needs one")

    def _push(self, what: int) -> None:
        if len(self._stack) >= 2 * DEPTH_LIMIT:  # a sequence and its item
            raise Malformed(f"sequences are nested deeper than {DEPTH_LIMIT}")
        self._stack.append(what)

    def _note_pixel_data(self, tag: int, value_length: int) -> None:
        if tag != PIXEL_DATA:
            self.pixel_data = "elsewhere" if tag == 0x00287FE0 else "native"
            return
        self.pixel_data = "encapsulated" if value_length == UNDEFINED else "native"
        if self.syntax.encapsulated is None or not value_length:
            return
        if self.syntax.encapsulated != (self.pixel_data == "encapsulated"):
            raise Malformed(f"the transfer syntax does not match the data set: pixel data is {self.pixel_data}")

    def _check_first(self, group: int, vr: bytes, head: bytes) -> None:
        """Compare the first element with the declared encoding: byte order and explicit or implicit VR."""
        if group in (0x0000, 0x0002) and head.strip(b"\0"):
            raise Malformed(
                "this is not a data set: it starts with an element of a command or of file meta information"
            )
        swapped = (group & 0xFF) << 8 | group >> 8
        if group > 0xFF and swapped <= 0xFF:
            raise Malformed("the transfer syntax does not match the data set: its byte order is the other one")
        if self.syntax.explicit and vr not in VRS:
            length = self._implicit_head.unpack(head)[2]
            if 0x0004 <= group <= 0x7FFF and length < 0x10000:
                raise Malformed("the transfer syntax does not match the data set: it is in implicit VR")
            raise Malformed("this is not a data set of the declared transfer syntax")
        if not self.syntax.explicit and vr in VRS:
            raise Malformed("the transfer syntax does not match the data set: it is in explicit VR")

    def _is_trailer(self, data: bytes | memoryview, at: int) -> bool:
        """Whether only zero bytes follow, with which some writers fill up files; an element may not start with them."""
        if self._first or bytes(data[at : at + 8]) != b"\0" * 8:
            return False
        self._trailer = True
        self._check_trailer(data[at:])
        return True

    @staticmethod
    def _check_trailer(data: bytes | memoryview) -> None:
        if bytes(data).strip(b"\0"):
            raise Malformed("the data set is followed by something else")
