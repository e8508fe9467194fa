"""Objects to send: small CT images with random pixels, in several transfer syntaxes; others under known UIDs; unfit ones.

Encoded by hand, so that nothing of the platform judges itself. Not here: sending (senders).
"""

from __future__ import annotations

import hashlib
import random
import struct
from dataclasses import dataclass, field

CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
SYNTAXES = (EXPLICIT, IMPLICIT, BIG_ENDIAN)

Key = tuple[str, str, bytes]


@dataclass(frozen=True)
class Item:
    """An object as it is sent.

    Attributes
    ----------
    data : bytes
        The data set, without file meta information.
    fit : bool
        Whether an archive may take it: otherwise it belongs into quarantine.
    """

    sop: str
    series: str
    study: str
    syntax: str
    data: bytes = field(repr=False)
    fit: bool = True
    digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.data).digest())

    @property
    def key(self) -> Key:
        """What makes two objects the same: UID, transfer syntax and bytes of the data set."""
        return self.sop, self.syntax, self.digest

    def file(self) -> bytes:
        """The object as a DICOM file (PS3.10)."""
        elements = b"".join(
            _element(EXPLICIT, tag, vr, value)
            for tag, vr, value in (
                (0x00020001, b"OB", b"\0\1"),
                (0x00020002, b"UI", CT.encode()),
                (0x00020003, b"UI", self.sop.encode()),
                (0x00020010, b"UI", self.syntax.encode()),
                (0x00020012, b"UI", b"2.25.1"),
            )
        )
        length = _element(EXPLICIT, 0x00020000, b"UL", struct.pack("<I", len(elements)))
        return bytes(128) + b"DICM" + length + elements + self.data


def _element(syntax: str, tag: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr in (b"UI", b"OW", b"OB") else b" ") * (len(value) % 2)
    order = ">" if syntax == BIG_ENDIAN else "<"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", len(value)) + value
    if vr in (b"OW", b"OB"):
        return head + vr + struct.pack(order + "HI", 0, len(value)) + value
    return head + vr + struct.pack(order + "H", len(value)) + value


def uid(choice: random.Random) -> str:
    """A UID (PS3.5 B.2)."""
    return f"2.25.{choice.getrandbits(127)}"


def image(
    choice: random.Random, study: str, series: str, number: int, *, sop: str | None = None, fit: bool = True,
    syntax: str = EXPLICIT, side: int = 32,
) -> Item:  # fmt: skip
    """A CT image of `side` x `side` random pixels; an unfit one lacks its Study Instance UID."""
    sop = sop or uid(choice)
    order = ">" if syntax == BIG_ENDIAN else "<"
    elements = [
        (0x00080005, b"CS", b"ISO_IR 100"),
        (0x00080016, b"UI", CT.encode()),
        (0x00080018, b"UI", sop.encode()),
        (0x00080020, b"DA", b"20240131"),
        (0x00080060, b"CS", b"CT"),
        (0x00100010, b"PN", b"Doe^Jane"),
        (0x00100020, b"LO", b"4711"),
        (0x0020000D, b"UI", study.encode()),
        (0x0020000E, b"UI", series.encode()),
        (0x00200013, b"IS", str(number).encode()),
        (0x00280010, b"US", struct.pack(order + "H", side)),
        (0x00280011, b"US", struct.pack(order + "H", side)),
        (0x7FE00010, b"OW", choice.randbytes(side * side * 2)),
    ]
    data = b"".join(_element(syntax, *one) for one in elements if fit or one[0] != 0x0020000D)
    return Item(sop, series, study, syntax, data, fit)


def another(choice: random.Random, item: Item) -> Item:
    """Another object under the UID of `item`."""
    return image(choice, item.study, item.series, 1, sop=item.sop, syntax=item.syntax)


@dataclass
class Load:
    """What is sent in one round: lists of objects, one per association and one per request.

    A series comes by one way only, as from a scanner; studies are shared.
    """

    associations: list[list[Item]]
    requests: list[list[Item]]

    @property
    def items(self) -> list[Item]:
        """All of them."""
        return [item for part in (*self.associations, *self.requests) for item in part]


def load(choice: random.Random, known: list[Item], associations: int, requests: int, objects: int) -> Load:
    """Choose what to send: mostly new images, some that are `known` again, some others under a known UID, some unfit."""
    studies = [uid(choice) for _ in range(2)]

    def part() -> list[Item]:
        study, series = choice.choice(studies), uid(choice)
        items = []
        for number in range(1, objects + 1):
            kind = choice.random()
            side = choice.choice((16, 32, 64, 128, 128, 600) if number == 1 else (16, 32, 64, 128))
            new = image(choice, study, series, number, syntax=choice.choice(SYNTAXES), side=side)
            if kind < 0.06 and known:
                items.append(choice.choice(known))
            elif kind < 0.12 and known:
                items.append(another(choice, choice.choice(known)))
            elif kind < 0.17:
                items.append(image(choice, study, series, number, fit=False))
            else:
                items.append(new)
        return items

    return Load([part() for _ in range(associations)], [part() for _ in range(requests)])
