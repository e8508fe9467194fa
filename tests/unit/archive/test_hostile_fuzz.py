"""Real objects with bytes changed: the examination refuses or accepts them, and what it accepts pydicom reads alike.

The examples of an ordinary run are always the same; INSITU_FUZZ=N tries N of them, new ones each time.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import warnings
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insitu.archive import levels, patient
from insitu.archive.examine import PREAMBLE, Examination, Identity, Unfit, file_meta, parse_meta
from insitu.archive.metadata import instance_metadata
from insitu.archive.tolerant import FAILURES
from insitu.errors import Invalid

LONG = int(os.environ.get("INSITU_FUZZ", "0"))
FOLDER = Path(pydicom.data.__file__).parent / "test_files"
# One of each kind: byte orders, VR implicit and explicit, deflated, encapsulated, sequences of both kinds, private ones.
FILES = {
    name: (FOLDER / name).read_bytes()
    for name in (
        "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "rtplan.dcm",
        "reportsi.dcm", "test-SR.dcm", "badVR.dcm", "SC_rgb_small_odd.dcm", "SC_rgb_small_odd_jpeg.dcm", "nested_priv_SQ.dcm",
        "no_meta_group_length.dcm", "meta_missing_tsyntax.dcm", "liver_1frame.dcm",
    )
}  # fmt: skip
LENGTHS = (0, 1, 7, 8, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
HEADER = 4000  # bytes in which most changes are made
NAMING = (0x00080005, 0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00100020)  # and how their text is to be read


class Blobs:
    """A blob store of one object."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, key: str) -> io.BytesIO:
        """The object."""
        return io.BytesIO(self.content)


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A real file with some bytes, lengths or ranges changed, or cut off."""
    data = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))])
    for _ in range(draw(st.integers(1, 6))):
        where = draw(st.sampled_from(("what names it", "its header", "anywhere")))
        at = draw(st.integers(128, max(128, min(len(data), HEADER if where == "its header" else 1 << 30) - 1)))
        if where == "what names it":
            found = data.find(struct.pack("<HH", *divmod(draw(st.sampled_from(NAMING)), 1 << 16)), PREAMBLE)
            at = found + draw(st.integers(-8, 16)) if found > 0 else at
        change = draw(
            st.sampled_from(
                ("byte", "zero", "length", "short length", "tag", "vr", "cut", "remove", "double", "again", "end")
            )
        )
        if change == "byte":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif change == "zero":
            data[at : at + 2] = bytes(2)
        elif change == "again":
            tag = draw(st.sampled_from(NAMING))
            data[at:at] = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"UI", 8) + b"1.2.3.4\0"
        elif change == "length":
            data[at : at + 4] = struct.pack("<I", draw(st.sampled_from(LENGTHS)))
        elif change == "short length":
            data[at : at + 2] = struct.pack("<H", draw(st.integers(0, 0xFFFF)))
        elif change == "tag":
            tag = draw(st.sampled_from((0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010, 0x0020000D, 0x00080018, 0)))
            data[at : at + 4] = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        elif change == "vr":
            data[at : at + 2] = draw(st.sampled_from((b"SQ", b"UN", b"OB", b"UI", b"LO", b"??", b"\0\0")))
        elif change == "cut":
            del data[at:]
        elif change == "remove":
            del data[at : at + draw(st.integers(1, 64))]
        elif change == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        else:
            data += draw(st.binary(max_size=16))
    return bytes(data)


def examined(file: bytes, step: int, *, bare: bool) -> tuple[Identity, bytes] | None:
    """Identity and the file as it would be kept; None where the object is refused with a reason."""
    kept = file
    examination = Examination()
    if bare:
        try:
            parsed = parse_meta(file, whole=True)
        except Unfit:
            return None
        assert parsed is not None
        syntax = parsed[1].get(0x00020010, b"1.2.840.10008.1.2").decode("latin-1").strip(" \0")
        file = file[parsed[0] :]
        kept = file_meta(syntax, "", "", None) + file
        examination = Examination(syntax)
    for start in range(0, len(file), step):
        examination.feed(memoryview(file)[start : start + step])
    try:
        return examination.finish(lambda: io.BytesIO(kept)), kept
    except Unfit:
        return None


def patient_ids(read: pydicom.Dataset) -> list[str]:
    """The Patient ID as pydicom reads it, in its parts where backslashes stand in it."""
    value = read.get("PatientID") or ""
    return [value] if isinstance(value, str) else list(value)


@settings(
    max_examples=LONG or 400, deadline=None, derandomize=not LONG, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(file=broken(), step=st.sampled_from((1 << 20, 4096, 61)), bare=st.booleans())
def test_what_is_accepted_is_read_alike_by_pydicom(file: bytes, step: int, bare: bool) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = examined(file, step, bare=bare)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kilobytes
        if taken is None:
            return
        identity, kept = taken
        row = {"blob_key": "x", "sop_instance_uid": identity.sop_instance_uid}
        try:
            read = pydicom.dcmread(io.BytesIO(kept), force=True)
        except (
            FAILURES
        ):  # something inside a sequence that was skipped by its length: whoever asks for metadata is told
            with pytest.raises(Invalid):
                instance_metadata(Blobs(kept), row)  # type: ignore[arg-type]
            return
        for keyword, uid in (
            ("SOPClassUID", identity.sop_class_uid),
            ("SOPInstanceUID", identity.sop_instance_uid),
            ("StudyInstanceUID", identity.study_instance_uid),
            ("SeriesInstanceUID", identity.series_instance_uid),
        ):
            assert str(read[keyword].value) == uid, keyword
        assert patient.read(identity) == levels.storable("\\".join(filter(None, patient_ids(read))))
        for tags in (levels.STUDY_LEVEL, levels.SERIES_LEVEL):
            assert isinstance(levels.attributes(identity.values, identity.syntax, tags), dict)
        try:
            document = instance_metadata(Blobs(kept), row)  # type: ignore[arg-type]
        except Invalid:
            return  # told to the administrator; the object itself is kept and can be retrieved
        assert document["00080018"]["Value"] == [identity.sop_instance_uid]
