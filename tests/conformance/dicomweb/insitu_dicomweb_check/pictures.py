"""Just enough of JPEG, PNG and GIF to judge a rendered image: its size, bits per channel, and the pixels of a PNG."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from .check import Broken


@dataclass(frozen=True)
class Picture:
    """Kind (media type), width, height in pixels, bits per channel; `rows` of grey values where it is a PNG."""

    kind: str
    width: int
    height: int
    bits: int
    process: str = ""
    rows: tuple[bytes, ...] = ()


def read(data: bytes) -> Picture:
    """What an image says of itself.

    Raises
    ------
    Broken
        It is none of the three.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data[:6] in (b"GIF87a", b"GIF89a"):
            width, height = struct.unpack("<2H", data[6:10])
            return Picture("image/gif", width, height, 8)
    except (struct.error, IndexError, zlib.error) as error:
        raise Broken(f"an image that cannot be read ({error})") from error
    raise Broken(f"a body that is no JPEG, PNG or GIF (it begins with {data[:4].hex()})")


_SOF = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless"}


def _jpeg(data: bytes) -> Picture:
    at = 2
    while at < len(data):
        marker = data[at + 1]
        if marker in (0xD8, 0x01) or 0xD0 <= marker <= 0xD7:
            at += 2
            continue
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width = struct.unpack(">BHH", data[at + 4 : at + 9])
            return Picture("image/jpeg", width, height, bits, _SOF.get(marker, "another process"))
        at += 2 + length
    raise Broken("a JPEG without a frame header")


def _png(data: bytes) -> Picture:
    at, packed, head = 8, b"", (0, 0, 0, 0, 0, 0, 0)
    while at + 8 <= len(data):
        (length,) = struct.unpack(">L", data[at : at + 4])
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if name == b"IHDR":
            head = struct.unpack(">LLBBBBB", content)
        elif name == b"IDAT":
            packed += content
        at += 12 + length
    width, height, bits, colour, _, _, interlace = head
    channels = {0: 1, 2: 3, 4: 2, 6: 4}.get(colour)
    if bits != 8 or channels is None or interlace:
        return Picture("image/png", width, height, bits)
    return Picture("image/png", width, height, bits, rows=_unfiltered(zlib.decompress(packed), width, height, channels))


def _unfiltered(raw: bytes, width: int, height: int, channels: int) -> tuple[bytes, ...]:
    """The first channel of each row (PNG 9.2)."""
    stride = width * channels
    above = bytearray(stride)
    rows = []
    for row in range(height):
        start = row * (stride + 1)
        kind, line = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        for index in range(stride):
            left = line[index - channels] if index >= channels else 0
            up, corner = above[index], above[index - channels] if index >= channels else 0
            line[index] = (line[index] + _predicted(kind, left, up, corner)) & 0xFF
        rows.append(bytes(line[::channels]))
        above = line
    return tuple(rows)


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind in (0, 1, 2):
        return (0, left, up)[kind]
    if kind == 3:
        return (left + up) // 2
    estimate = left + up - corner
    distances = [(abs(estimate - value), order, value) for order, value in enumerate((left, up, corner))]
    return min(distances)[2]
