"""What cannot be archived is kept aside whole, with a reason a person understands, and never enters the index."""

from __future__ import annotations

import io
import resource
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom.data
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    generate_uid,
)

from insitu.archive.blobs import FileBlobStore
from insitu.archive.examine import Examination, Unfit, parse_meta
from insitu.archive.store import Archive, Outcome, Receipt, Stored
from insitu.database import Database

SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]


@pytest.fixture
def refused(database: Database, blobs: FileBlobStore, receipt: Receipt, store: Store) -> Callable[..., str]:
    """Stores what must be quarantined, checks that it is kept and nothing else changed; the reason."""

    def check(file: bytes, **said: str) -> str:
        with database.transaction() as connection:
            before = connection.execute("SELECT count(*) AS n FROM instance").fetchone()
            studies = connection.execute("SELECT count(*) AS n FROM study").fetchone()
        stored = store(receipt, file, **said)
        assert (stored.outcome, stored.success) == (Outcome.QUARANTINED, False), stored
        with database.transaction() as connection:
            assert connection.execute("SELECT count(*) AS n FROM instance").fetchone() == before
            assert connection.execute("SELECT count(*) AS n FROM study").fetchone() == studies
            row = connection.execute("SELECT * FROM quarantine ORDER BY at DESC, blob_key DESC LIMIT 1").fetchone()
        assert row is not None
        assert row["reason"] == stored.reason
        kept = blobs.read(row["blob_key"])
        assert kept.endswith(file)
        assert len(kept) == row["size"]
        assert "Jörg" not in row["reason"]
        return str(stored.reason)

    return check


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("missing", [1, 100, 300])
def test_a_truncated_object_is_not_archived(
    syntax: str, missing: int, refused: Callable[..., str], make: Make, encode: Encode
) -> None:
    assert "truncated" in refused(encode(make(), syntax)[:-missing])


def test_every_cut_within_an_element_is_noticed(make: Make, encode: Encode) -> None:
    made = make()
    item = Dataset()
    item.CodeValue = "1"
    made.ProcedureCodeSequence = [item]
    made["ProcedureCodeSequence"].is_undefined_length = True
    file = encode(made)
    unnoticed = []
    for length in range(len(file)):
        examination = Examination()
        examination.feed(file[:length])
        try:
            examination.finish(lambda: pytest.fail("the tolerant reader is not for this"))
        except Unfit:
            continue
        unnoticed.append(length)
    # A cut between two elements cannot be told from a shorter object. Those after the last UID are unnoticed.
    read = pydicom.dcmread(io.BytesIO(file))
    starts = [
        element.value_tell - (12 if element.VR in ("OB", "OW") else 8)
        for element in read.elements()
        if isinstance(element, RawDataElement)
    ]
    assert set(unnoticed) <= set(starts)
    assert len(unnoticed) < 20


def test_a_truncated_deflated_object_is_not_archived(refused: Callable[..., str], make: Make, encode: Encode) -> None:
    assert "truncated" in refused(encode(make(), DeflatedExplicitVRLittleEndian)[:-20])


def test_encapsulated_pixel_data_without_its_end_is_not_archived(refused: Callable[..., str]) -> None:
    whole = (SHIPPED / "693_J2KI.dcm").read_bytes().rstrip(b"\0")
    assert "truncated" in refused(whole[: len(whole) // 2])
    assert "truncated" in refused((SHIPPED / "MR_truncated.dcm").read_bytes())


def test_what_is_no_dicom_at_all_is_not_archived(refused: Callable[..., str]) -> None:
    assert "empty" in refused(b"")
    assert "not a DICOM file" in refused(b"To whom it may concern\n" * 50)
    assert "not a DICOM file" in refused(b"short")
    assert "names no transfer syntax" in refused(b"\0" * 128 + b"DICM")


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_an_object_without_its_uids_is_not_archived(
    keyword: str, refused: Callable[..., str], make: Make, encode: Encode
) -> None:
    assert "is missing" in refused(encode(make(**{keyword: None})))
    assert "is empty" in refused(encode(make(**{keyword: ""})))
    good = make()
    value = str(good[keyword].value)
    file = encode(good)
    where = file.rindex(value.encode())  # the last is the one in the data set

    def put(text: bytes) -> bytes:
        return file[:where] + text.ljust(len(value))[: len(value)] + file[where + len(value) :]

    assert "is malformed" in refused(put(b"1.2.drop table"))
    assert "is malformed" in refused(put(b"1..2"))
    assert "is malformed" in refused(put(b"1.2\\1.3"))


def test_a_uid_that_is_too_long_is_not_archived(refused: Callable[..., str], make: Make, encode: Encode) -> None:
    made = make()
    made.add_new(0x0020000E, "UI", "1." + "2" * 90)
    assert "longer than 64" in refused(encode(made))
    made.add_new(0x0020000E, "UI", "1." + "2" * 20_000)
    assert "longer than 64" in refused(encode(made))


def test_a_data_set_that_is_not_what_the_sender_said_is_not_archived(
    refused: Callable[..., str], make: Make, encode: Encode
) -> None:
    made = make()
    file = encode(made)
    parsed = parse_meta(file, whole=True)
    assert parsed is not None
    bare = file[parsed[0] :]
    said = {"transfer_syntax_uid": ExplicitVRLittleEndian, "sop_class_uid": made.SOPClassUID}
    assert "SOP Instance UID" in refused(bare, **said, sop_instance_uid=generate_uid())
    said["sop_class_uid"] = "1.2.840.10008.5.1.4.1.1.4"
    assert "SOP Class UID" in refused(bare, **said, sop_instance_uid=made.SOPInstanceUID)


@pytest.mark.parametrize(
    ("real", "said"),
    [
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ExplicitVRBigEndian),
        (ExplicitVRBigEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, JPEGBaseline8Bit),
    ],
)
def test_a_wrong_transfer_syntax_is_noticed(
    real: str, said: str, refused: Callable[..., str], make: Make, encode: Encode
) -> None:
    made = make()
    file = encode(made, real)
    parsed = parse_meta(file, whole=True)
    assert parsed is not None
    reason = refused(
        file[parsed[0] :], transfer_syntax_uid=said, sop_class_uid=made.SOPClassUID,
        sop_instance_uid=made.SOPInstanceUID,
    )  # fmt: skip
    assert "transfer syntax" in reason or "inflated" in reason


def test_a_series_cannot_move_to_another_study(
    receipt: Receipt, store: Store, refused: Callable[..., str], make: Make, encode: Encode, archive: Archive
) -> None:
    made = make()
    store(receipt, encode(made))
    known = made.StudyInstanceUID
    made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID = generate_uid()
    file = encode(made)
    assert f"another study: {known}" in refused(file)
    archive.series_seen.forget(made.SeriesInstanceUID)  # as in a process that sees the series for the first time
    assert f"another study: {known}" in refused(file)


def test_a_deflated_bomb_costs_no_memory(refused: Callable[..., str], make: Make, encode: Encode) -> None:
    file = encode(make(), DeflatedExplicitVRLittleEndian)
    parsed = parse_meta(file, whole=True)
    assert parsed is not None
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # A private element of half a gigabyte of zeros, which then ends too soon.
    packed = packer.compress(b"\x09\x00\x10\x10OB\0\0" + (1 << 30).to_bytes(4, "little"))
    for _ in range(512):
        packed += packer.compress(bytes(1 << 20))
    packed += packer.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "truncated" in refused(file[: parsed[0]] + packed)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kilobytes
