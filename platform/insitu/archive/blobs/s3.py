"""Blobs as objects of a bucket of an S3 server.

An object on its way in stands in a local file without a name, from which it is read again to examine it; when it is whole it
goes to the server in one request, or in parts where it is large, and is durable once the server says so. Only what versitygw,
SeaweedFS and MinIO have in common is used. Not here: what the server's answers mean (s3_answers) and how a blob is read in
pieces (s3_reading).
"""

from __future__ import annotations

import io
import logging
import os
import ssl
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.error import S3Error
from urllib3.exceptions import ProtocolError
from urllib3.util import Retry, Timeout

from insitu.errors import Invalid, NotFound, Unavailable

from .s3_answers import FAILURES, Bucket, timed_out, translated
from .s3_reading import FIRST, BlobFile
from .store import BlobInfo, check

logger = logging.getLogger(__name__)

UPLOADS_AT_ONCE = 32  # per process; each holds a part of 5 MB, or of a ten-thousandth of the object, in memory
SERVER_WORK = 120.0  # seconds for copying, putting parts together and listing, which the server does before it answers
GIVE_UP_SECONDS = 5.0  # for telling the server that the parts it has are not wanted
UNFINISHED_AFTER = timedelta(days=1)  # the parts of an object that nobody completed
ACCESS_KEY, SECRET_KEY = "object-store-access-key", "object-store-secret-key"


class S3BlobStore:
    """Blobs in a bucket. May be used from several threads, and after a fork.

    Parameters
    ----------
    url : str
        http(s)://HOST[:PORT]/BUCKET.
    spool : Path
        Folder for objects on their way in; made when it is needed.
    secrets : Path
        Folder with the files `object-store-access-key` and `object-store-secret-key`.
    region : str
    ca : Path, optional
        PEM file with the authorities that sign the server's certificate; by default the system's own.
    patience : float
        Seconds the server may take to answer.

    Raises
    ------
    Invalid
        The keys or the authorities cannot be read.
    """

    def __init__(
        self, url: str, spool: Path, *, secrets: Path, region: str = "us-east-1", ca: Path | None = None,
        patience: float = 20.0,
    ) -> None:  # fmt: skip
        parts = urllib.parse.urlsplit(url)
        self._endpoint, self._secure = parts.netloc, parts.scheme == "https"
        self._bucket = parts.path.strip("/")
        self._where = Bucket(self._bucket, f"{parts.scheme}://{parts.netloc}")
        self._region = region
        self._spool = Path(spool)
        self._patience = patience
        self._access, self._secret = (_key(secrets / name) for name in (ACCESS_KEY, SECRET_KEY))
        self._tls = _authorities(ca) if self._secure else None
        self._made: _OfProcess | None = None

    def create(self, key: str) -> S3BlobWriter:
        """Start a blob that will stand under `key`.

        Raises
        ------
        Unavailable
            The local disk does not take it.
        """
        check(key)
        try:
            try:
                file = self._temporary()
            except FileNotFoundError:
                self._spool.mkdir(mode=0o750, parents=True, exist_ok=True)
                file = self._temporary()
        except OSError as error:
            raise _no_spool(error, self._spool) from error
        return S3BlobWriter(self, key, file)

    def put(self, key: str, data: bytes) -> None:
        """Write a small blob in one go."""
        check(key)
        self.upload(key, io.BytesIO(data), len(data))

    def upload(self, key: str, stream: BinaryIO, length: int) -> None:
        """Send `length` bytes of a file to the server. For `S3BlobWriter` and `put`.

        Raises
        ------
        Unavailable
            The server does not take it, or does not answer; whether it holds the object then is not known.
        """
        process = self._process()
        if not process.uploads.acquire(timeout=self._patience):
            raise Unavailable(
                "The object store does not keep up", value=self._where.server,
                why=f"{UPLOADS_AT_ONCE} objects were on their way to it for {self._patience:.0f} s", remedy="Try again",
            )  # fmt: skip
        try:
            with self._answers(key):
                process.client.put_object(self._bucket, key, stream, length, content_type="application/octet-stream")
        finally:
            process.uploads.release()

    def open(self, key: str) -> BinaryIO:
        """The blob as a seekable file, of which some MB at a time are fetched.

        Raises
        ------
        NotFound
            There is none under this key.
        Unavailable
            The server does not answer; so may reading.
        OSError
            The server cannot give it out; so may reading.
        """
        check(key)
        first, size = self.fetch(key, 0, FIRST)
        return cast(BinaryIO, io.BufferedReader(BlobFile(self.fetch, key, size, first), 65_536))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset`, to the end where it is None."""
        check(key)
        if length == 0:
            self.fetch(key, offset, 1)
            return b""
        return self.fetch(key, offset, length)[0]

    def fetch(self, key: str, offset: int, length: int | None) -> tuple[bytes, int]:
        """Bytes of an object and its whole size; fewer bytes only at its end. For `BlobFile` and the methods above."""
        with self._answers(key, reading=True):
            try:
                try:
                    return self._get(key, offset, length)
                except ProtocolError as error:  # the answer broke off in the middle
                    if timed_out(error):
                        raise
                    return self._get(key, offset, length)
            except S3Error as error:
                if error.code != "InvalidRange":
                    raise
                return b"", offset  # it ends here, or before

    def _get(self, key: str, offset: int, length: int | None) -> tuple[bytes, int]:
        answer = self._client().get_object(self._bucket, key, offset=offset, length=length or 0)
        try:
            data = answer.read()
        except BaseException:
            answer.close()
            raise
        answer.release_conn()
        _, _, whole = answer.headers.get("Content-Range", "").rpartition("/")
        return data, int(whole) if whole.isdigit() else offset + len(data)

    def move(self, source: str, target: str) -> None:
        """Give a blob another key: it is copied by the server first, and removed only when the copy is durable.

        In between, and where this fails in between, there are both.
        """
        check(source)
        check(target)
        if source == target:
            self.fetch(source, 0, 1)
            return
        try:
            with self._answers(source):
                copied = self._client().copy_object(self._bucket, target, CopySource(self._bucket, source))
        except NotFound:
            self.fetch(source, 0, 1)  # which tells a missing bucket from a missing blob
            raise
        if not copied.etag:
            raise Unavailable("The object store did not say that it copied a blob", value=source)
        self._remove(source)

    def delete(self, key: str) -> None:
        """Remove a blob; nothing happens where there is none."""
        check(key)
        self._remove(key)

    def _remove(self, key: str) -> None:
        try:
            with self._answers(key):
                self._client().remove_object(self._bucket, key)
        except NotFound:
            return

    def exists(self, key: str) -> bool:
        """Whether there is a blob under `key`."""
        check(key)
        try:
            self.fetch(key, 0, 1)  # an answer to HEAD would not tell a missing bucket from a missing blob
        except NotFound:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """Every blob below the folder `prefix`, in the order of their keys; a thousand at a time are asked for."""
        prefix = prefix.rstrip("/")
        found = self._client().list_objects(self._bucket, f"{prefix}/" if prefix else "", recursive=True)
        while True:
            with self._answers(prefix):
                item = next(found, None)
            if item is None:
                return
            name, modified = item.object_name, item.last_modified
            if name is None or modified is None or name.endswith("/"):
                continue  # a folder, which some servers show
            yield BlobInfo(name, item.size or 0, modified.timestamp())

    def sweep(self) -> int:
        """Remove parts that were sent more than a day ago and never put together; of how many objects."""
        removed, after = 0, None
        oldest = datetime.now(UTC) - UNFINISHED_AFTER
        while True:
            with self._answers(""):
                # The client has these requests, but no name for them that is meant for others.
                found = self._client()._list_multipart_uploads(self._bucket, key_marker=after)
                for upload in found.uploads:
                    if upload.upload_id and upload.initiated_time is not None and upload.initiated_time < oldest:
                        removed += self._forget(upload.object_name, upload.upload_id)
            after = found.next_key_marker
            if not found.is_truncated or not after:
                return removed

    def _forget(self, key: str, upload: str) -> bool:
        try:
            self._client()._abort_multipart_upload(self._bucket, key, upload)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            return False  # somebody else did
        return True

    def has_bucket(self) -> bool:
        """Whether the bucket is there.

        Raises
        ------
        Unavailable
            The server does not answer, or refuses us.
        """
        with self._answers(""):
            return self._client().bucket_exists(self._bucket)

    def make_bucket(self) -> None:
        """Make the bucket, where it is not there."""
        with self._answers(""):
            try:
                self._client().make_bucket(self._bucket)
            except S3Error as error:
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    @contextmanager
    def _answers(self, key: str, *, reading: bool = False) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise translated(error, self._where, key, reading=reading) from error

    def _temporary(self) -> Any:
        return tempfile.TemporaryFile(dir=self._spool, buffering=0)

    def _client(self) -> Minio:
        return self._process().client

    def _process(self) -> _OfProcess:
        """What is this process's own: neither connections nor locks may be shared over a fork."""
        made = self._made
        if made is None or made.pid != os.getpid():
            made = self._made = _OfProcess(os.getpid(), self._connect(), threading.BoundedSemaphore(UPLOADS_AT_ONCE))
        return made

    def _connect(self) -> Minio:
        # It would write a line for each attempt that is made again; what comes of it is told by our errors.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        options: dict[str, Any] = {"ssl_context": self._tls} if self._tls else {}
        return Minio(
            self._endpoint, access_key=self._access, secret_key=self._secret, secure=self._secure, region=self._region,
            http_client=_Connections(self._patience, num_pools=1, maxsize=256, retries=_AGAIN, **options),
        )  # fmt: skip


@dataclass(frozen=True)
class _OfProcess:
    pid: int
    client: Minio
    uploads: threading.BoundedSemaphore


class S3BlobWriter:
    """An object being written for an `S3BlobStore`."""

    def __init__(self, store: S3BlobStore, key: str, file: Any) -> None:
        self._store = store
        self._key = key
        self._file = file
        self._written = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`.

        Raises
        ------
        Unavailable
            The local disk is full or fails.
        """
        try:
            written: int = self._file.write(data)
            while written < len(data):
                written += self._file.write(memoryview(data)[written:])
        except OSError as error:
            raise _no_spool(error, self._store._spool) from error
        self._written += written

    def contents(self) -> BinaryIO:
        """What has been written so far, as a seekable file."""
        return open(f"/proc/self/fd/{self._file.fileno()}", "rb")

    def commit(self, key: str | None = None) -> None:
        """Make the object durable and visible.

        Raises
        ------
        Unavailable
            The server does not take it. Where it did not answer, the object may come to be all the same, under a key that
            nobody knows; a scrub removes it.
        """
        key = self._key if key is None else key
        check(key)
        try:
            self._file.seek(0)
            self._store.upload(key, self._file, self._written)
        except OSError as error:
            raise _no_spool(error, self._store._spool) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Forget the object."""
        self._file.close()


class _Again(Retry):
    """Few and quick retries of what may be repeated; none after a time-out, which was long enough."""

    def increment(self, *arguments: Any, **options: Any) -> Self:
        error = options.get("error")
        if error is not None and timed_out(error):
            raise error
        return super().increment(*arguments, **options)


_AGAIN = _Again(
    total=3, connect=1, read=1, status=2, other=0, redirect=0, backoff_factor=0.2, backoff_max=1,
    status_forcelist={500, 502, 503, 504}, allowed_methods={"GET", "HEAD", "PUT", "DELETE"}, raise_on_status=False,
    respect_retry_after_header=False,
)  # fmt: skip


class _Connections(urllib3.PoolManager):
    """Connections that wait as long as the request deserves."""

    def __init__(self, patience: float, **options: Any) -> None:
        super().__init__(**options)
        self._patience = patience

    def urlopen(self, method: str, url: str, redirect: bool = True, **options: Any) -> urllib3.BaseHTTPResponse:  # type: ignore[override]
        seconds = self._patience
        query = urllib.parse.urlsplit(url).query
        completing = method == "POST" and "uploadId=" in query
        listing = method == "GET" and ("list-type=" in query or "uploads" in query)
        if completing or listing or "x-amz-copy-source" in (options.get("headers") or {}):
            seconds = max(seconds, SERVER_WORK)
        elif method == "DELETE" and "uploadId=" in query:
            seconds = min(seconds, GIVE_UP_SECONDS)
        # The first also bounds the sending of a part on a new connection.
        options["timeout"] = Timeout(connect=min(self._patience, seconds) / 2, read=seconds)
        return super().urlopen(method, url, redirect=redirect, **options)


def _key(file: Path) -> str:
    try:
        text = file.read_text().strip()
    except OSError as error:
        raise Invalid(
            "A key of the object store cannot be read",
            value=str(file),
            why=error.strerror,
            remedy="Write the key into that file, readable only for the platform's user",
        ) from error
    if not text:
        raise Invalid("A key of the object store is empty", value=str(file), remedy="Write the key into that file")
    return text


def _authorities(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # also what is no certificate
        raise Invalid(
            "The authorities of the object store's certificate cannot be read",
            value=str(ca),
            why=error.strerror or str(error),
            remedy="Correct object_store_ca: a PEM file with certificates",
        ) from error


def _no_spool(error: OSError, folder: Path) -> Unavailable:
    return Unavailable(
        "The disk does not take an object on its way to the object store",
        value=str(folder),
        why=error.strerror or str(error),
        remedy="Look at the disk of the home",
    )
