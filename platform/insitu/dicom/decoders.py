"""Which compressed transfer syntaxes can be decoded here. Not here: decoding."""

from __future__ import annotations


def decodable(transfer_syntax_uid: str) -> bool:
    """Whether a decoder for the pixel data of a compressed transfer syntax is installed."""
    from pydicom.pixels import get_decoder  # not before it is asked for: it loads every decoder
    from pydicom.uid import UID

    try:
        return bool(get_decoder(UID(transfer_syntax_uid)).is_available)
    except NotImplementedError:  # pydicom knows of none
        return False
