"""A blob of an object store as a seekable file: fetched in windows, never held whole."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

FIRST = 1 << 20  # bytes fetched when it is opened: most objects of a CT or an MR in one request
JUMP = 1 << 17  # bytes fetched where somebody begins to read elsewhere
LARGEST = 1 << 23  # bytes of a window; it doubles up to here while the reading goes on in one line

Fetch = Callable[[str, int, int | None], tuple[bytes, int]]


class BlobFile(io.RawIOBase):
    """A raw file over ranged requests; wrap it in an `io.BufferedReader`.

    Parameters
    ----------
    fetch : callable
        Of a key, an offset and a number of bytes; gives the bytes and the size of the whole.
    key : str
    size : int
        Bytes of the whole.
    first : bytes
        Its beginning.
    """

    def __init__(self, fetch: Fetch, key: str, size: int, first: bytes) -> None:
        super().__init__()
        self.name = key  # as files have one: pydicom wants to know it
        self._fetch = fetch
        self._size = size
        self._position = 0
        self._start, self._window = 0, first
        self._next = 2 * FIRST  # bytes of the next window, if it follows this one

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Byte at which the next one is read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, without asking the server."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"there is nothing before the beginning: {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` from the window, which is fetched where the position is outside it; 0 at the end."""
        if self._position >= self._size or not len(buffer):
            return 0
        if not self._start <= self._position < self._start + len(self._window):
            self._fill(len(buffer))
        at = self._position - self._start
        piece = memoryview(self._window)[at : at + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def readall(self) -> bytes:
        """The rest in one request."""
        if self._position >= self._size:
            return b""
        at = self._position - self._start
        if at >= 0 and self._start + len(self._window) >= self._size:
            data = self._window[at:]
        else:
            data = self._fetch(self.name, self._position, None)[0]
        self._position += len(data)
        return data

    def close(self) -> None:
        """Let go of the window."""
        self._window = b""
        super().close()

    def _fill(self, wanted: int) -> None:
        goes_on = self._position == self._start + len(self._window)
        size = min(max(self._next if goes_on else JUMP, wanted), LARGEST)
        self._window, _ = self._fetch(self.name, self._position, size)
        self._start = self._position
        self._next = min(2 * size, LARGEST)
