"""Blobs as files below a folder."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from insitu.errors import NotFound, Unavailable

from .store import RESERVED, BlobInfo, check

STARTED = 131_072  # bytes; as often the disk is told to begin with what was written
WRITE_ONLY = 2  # SYNC_FILE_RANGE_WRITE of sync_file_range(2)


def _unavailable(error: OSError, key: str) -> Unavailable:
    remedy = (
        "Free space on that disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Look at the disk of the home"
    )
    return Unavailable("The blob store cannot be written", value=key, why=error.strerror or str(error), remedy=remedy)


def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Linux's own way to begin writing without waiting for it; None elsewhere."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


_begin_writing = _sync_file_range()


def _sync_folder(folder: Path | str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(descriptor: int, folder: Path | str, name: str) -> None:
    """Give a file without a name a name in `folder`, durably."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Only with a folder descriptor does Python call linkat, which can follow the link in /proc to the unnamed file.
        os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=opened, follow_symlinks=True)
        os.fsync(opened)
    finally:
        os.close(opened)


def _can_name_later(folder: Path) -> bool:
    """Whether the file system under `folder` has files without a name that can be given one."""
    name = f"probe-{uuid.uuid4().hex}"
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o640)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        return False
    try:
        _name(descriptor, folder, name)
    except OSError:
        return False
    finally:
        os.close(descriptor)
        (folder / name).unlink(missing_ok=True)
    return True


class FileBlobStore:
    """Blobs as files below a folder: fsync the file, give it its name, fsync the folder.

    A blob being written has no name at all where the file system can do that (O_TMPFILE), so a killed process leaves
    nothing behind; elsewhere it has a locked file in `incoming/`, which `sweep` removes once its writer is gone.

    Parameters
    ----------
    root : Path
        Folder; made where it is missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._incoming = self.root / RESERVED
        self._root = str(self.root)
        self._folders: set[str] = set()  # as text: every object passes by
        try:
            self._make_folder(self._incoming)
            self._unnamed = _can_name_later(self._incoming)
        except OSError as error:
            raise _unavailable(error, str(self.root)) from error

    def path(self, key: str) -> Path:
        """The file of a key.

        Raises
        ------
        Invalid
            The key would leave the store.
        """
        check(key)
        return self.root / key

    def create(self, key: str) -> FileBlobWriter:
        """Start a blob that will stand under `key`.

        Raises
        ------
        Unavailable
            The disk does not take it.
        """
        check(key)
        try:
            descriptor, temporary = self._open_temporary()
        except OSError as error:
            raise _unavailable(error, key) from error
        return FileBlobWriter(self, key, descriptor, temporary)

    def put(self, key: str, data: bytes) -> None:
        """Write a small blob in one go."""
        writer = self.create(key)
        try:
            writer.write(data)
            writer.commit()
        except BaseException:
            writer.abort()
            raise

    def open(self, key: str) -> BinaryIO:
        """The blob as a seekable file.

        Raises
        ------
        NotFound
            There is none under this key.
        """
        try:
            return self.path(key).open("rb")
        except FileNotFoundError as error:
            raise NotFound(
                "A blob is missing", value=key, remedy="Run `insitu scrub` to see whether others are missing too"
            ) from error

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset`, to the end where it is None."""
        with self.open(key) as stream:
            stream.seek(offset)
            return stream.read(-1 if length is None else length)

    def move(self, source: str, target: str) -> None:
        """Give a blob another key."""
        old, new = self.path(source), self.path(target)
        try:
            self._make_folder(new.parent)
            old.rename(new)
            _sync_folder(new.parent)
            _sync_folder(old.parent)
        except FileNotFoundError as error:
            raise NotFound("A blob is missing", value=source) from error
        except OSError as error:
            raise _unavailable(error, target) from error

    def delete(self, key: str) -> None:
        """Remove a blob; nothing happens where there is none."""
        path = self.path(key)
        try:
            path.unlink()
            _sync_folder(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unavailable(error, key) from error

    def exists(self, key: str) -> bool:
        """Whether there is a blob under `key`."""
        return self.path(key).is_file()

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """Every blob below the folder `prefix`, in the order of their keys."""
        prefix = prefix.rstrip("/")
        yield from self._walk(f"{self._root}/{prefix}" if prefix else self._root, f"{prefix}/" if prefix else "")

    def _walk(self, folder: str, before: str) -> Iterator[BlobInfo]:
        try:
            with os.scandir(folder) as found:
                # With its slash, a folder comes where the keys below it do.
                names = sorted(f"{each.name}/" if each.is_dir(follow_symlinks=False) else each.name for each in found)
        except FileNotFoundError:
            return  # never there, or gone meanwhile
        for name in names:
            if name.endswith("/"):
                if before or name != f"{RESERVED}/":
                    yield from self._walk(f"{folder}/{name[:-1]}", before + name)
                continue
            try:
                status = os.stat(f"{folder}/{name}")
            except FileNotFoundError:
                continue  # moved or deleted meanwhile
            yield BlobInfo(before + name, status.st_size, status.st_mtime)

    def sweep(self) -> int:
        """Remove the files in `incoming/` that no living process holds."""
        removed = 0
        for path in self._incoming.iterdir():
            try:
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
                removed += 1
            except BlockingIOError:
                pass  # its writer lives
            finally:
                os.close(descriptor)
        return removed

    def _open_temporary(self) -> tuple[int, Path | None]:
        if self._unnamed:
            return os.open(self._incoming, os.O_TMPFILE | os.O_RDWR, 0o640), None
        while True:
            path = self._incoming / f"{time.time_ns():x}-{uuid.uuid4().hex}"
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else a sweep came between the two calls
                return descriptor, path
            os.close(descriptor)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it durable; once per folder and process."""
        if str(folder) in self._folders:
            return
        is_root = folder == self.root
        if not is_root:
            self._make_folder(folder.parent)
        new = not folder.is_dir()
        folder.mkdir(exist_ok=True, mode=0o750, parents=is_root)
        if new or not is_root:
            # Also where it was there: whoever made it may not have come to its fsync yet, or it may have failed.
            _sync_folder(folder.parent)
        if len(self._folders) > 10_000:
            self._folders.clear()
        self._folders.add(str(folder))

    def publish(self, descriptor: int, temporary: Path | None, key: str) -> None:
        """Give a written file its name, durably. For `FileBlobWriter`."""
        check(key)
        within, _, name = key.rpartition("/")
        folder = f"{self._root}/{within}" if within else self._root
        os.fsync(descriptor)
        if folder not in self._folders:
            self._make_folder(Path(folder))
        if temporary is None:
            try:
                return _name(descriptor, folder, name)
            except FileExistsError:
                # Written again, as an entry of the journal is whose transaction was rolled back: only a rename replaces.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary = self._incoming / f"{time.time_ns():x}-{uuid.uuid4().hex}"
                _name(descriptor, self._incoming, temporary.name)
        temporary.rename(f"{folder}/{name}")
        _sync_folder(folder)


class FileBlobWriter:
    """A file being written for a `FileBlobStore`."""

    def __init__(self, store: FileBlobStore, key: str, descriptor: int, temporary: Path | None) -> None:
        self._store = store
        self._key = key
        self._descriptor = descriptor
        self._temporary = temporary
        self._written = self._begun = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`.

        Raises
        ------
        Unavailable
            The disk is full or fails.
        """
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, memoryview(data)[written:])
        except OSError as error:
            raise _unavailable(error, self._key) from error
        self._written += written
        if self._written - self._begun >= STARTED and _begin_writing is not None:
            # So that little is left to wait for when it is made durable. Where this fails, that says so.
            _begin_writing(self._descriptor, self._begun, self._written - self._begun, WRITE_ONLY)
            self._begun = self._written

    def contents(self) -> BinaryIO:
        """What has been written so far, as a seekable file."""
        return open(f"/proc/self/fd/{self._descriptor}", "rb")

    def commit(self, key: str | None = None) -> None:
        """Make the blob durable and visible.

        Raises
        ------
        Unavailable
            The disk is full or fails; nothing is visible then.
        """
        key = self._key if key is None else key
        try:
            self._store.publish(self._descriptor, self._temporary, key)
        except OSError as error:
            self.abort()
            raise _unavailable(error, key) from error
        self._close()

    def abort(self) -> None:
        """Forget the blob."""
        if self._descriptor >= 0 and self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
