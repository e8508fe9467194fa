"""Transfer syntaxes by what they mean for pixel data (PS3.5 10, PS3.6 A). Not here: which of them can be decoded (decoders)."""

from __future__ import annotations

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"

VIDEO = frozenset(
    f"1.2.840.10008.1.2.4.{number}"
    for number in ("100", "100.1", "101", "101.1", "102", "102.1", "103", "103.1", "104", "104.1", "105", "105.1", "106",
                   "106.1", "107", "108")
)  # fmt: skip

# What is stored in one of these may have lost something already: JPEG baseline and extended, JPEG-LS near-lossless, JPEG 2000,
# HTJ2K and JPEG XL without "lossless" in their name, and every video.
LOSSY = VIDEO | frozenset(
    f"1.2.840.10008.1.2.4.{number}" for number in ("50", "51", "81", "91", "93", "111", "112", "203")
)
