"""UIDs that follow from names: the same parts always give the same UID, on every machine.

Not here: the UIDs of received objects, which are never changed.
"""

from __future__ import annotations

import hashlib
import uuid

NAMESPACE = "insitu"


def derive(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) from a SHA-256 over `parts`; at most 44 characters.

    Parameters
    ----------
    parts : str
        What names the thing, for example execution, output, "series". ("a", "bc") and ("ab", "c") differ.

    Returns
    -------
    str
        2.25 followed by the decimal form of a name-based UUID.
    """
    digest = hashlib.sha256()
    for part in (NAMESPACE, *parts):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    # Version 8 (RFC 9562) is the one for hashes of one's own choice.
    value = bytearray(digest.digest()[:16])
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    return f"2.25.{uuid.UUID(bytes=bytes(value)).int}"
