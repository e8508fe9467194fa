"""Which SOP classes are storage, known ones and those a site lets in, and which of them hold an image. Pure.

Not here: what a peer may propose beside storage (the receiver's negotiation).
"""

from __future__ import annotations

import functools

from pydicom.uid import UID_dictionary

# "Storage" stands in their names too, but they store no composite object.
_NOT_STORAGE = ("Storage Commitment", "Media Storage Directory", "Storage Management")
_IMAGES_BY_OTHER_NAMES = (
    "Segmentation Storage",
    "Label Map Segmentation Storage",
    "RT Dose Storage",
    "Parametric Map Storage",
)


@functools.cache
def storage_classes() -> frozenset[str]:
    """UIDs of every storage SOP class in pydicom's dictionary, retired ones too."""
    return frozenset(
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and not any(other in name for other in _NOT_STORAGE)
    )


@functools.cache
def image_classes() -> frozenset[str]:
    """UIDs of the storage SOP classes whose objects must have pixel data where they have rows and columns."""
    names = {uid: UID_dictionary[uid][0] for uid in storage_classes()}
    return frozenset(uid for uid, name in names.items() if "Image Storage" in name or name in _IMAGES_BY_OTHER_NAMES)


def storable(sop_class_uid: str, *, accept_unknown: bool) -> bool:
    """Whether objects of a SOP class are archived.

    Parameters
    ----------
    sop_class_uid : str
    accept_unknown : bool
        The site takes classes that pydicom does not know: private ones, and those newer than it.
    """
    return sop_class_uid in storage_classes() or (accept_unknown and sop_class_uid not in UID_dictionary)
