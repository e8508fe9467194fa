"""What a blob store does, and which one the settings name.

Keys are relative POSIX paths such as `objects/<receipt>/<uuid>.dcm`; they are made by the archive, never by a sender.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from insitu.errors import Invalid
from insitu.settings import Settings

RESERVED = "incoming"  # no key begins with it: files on their way in have their folder there


@dataclass(frozen=True)
class BlobInfo:
    """A blob in a listing: key, size in bytes, seconds since the epoch of its last write."""

    key: str
    size: int
    modified: float


class BlobWriter(Protocol):
    """A blob on its way in; nobody sees it before `commit`."""

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""

    def contents(self) -> BinaryIO:
        """What has been written so far, as a seekable file; close it before `commit`."""

    def commit(self, key: str | None = None) -> None:
        """Make the blob durable and visible, under `key` where another than the one first asked for is right."""

    def abort(self) -> None:
        """Forget the blob. Does nothing after `commit` or a first `abort`."""


class BlobStore(Protocol):
    """Durable blobs. Every writing method returns only when the change would survive a power failure."""

    def create(self, key: str) -> BlobWriter:
        """Start a blob that will stand under `key`."""

    def put(self, key: str, data: bytes) -> None:
        """Write a small blob in one go."""

    def open(self, key: str) -> BinaryIO:
        """The blob as a seekable file."""

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset`, to the end where it is None."""

    def move(self, source: str, target: str) -> None:
        """Give a blob another key."""

    def delete(self, key: str) -> None:
        """Remove a blob; nothing happens where there is none."""

    def exists(self, key: str) -> bool:
        """Whether there is a blob under `key`."""

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """Every blob whose key starts with the folder `prefix`, in the order of their keys."""

    def sweep(self) -> int:
        """Remove what dead writers left behind; number of removed remains."""


def check(key: str) -> None:
    """See that a key is one.

    Raises
    ------
    Invalid
        It would leave the store, or is no path.
    """
    parts = key.split("/")
    if not key or "" in parts or "." in parts or ".." in parts or "\0" in key or parts[0] == RESERVED:
        raise Invalid("This is not a blob key", value=key)


def blob_store(settings: Settings) -> BlobStore:
    """The blob store of an installation, one per process: its bucket where it names one, else the files of its home.

    Raises
    ------
    Invalid
        The keys of the object store cannot be read.
    Unavailable
        The disk does not take the folder.
    """
    if settings.object_store is None:
        return _files(settings.blobs)
    return _bucket(
        settings.object_store,
        settings.object_store_region,
        settings.object_store_ca,
        settings.secrets,
        settings.spool,
        settings.database_patience,
    )


def place(settings: Settings) -> str:
    """Where the blobs are, for messages."""
    return settings.object_store or str(settings.blobs)


@functools.lru_cache(maxsize=8)
def _files(root: Path) -> BlobStore:
    from .files import FileBlobStore

    return FileBlobStore(root)


@functools.lru_cache(maxsize=8)
def _bucket(url: str, region: str, ca: Path | None, secrets: Path, spool: Path, patience: float) -> BlobStore:
    from .s3 import S3BlobStore  # its client takes memory that an installation on files does not need

    return S3BlobStore(url, spool, secrets=secrets, region=region, ca=ca, patience=patience)
