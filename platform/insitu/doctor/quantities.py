"""Kubernetes' quantities as numbers, and numbers as a person reads them."""

from __future__ import annotations

import re

from insitu.errors import Invalid

FACTORS = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


def quantity(text: object) -> float:
    """Cores or bytes: `100m` is 0.1, `1Gi` is 1073741824.

    Raises
    ------
    Invalid
        It is no quantity.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    if found is None or found[2] not in FACTORS:
        raise Invalid("This is no quantity of Kubernetes", value=str(text), remedy="For example 500m, 2 or 4Gi")
    return float(found[1]) * FACTORS[found[2]]


def bytes_said(number: float) -> str:
    """Bytes in GB or MB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
