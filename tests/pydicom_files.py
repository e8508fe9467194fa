"""pydicom's test files: those it brings along and those of the package pydicom-data, what each is refused for, its metadata.

Not here: storing and fetching them (the tests of the receiver and of DICOMweb).
"""

from __future__ import annotations

import base64
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data_store  # of pydicom-data
import pydicom
import pydicom.data

from insitu.archive.classes import storage_classes
from insitu.archive.examine import parse_meta
from insitu.archive.levels import storable
from insitu.archive.metadata import BULK_LIMIT

FOLDERS = (Path(pydicom.data.__file__).parent / "test_files", Path(data_store.__file__).parent / "data")
NO_OBJECT = {".txt", ".json", ".dump", ".gz", ".icc"}  # and the file README of a file set
PIXELS = ("7FE00008", "7FE00009", "7FE00010")
PIXEL_DATA = PIXELS[-1]
NO_UID = "UID is missing"
NO_META = "this is not a DICOM file"
# Why a file is refused, on whatever way it comes. All others are stored.
REFUSED = {
    "DICOMDIR": NO_UID,  # the directory of a file set is no composite object
    "DICOMDIR-bigEnd": NO_UID,
    "DICOMDIR-empty.dcm": NO_UID,
    "DICOMDIR-implicit": NO_UID,
    "DICOMDIR-nooffset": NO_UID,
    "DICOMDIR-nopatient": NO_UID,
    "DICOMDIR-reordered": NO_UID,
    "JPEGLSNearLossless_08.dcm": NO_UID,
    "JPEGLSNearLossless_16.dcm": NO_UID,
    "SC_rgb_jls_lossy_line.dcm": NO_UID,
    "SC_rgb_jls_lossy_sample.dcm": NO_UID,
    "UN_sequence.dcm": NO_UID,
    "empty_charset_LEI.dcm": NO_UID,
    "nested_priv_SQ.dcm": NO_UID,
    "no_meta_group_length.dcm": NO_UID,
    "priv_SQ.dcm": NO_UID,
    "meta_missing_tsyntax.dcm": "names no transfer syntax",
    "SC_rgb_jpeg.dcm": "it is in implicit VR",  # says JPEG, which is explicit
    "MR_truncated.dcm": "truncated",
    "bad_sequence.dcm": "SOP Instance UID is malformed",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "truncated",
    "rtplan_truncated.dcm": "truncated",
}
# Data sets without preamble and file meta information are no DICOM files; by C-STORE, in the syntax named here, they come whole.
BARE = {
    "ExplVR_BigEndNoMeta.dcm": "1.2.840.10008.1.2.2",
    "ExplVR_LitEndNoMeta.dcm": "1.2.840.10008.1.2.1",
    "OT-PAL-8-face.dcm": "1.2.840.10008.1.2",
    "no_meta.dcm": "1.2.840.10008.1.2",
    "rtstruct.dcm": "1.2.840.10008.1.2",
}


# Where pydicom leaves a whole sequence out because of one value in it that breaks its VR, ours leaves out that value.
MORE_THAN_PYDICOM = dict.fromkeys(
    (
        "badVR.dcm", "rtdose.dcm", "rtdose_1frame.dcm", "rtdose_expb.dcm", "rtdose_expb_1frame.dcm", "rtdose_rle.dcm",
        "rtdose_rle_1frame.dcm",
    ),
    ("300C0002",),
)  # fmt: skip


@dataclass(frozen=True)
class File:
    """One of the files."""

    path: Path

    @property
    def content(self) -> bytes:
        """All its bytes."""
        return self.path.read_bytes()

    @property
    def bare(self) -> bool:
        """Whether it is a data set without file meta information."""
        return self.path.name in BARE

    @property
    def refusal(self) -> str | None:
        """Words of the reason it is refused for as a file (STOW-RS, import); None where it is stored."""
        return NO_META if self.bare else REFUSED.get(self.path.name)

    @property
    def data_set(self) -> bytes:
        """The bytes after the file meta information."""
        content = self.content
        if self.bare:
            return content
        parsed = parse_meta(content, whole=True)
        assert parsed is not None
        return content[parsed[0] :]

    @property
    def transfer_syntax_uid(self) -> str:
        """The transfer syntax; empty where the file names none."""
        if self.bare:
            return BARE[self.path.name]
        return str(self.header().file_meta.get("TransferSyntaxUID", ""))

    def header(self) -> pydicom.Dataset:
        """What stands before the pixel data, also of a file that is cut off there."""
        return pydicom.dcmread(self.path, stop_before_pixels=True, force=True)

    def read(self) -> pydicom.Dataset:
        """As pydicom reads it."""
        return pydicom.dcmread(self.path, force=True)

    def has_storage_class(self) -> bool:
        """Whether it names a SOP class that C-STORE can be negotiated for, and an instance."""
        read = self.header()
        return str(read.get("SOPClassUID", "")) in storage_classes() and bool(read.get("SOPInstanceUID"))


def files() -> list[File]:
    """Every file that is meant to be DICOM, once for each content."""
    found: dict[bytes, File] = {}
    for path in (path for folder in FOLDERS for path in sorted(folder.rglob("*"))):
        if path.is_file() and path.suffix not in NO_OBJECT and path.name not in ("README", "__init__.py"):
            found.setdefault(path.read_bytes(), File(path))
    return list(found.values())


def expected_metadata(file: File) -> dict[str, Any]:
    """pydicom's DICOM JSON of a file with our rules of bulk data: pixel data and what is longer than `BULK_LIMIT` by address."""
    read = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        document = read.to_json_dict(bulk_data_threshold=1 << 40, suppress_invalid_tags=True)
    expected: dict[str, Any] = storable(without_bulk(document))
    return expected


def comparable(document: dict[str, Any], file: File) -> dict[str, Any]:
    """Our metadata of a file in the form of `expected_metadata`."""
    more = MORE_THAN_PYDICOM.get(file.path.name, ())
    return {tag: element for tag, element in without_bulk(document).items() if tag not in more}


def without_bulk(document: dict[str, Any]) -> dict[str, Any]:
    """DICOM JSON in which bulk data says only that it is there.

    Left out is what no metadata of ours has: group lengths, file meta information, and what follows the pixel data (padding and
    digital signatures), as metadata is read up to there.
    """
    kept: dict[str, Any] = {}
    for tag, element in document.items():
        if tag.endswith("0000") or tag.startswith("0002") or tag > PIXEL_DATA:
            continue
        if "BulkDataURI" in element:
            kept[tag] = {"vr": element["vr"], "BulkDataURI": True}
        elif element["vr"] == "SQ":
            items = [without_bulk(item) for item in element.get("Value", [])]
            kept[tag] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
        elif "InlineBinary" in element and (
            len(base64.b64decode(element["InlineBinary"])) > BULK_LIMIT or tag in PIXELS
        ):
            kept[tag] = {"vr": element["vr"], "BulkDataURI": True}
        elif len(element.get("Value", [])) > 1:  # an empty value among others is null in JSON (PS3.18 F.2.5)
            kept[tag] = element | {"Value": [None if value == "" else value for value in element["Value"]]}
        else:
            kept[tag] = element
    return kept
