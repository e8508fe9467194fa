"""Every error the platform raises on purpose, as one tree.

    InsituError
    ├── Invalid            the request or file is wrong; the caller can mend it          422
    ├── Unauthenticated    nobody is logged in                                           401
    ├── Forbidden          the principal may not do this                                 403
    ├── NotFound           it does not exist, or the caller may not know that it does    404
    ├── Conflict           it contradicts what is already there                          409
    └── Unavailable        a resource is missing just now; trying again can help         503

An error says what went wrong, which value, why, and what to do. It never holds patient data.
"""

from __future__ import annotations


class InsituError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what : str
        What went wrong, one sentence.
    value : str, optional
        The offending value.
    why : str, optional
        The reason.
    remedy : str, optional
        What the reader can do about it.
    """

    status = 500
    slug = "error"

    def __init__(
        self, what: str, *, value: str | None = None, why: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.value = value
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        text = self.what.rstrip(".")
        if self.value is not None:
            text += f": {self.value!r}"
        if self.why:
            text += f". {self.why.rstrip('.')}"
        if self.remedy:
            text += f". {self.remedy.rstrip('.')}"
        return text + "."

    def problem(self) -> dict[str, object]:
        """The error as an RFC 9457 problem document."""
        document: dict[str, object] = {
            "type": f"urn:insitu:problem:{self.slug}",
            "title": self.what,
            "status": self.status,
            "detail": str(self),
        }
        for name in ("value", "why", "remedy"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        return document


class Invalid(InsituError):
    """The request, file or setting is wrong and the caller can mend it."""

    status = 422
    slug = "invalid"


class Unauthenticated(InsituError):
    """No valid credential came with the request."""

    status = 401
    slug = "unauthenticated"


class Forbidden(InsituError):
    """The principal may not do this."""

    status = 403
    slug = "forbidden"


class NotFound(InsituError):
    """The thing does not exist, or the caller may not know that it does."""

    status = 404
    slug = "not-found"


class Conflict(InsituError):
    """The request contradicts what is already there."""

    status = 409
    slug = "conflict"


class Unavailable(InsituError):
    """Something needed is missing just now (disk, database, engine); trying again can help."""

    status = 503
    slug = "unavailable"
