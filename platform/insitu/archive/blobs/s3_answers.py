"""What an S3 server's refusal or silence means: which error, why, and what to do. No key or secret stands in it."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ProtocolError, SSLError
from urllib3.exceptions import TimeoutError as Urllib3Timeout

from insitu.errors import NotFound, Unavailable

# ValueError and SyntaxError (of XML) are the client's words for an answer that is none.
FAILURES = (MinioException, HTTPError, ValueError, SyntaxError)

_KEYS = {
    "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "ExpiredToken",
    "InvalidToken", "AccountProblem", "AllAccessDisabled", "MissingSecurityHeader",
}  # fmt: skip
_FULL = {
    "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded",
    "BucketQuotaExceeded", "NoSpaceLeftOnDevice",
}  # fmt: skip
_BUSY = {"SlowDown", "ServiceUnavailable", "TooManyRequests", "RequestTimeout", "XMinioServerNotInitialized"}
_CLOCK = {"RequestTimeTooSkewed"}


@dataclass(frozen=True)
class Bucket:
    """A bucket and its server, as they are named in messages."""

    name: str
    server: str


def code_of(error: BaseException) -> tuple[str, int]:
    """The server's word and HTTP status for what it refused; an empty word and 0 where there is none."""
    if isinstance(error, S3Error):
        return error.code or "", getattr(error.response, "status", 0)
    if isinstance(error, ServerError):
        return "", error.status_code
    if isinstance(error, InvalidResponseError):
        return "", int(error._code)
    return "", 0


def timed_out(error: BaseException) -> bool:
    """Whether somebody waited for the server for as long as he may."""
    if isinstance(error, NewConnectionError):
        return False  # refused at once, though it counts as a time-out in the client's own tree
    if isinstance(error, Urllib3Timeout | TimeoutError):
        return True
    return isinstance(error, ProtocolError) and any(isinstance(each, TimeoutError) for each in error.args)


def translated(error: BaseException, bucket: Bucket, key: str, *, reading: bool = False) -> Exception:
    """The platform's error for one of `FAILURES`.

    Parameters
    ----------
    error : BaseException
    bucket : Bucket
    key : str
        The blob that was asked for.
    reading : bool
        Whether it was read: then a failure of this one object alone is an OSError, as of a disk.
    """
    code, status = code_of(error)
    if code == "NoSuchKey":
        return NotFound(
            "A blob is missing", value=key, remedy="Run `insitu scrub` to see whether others are missing too"
        )
    if code == "NoSuchBucket":
        return Unavailable(
            "The object store has no such bucket",
            value=bucket.name,
            why=f"{bucket.server} says so",
            remedy="Correct object_store, or make the bucket",
        )
    if code in _CLOCK:
        return Unavailable(
            "The object store and this machine do not agree on the time",
            value=bucket.server,
            why=code,
            remedy="Set the clocks by NTP",
        )
    if code in _FULL or status == 507:
        return Unavailable(
            "The object store is full", value=bucket.name, why=code or f"HTTP {status}", remedy="Make room there"
        )
    if code in _KEYS or status in (401, 403):
        return Unavailable(
            "The object store refuses us",
            value=bucket.name,
            why=code or f"HTTP {status}",
            remedy="See that secrets/object-store-access-key and -secret-key are its keys and may read, write, list and"
            " delete in the bucket",
        )
    if code in _BUSY or status in (429, 502, 503, 504):
        return Unavailable(
            "The object store is too busy, or not up",
            value=bucket.server,
            why=code or f"HTTP {status}",
            remedy="Try again",
        )
    if status and reading:
        return OSError(errno.EIO, f"the object store cannot give it out ({code or f'HTTP {status}'})", key)
    if status:
        return Unavailable(
            "The object store did not do it",
            value=key or bucket.name,
            why=f"it says {code or f'HTTP {status}'}",
            remedy="Look at the log of the object store",
        )
    return _no_answer(error, bucket)


def _no_answer(error: BaseException, bucket: Bucket) -> Unavailable:
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
    if isinstance(reason, SSLError):
        return Unavailable(
            "The certificate of the object store is not accepted",
            value=bucket.server,
            why=str(reason.args[0]) if reason.args else None,
            remedy="See object_store_ca, and whether the certificate names that host",
        )
    if timed_out(reason):
        why = "it was waited for in vain"
    elif isinstance(reason, NewConnectionError):
        why = "it cannot be connected to"
    elif isinstance(reason, ProtocolError):
        why = "it ended the connection"
    else:
        why = f"its answer is not understood ({type(reason).__name__})"
    return Unavailable(
        "The object store does not answer",
        value=bucket.server,
        why=why,
        remedy="It is used again as soon as it is back",
    )
