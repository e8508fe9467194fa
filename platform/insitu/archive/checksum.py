"""A checksum at the end of a small document, so that it tells by itself whether it is what was written.

For receipts and the journal, of which no index holds a digest. Not here: objects (insitu.archive.scrub).
"""

from __future__ import annotations

import hashlib


class Damaged(ValueError):
    """The document is not what was written."""


def sealed(document: bytes) -> bytes:
    """The document, which holds no line break, a line break, and its SHA-256 as text."""
    return b"%s\n%s\n" % (document, hashlib.sha256(document).hexdigest().encode())


def opened(content: bytes) -> bytes:
    """The document of `sealed`.

    Raises
    ------
    Damaged
    """
    document = content.partition(b"\n")[0]
    if sealed(document) != content:
        raise Damaged("its checksum does not fit")
    return document
