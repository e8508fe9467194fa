"""Objects that lie, contradict the archive or are cut at the worst place: kept aside with a reason, or taken without harm."""

from __future__ import annotations

import hashlib
import io
import logging
import resource
import struct
from collections.abc import Callable

import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    UID_dictionary,
    generate_uid,
)

from insitu.archive import metadata, quarantine, search_sql
from insitu.archive.blobs import FileBlobStore
from insitu.archive.classes import image_classes, storage_classes
from insitu.archive.examine import Examination, Unfit, file_meta, parse_meta
from insitu.archive.header import DEPTH_LIMIT
from insitu.archive.outcome import Outcome, Stored
from insitu.archive.receipts import Receipt
from insitu.archive.search import Condition, Level, Search
from insitu.archive.store import Archive
from insitu.database import Database
from insitu.settings import Settings

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Store = Callable[..., Stored]
Refused = Callable[[Stored, bytes], str]

ITEM, ITEM_END, SEQUENCE_END = ((0xFFFE, number) for number in (0xE000, 0xE00D, 0xE0DD))
UNDEFINED = 0xFFFFFFFF


def bare(file: bytes) -> bytes:
    """The data set of a file."""
    parsed = parse_meta(file, whole=True)
    assert parsed is not None
    return file[parsed[0] :]


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """An element in explicit VR little endian, with a length of its own where one is given."""
    size = len(value) if length is None else length
    if vr in (b"SQ", b"OB", b"OW", b"UN", b"UT"):
        return struct.pack("<HH2sHI", group, number, vr, 0, size) + value
    return struct.pack("<HH2sH", group, number, vr, size) + value


def before_pixels(file: bytes, more: bytes) -> bytes:
    """The file with bytes put in before its pixel data."""
    at = file.rindex(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    return file[:at] + more + file[at:]


@pytest.fixture
def refused(database: Database, blobs: FileBlobStore, caplog: pytest.LogCaptureFixture) -> Refused:
    """Checks that an object was quarantined whole, with a reason that is logged and names no patient; the reason."""

    def check(stored: Stored, file: bytes) -> str:
        assert stored.outcome is Outcome.QUARANTINED, stored
        with database.transaction() as connection:
            newest = quarantine.listed(connection, limit=1)[0]
        assert newest["reason"] == stored.reason
        assert blobs.read(newest["blob_key"]).endswith(file)
        logged = [
            record for record in caplog.records if record.getMessage() == f"an object was quarantined: {stored.reason}"
        ]
        assert [record.levelno for record in logged] == [logging.WARNING]
        assert logged[0].fields["blob_key"] == newest["blob_key"]  # type: ignore[attr-defined]
        assert "4711" not in str(stored.reason)
        assert "Jörg" not in str(stored.reason)
        caplog.clear()
        return str(stored.reason)

    return check


def instances(database: Database) -> int:
    """How many objects are in the index."""
    with database.transaction() as connection:
        row = connection.execute("SELECT count(*) AS n FROM instance").fetchone()
    assert row is not None
    return int(row["n"])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_no_cut_between_two_elements_makes_an_image(syntax: str, make: Make, encode: Encode) -> None:
    file = encode(make(), syntax)
    read = pydicom.dcmread(io.BytesIO(file))
    taken = []
    for raw in read.elements():
        if not isinstance(raw, RawDataElement):
            continue  # the character set, which pydicom has converted already
        head = 12 if not read.is_implicit_VR and raw.VR in ("OB", "OW", "UN", "SQ") else 8
        cut = file[: raw.value_tell - head]
        examination = Examination()
        examination.feed(cut)
        try:
            examination.finish(lambda: pytest.fail("the tolerant reader is not for this"))
        except Unfit:
            continue
        taken.append(raw.tag)
    # What ends after its UIDs and before the size of the image is what header-only objects look like; they are taken.
    assert taken == [0x00200011, 0x00200013, 0x00280002, 0x00280004, 0x00280010]


def test_an_image_without_its_pixels_is_not_archived_and_a_report_needs_none(
    receipt: Receipt, store: Store, make: Make, encode: Encode, refused: Refused
) -> None:
    file = encode(make(PixelData=None))
    assert "an image of 8 x 16, but no pixel data" in refused(store(receipt, file), file)
    report = make(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", PixelData=None)
    assert store(receipt, encode(report)).outcome is Outcome.STORED
    header_only = make(PixelData=None, Rows=None, Columns=None)
    assert store(receipt, encode(header_only)).outcome is Outcome.STORED
    floats = make(PixelData=None)
    floats.FloatPixelData = bytes(4 * 128)
    assert store(receipt, encode(floats)).outcome is Outcome.STORED


def test_the_classes_that_need_pixel_data_are_images() -> None:
    assert image_classes() < storage_classes()
    names = {UID_dictionary[uid][0] for uid in image_classes()}
    assert {"CT Image Storage", "Segmentation Storage", "Parametric Map Storage", "RT Dose Storage"} <= names
    assert not {"MR Spectroscopy Storage", "RT Structure Set Storage", "Comprehensive 3D SR Storage"} & names


@pytest.mark.parametrize("lie", [0, 4, 14, 28, 40, 100_000, UNDEFINED])
def test_the_group_length_of_the_file_meta_information_is_not_believed(lie: int, make: Make, encode: Encode) -> None:
    file = bytearray(encode(make()))
    content = bare(bytes(file))
    file[140:144] = struct.pack("<I", lie)
    for split in range(136, 700, 41):  # wherever the first piece ends
        examination = Examination()
        examination.feed(bytes(file[:split]))
        examination.feed(bytes(file[split:]))
        assert examination.finish(lambda: io.BytesIO(file)).sop_class_uid
        assert examination.digest == hashlib.sha256(content).digest()
    assert pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID


def test_a_group_length_in_the_data_set_is_not_believed(
    receipt: Receipt, store: Store, make: Make, encode: Encode
) -> None:
    made = make()
    file = encode(made)
    content = bare(file)
    lying = file[: -len(content)] + element(8, 0, b"UL", struct.pack("<I", 0x7FFFFFF0)) + content
    stored = store(receipt, lying)
    assert (stored.outcome, stored.sop_instance_uid) == (Outcome.STORED, made.SOPInstanceUID)


def nested(depth: int, *, lengths: bool) -> bytes:
    """Content sequences in one another; with or without lengths."""
    if lengths:
        body = b""
        for _ in range(depth):
            body = struct.pack("<HHI", *ITEM, len(body)) + body
            body = element(0x0040, 0xA730, b"SQ", body)
        return body
    begin = element(0x0040, 0xA730, b"SQ", b"", UNDEFINED) + struct.pack("<HHI", *ITEM, UNDEFINED)
    end = struct.pack("<HHI", *ITEM_END, 0) + struct.pack("<HHI", *SEQUENCE_END, 0)
    return begin * depth + end * depth


def depth_of(document: dict[str, dict[str, object]]) -> int:
    """How deep content sequences stand in DICOM JSON."""
    depth = 0
    while "0040A730" in document:
        depth += 1
        value = document["0040A730"].get("Value")
        document = value[0] if isinstance(value, list) else {}
    return depth


@pytest.mark.parametrize("lengths", [True, False])
def test_sequences_a_hundred_deep_are_archived_and_read(
    lengths: bool, receipt: Receipt, store: Store, make: Make, encode: Encode, database: Database, blobs: FileBlobStore
) -> None:
    stored = store(receipt, before_pixels(encode(make()), nested(100, lengths=lengths)))
    assert stored.outcome is Outcome.STORED
    with database.transaction() as connection:
        row = connection.execute("SELECT * FROM instance").fetchone()
        assert row is not None
        assert metadata.project_series(connection, blobs, row["series"]) == 1
    assert depth_of(metadata.instance_metadata(blobs, row)) == 100


def test_sequences_deeper_than_can_be_followed_are_refused_or_left_out_of_the_metadata(
    receipt: Receipt,
    store: Store,
    make: Make,
    encode: Encode,
    database: Database,
    blobs: FileBlobStore,
    refused: Refused,
) -> None:
    file = before_pixels(encode(make()), nested(DEPTH_LIMIT + 1, lengths=False))
    assert f"nested deeper than {DEPTH_LIMIT}" in refused(store(receipt, file), file)
    bottomless = before_pixels(
        encode(make()), nested(2000, lengths=True)
    )  # skipped by its length: nobody knows how deep
    assert store(receipt, bottomless).outcome is Outcome.STORED
    with database.transaction() as connection:
        row = connection.execute("SELECT * FROM instance").fetchone()
        assert row is not None
        assert metadata.project_series(connection, blobs, row["series"]) == 1
    document = metadata.instance_metadata(blobs, row)
    assert depth_of(document) == DEPTH_LIMIT
    assert document["00280010"] == {"vr": "US", "Value": [16]}


LYING = (
    element(0x0009, 0x1010, b"OB", b"x" * 40, 0xFFFFFFFE),
    element(0x0009, 0x1010, b"UT", b"x" * 40, 0xFFFFFFFE),
    element(0x0040, 0xA730, b"SQ", b"x" * 40, 0xFFFFFFFE),
    element(0x0040, 0xA730, b"SQ", struct.pack("<HHI", *ITEM, 0xFFFFFFFE), UNDEFINED),
    element(0x0010, 0x0020, b"UT", b"x" * 40, 0xFFFFFFFE),
    element(0x7FE0, 0x0010, b"OW", b"x" * 40, 0xFFFFFFFE),
    element(0x7FE0, 0x0010, b"OB", struct.pack("<HHI", *ITEM, 0xFFFFFFFE), UNDEFINED),
)


def test_a_length_of_4_gb_is_not_believed_and_costs_no_memory(
    receipt: Receipt, store: Store, make: Make, encode: Encode, refused: Refused
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for lying in LYING:
        file = before_pixels(encode(make()), lying)
        reason = refused(store(receipt, file), file)
        assert "truncated" in reason or "transfer syntax does not match" in reason, reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # kilobytes


def test_a_uid_that_stands_twice_with_two_values_is_not_archived(
    receipt: Receipt, store: Store, make: Make, encode: Encode, refused: Refused
) -> None:
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert_ambiguous(keyword, receipt, store, make(), encode, refused)


def assert_ambiguous(
    keyword: str, receipt: Receipt, store: Store, made: Dataset, encode: Encode, refused: Refused
) -> None:
    """A UID that stands twice is taken with one value, refused with two."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    again = str(made[keyword].value).encode()
    padded = again + b"\0" * (len(again) % 2)
    file = before_pixels(encode(made), element(tag >> 16, tag & 0xFFFF, b"UI", padded))
    assert store(receipt, file).outcome is Outcome.STORED  # twice the same says nothing wrong
    made.SOPInstanceUID = generate_uid()
    other = before_pixels(encode(made), element(tag >> 16, tag & 0xFFFF, b"UI", b"1.2.3.44"))
    assert "more than once" in refused(store(receipt, other), other)


def changed(file: bytes, keyword: str, vr: bytes | None = None, start: bytes | None = None) -> bytes:
    """The file with another VR of an element of its data set, or other first bytes of the value."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    at = file.rindex(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + pydicom.datadict.dictionary_VR(tag).encode())
    if vr is not None:
        return file[: at + 4] + vr + file[at + 6 :]
    assert start is not None
    return file[: at + 8] + start + file[at + 8 + len(start) :]


# Found by comparing with pydicom what was taken of objects with bytes changed: two readers would read each of them differently.
READ_IN_TWO_WAYS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a UID behind zero bytes": (lambda f: changed(f, "StudyInstanceUID", start=b"\0\0"), "Study Instance UID is malformed"),
    "a UID behind a blank": (lambda f: changed(f, "SeriesInstanceUID", start=b" "), "Series Instance UID is malformed"),
    "a UID of numbers": (lambda f: changed(f, "SOPInstanceUID", b"FL"), "SOP Instance UID has the VR FL"),
    "a UID of tags": (lambda f: changed(f, "SOPClassUID", b"AT"), "SOP Class UID has the VR AT"),
    "a UID of a VR nobody knows": (lambda f: changed(f, "SOPInstanceUID", b"HI"), "SOP Instance UID has the VR HI"),
    "a UID that is a sequence too": (
        lambda f: before_pixels(
            f, element(0x0008, 0x0018, b"SQ", b"", UNDEFINED) + struct.pack("<HHI", *SEQUENCE_END, 0)
        ),
        "SOP Instance UID stands more than once",
    ),
    "two patients": (lambda f: before_pixels(f, element(0x0010, 0x0020, b"LO", b"0815")), "Patient ID stands more than once"),
    "a patient of numbers": (lambda f: changed(f, "PatientID", b"US"), "Patient ID has the VR US"),
    "two character sets": (
        lambda f: before_pixels(f, element(0x0008, 0x0005, b"CS", b"ISO_IR 100")), "Character Set stands more than once",
    ),
    "a character set of numbers": (lambda f: changed(f, "SpecificCharacterSet", b"US"), "Character Set has the VR US"),
    "a character set behind zero bytes": (
        lambda f: changed(f, "SpecificCharacterSet", start=b"\0\0"), "Specific Character Set is malformed",
    ),
    "the end of an item outside": (
        lambda f: before_pixels(f, struct.pack("<HHI", *ITEM_END, 0)), "(FFFE,E00D) stands outside a sequence",
    ),
    "the end of an item outside, with a VR": (
        lambda f: f.replace(b"\x08\0\x20\0DA", struct.pack("<HH", *ITEM_END) + b"DA"),
        "(FFFE,E00D) stands outside a sequence",
    ),
    "an empty patient of a VR nobody knows": (
        lambda f: before_pixels(f.replace(b"\x10\0\x20\0LO", b"\x10\0\x22\0LO"), b"\x10\0\x20\0OO\0\0"),
        "Patient ID has the VR OO",
    ),
    "an element of a command": (
        lambda f: f.replace(b"\x08\0\x05\0CS", b"\0\0\x05\0CS"), "starts with an element of a command",
    ),
    "file meta information of a VR nobody knows": (
        lambda f: f.replace(b"\2\0\0\0UL", b"\2\0\0\0PL"), "the file meta information is not in explicit VR",
    ),
    "zero bytes and then more": (lambda f: before_pixels(f, bytes(8)), "followed by something else"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ_IN_TWO_WAYS)
def test_what_two_readers_take_for_different_objects_is_not_archived(
    name: str, receipt: Receipt, store: Store, make: Make, encode: Encode, refused: Refused
) -> None:
    change, words = READ_IN_TWO_WAYS[name]
    file = change(encode(make()))
    assert words in refused(store(receipt, file), file)


def test_a_patient_id_of_any_length_or_with_a_backslash_is_not_taken_for_another(
    receipt: Receipt, store: Store, make: Make, encode: Encode, refused: Refused, database: Database
) -> None:
    first = make(PatientID="A\\B")
    assert store(receipt, encode(first)).outcome is Outcome.STORED
    with database.transaction() as connection:
        assert connection.execute("SELECT patient_id FROM study").fetchone() == {"patient_id": "A\\B"}
    other = make(PatientID="A\\C", StudyInstanceUID=first.StudyInstanceUID)
    assert "another Patient ID" in refused(store(receipt, encode(other)), encode(other))
    endless = before_pixels(encode(make(PatientID=None)), element(0x0010, 0x0020, b"UT", b"4711" * 5000))
    assert "Patient ID is longer than" in refused(store(receipt, endless), endless)


@pytest.mark.parametrize("character_set", ["ISO_IR 192", "\\ISO 2022 IR 149"])
def test_what_only_the_tolerant_reader_can_follow_keeps_its_character_set(
    character_set: str, receipt: Receipt, store: Store, make: Make, encode: Encode, database: Database
) -> None:
    file = encode(make(SpecificCharacterSet=character_set.split("\\"), PatientName="홍^길동"))
    stored = store(receipt, before_pixels(file, b"\x29\0\x10\x10ZZ\2\0ab"))
    assert stored.outcome is Outcome.STORED
    with database.transaction() as connection:
        study = connection.execute("SELECT attributes -> '00100010' AS name FROM study").fetchone()
    assert study is not None
    assert study["name"]["Value"][0]["Alphabetic"] == "홍^길동"


def test_an_attribute_whose_value_breaks_its_vr_does_not_break_the_association(
    receipt: Receipt, store: Store, make: Make, encode: Encode, database: Database
) -> None:
    made = make(SeriesNumber=None)
    file = before_pixels(encode(made), element(0x0020, 0x0011, b"FD", b"1.5"))  # not eight bytes
    assert store(receipt, file).outcome is Outcome.STORED
    with database.transaction() as connection:
        row = connection.execute("SELECT s.attributes FROM series s").fetchone()
    assert row is not None
    assert "00200011" not in row["attributes"]


def test_one_uid_for_study_series_and_instance_is_taken_as_it_is(
    receipt: Receipt, store: Store, make: Make, encode: Encode
) -> None:
    uid = generate_uid()
    made = make(SOPInstanceUID=uid, StudyInstanceUID=uid, SeriesInstanceUID=uid)
    stored = store(receipt, encode(made))
    assert (stored.outcome, stored.study_instance_uid) == (Outcome.STORED, uid)


def test_another_patient_does_not_enter_a_study(
    receipt: Receipt, store: Store, make: Make, encode: Encode, refused: Refused, archive: Archive, database: Database
) -> None:
    made = make()
    assert store(receipt, encode(made)).outcome is Outcome.STORED
    made.PatientID = "0815"
    made.SOPInstanceUID = generate_uid()
    same_series = encode(made)
    made.SOPInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    other_series = encode(made)
    for _ in range(2):
        for file in (same_series, other_series):
            assert refused(store(receipt, file), file) == "its study is known under another Patient ID"
        archive.patients_seen.__init__()  # type: ignore[misc]  # as in a process that has seen none
    assert instances(database) == 1
    with database.transaction() as connection:
        assert connection.execute("SELECT count(*) AS n FROM series").fetchone() == {"n": 1}
    made.PatientID = " 4711 "  # blanks around it mean nothing (PS3.5 6.2)
    assert store(receipt, encode(made)).outcome is Outcome.STORED
    for absent in ("", None):
        unnamed = make(PatientID=absent, StudyInstanceUID=made.StudyInstanceUID)
        assert store(receipt, encode(unnamed)).outcome is Outcome.STORED
    renamed = make(PatientName="Müller-Meier^Jörg", PatientBirthDate="19700101", StudyInstanceUID=made.StudyInstanceUID)
    assert store(receipt, encode(renamed)).outcome is Outcome.STORED


def test_an_unknown_sop_class_is_taken_only_by_switch_and_released_once_it_is_on(
    receipt: Receipt, store: Store, make: Make, encode: Encode, refused: Refused, archive: Archive, blobs: FileBlobStore,
    settings: Settings, database: Database,
) -> None:  # fmt: skip
    file = encode(make(SOPClassUID="1.2.826.0.1.3680043.2.1143.99.1"))
    assert "accept_unknown_sop_classes is off" in refused(store(receipt, file), file)
    query = encode(make(SOPClassUID="1.2.840.10008.5.1.4.1.2.2.1"))  # known, but nothing that is stored
    assert "no storage class" in refused(store(receipt, query), query)
    with database.transaction() as connection:
        entries = {row["size"]: row["id"] for row in quarantine.listed(connection)}
    open_to_all = Archive(database, blobs, settings.model_copy(update={"accept_unknown_sop_classes": True}))
    try:
        with open_to_all.begin(receipt) as incoming:
            incoming.write(query)
            assert incoming.commit().outcome is Outcome.QUARANTINED
        assert quarantine.release(open_to_all, entries[len(file)]).outcome is Outcome.STORED
    finally:
        open_to_all.close()


@pytest.mark.parametrize(("policy", "outcome"), [("keep", Outcome.CONFLICT_KEPT), ("refuse", Outcome.CONFLICT_REFUSED)])
def test_another_object_or_transfer_syntax_under_a_known_uid_never_replaces_the_first(
    policy: str, outcome: Outcome, receipt: Receipt, make: Make, encode: Encode, blobs: FileBlobStore,
    settings: Settings, database: Database,
) -> None:  # fmt: skip
    archive = Archive(database, blobs, settings.model_copy(update={"known_uid_policy": policy}))
    made = make()
    first = encode(made)
    recoded = encode(made, ImplicitVRLittleEndian)
    made.PatientID = "0815"  # also another patient is a matter of the known UID first
    another = encode(made)
    try:
        for number, (file, expected) in enumerate(
            (
                (first, Outcome.STORED),
                (first, Outcome.DUPLICATE),
                (recoded, outcome),
                (recoded, outcome),
                (another, outcome),
            )
        ):
            with archive.begin(receipt) as incoming:
                incoming.write(file)
                assert incoming.commit().outcome is expected, number
    finally:
        archive.close()
    with database.transaction() as connection:
        row = connection.execute("SELECT * FROM instance").fetchone()
        kept = connection.execute("SELECT * FROM conflict ORDER BY at").fetchall()
    assert row is not None
    assert blobs.read(row["blob_key"]) == first
    assert [blobs.read(each["blob_key"]) for each in kept] == ([recoded, another] if policy == "keep" else [])
    assert [info.key for info in blobs.list("objects/")] == [row["blob_key"]]


NAMES = {
    # Specific Character Set, Patient's Name as its bytes (PS3.5 H and J), what a person reads
    "latin": ("ISO_IR 100", "Buc^Jérôme".encode("latin-1"), "Buc^Jérôme"),
    "japanese": (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou",
    ),
    "korean": ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong"),
    "chinese": ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong"),
    "utf-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong"),
    "bytes that are no utf-8": ("ISO_IR 192", b"M\xfcller^J\xf6rg", None),
    "utf-8 without a word": ("", "Müller^Jörg".encode(), None),
    "a character set nobody knows": ("ISO_IR 4711", b"Muller^Joerg", "Muller^Joerg"),
    "a character set with an escape out of place": ("ISO 2022 IR 87", b"A\x1b$Bxx\x1b(^B\x1b", None),
    "a lone escape": ("\\ISO 2022 IR 87", b"Muller\x1b", None),
    "a zero byte": ("ISO_IR 192", b"Mu\0ller^Joerg", "Muller^Joerg"),
}


def with_name(made: Dataset, encode: Encode, character_set: str, raw: bytes) -> bytes:
    """A file with these very bytes as character set and Patient's Name."""
    del made.SpecificCharacterSet, made.PatientName
    file = encode(made)
    at = file.rindex(struct.pack("<HH2s", 0x0010, 0x0020, b"LO"))
    file = file[:at] + element(0x0010, 0x0010, b"PN", raw + b" " * (len(raw) % 2)) + file[at:]
    start = len(file) - len(bare(file))
    text = character_set.encode() + b" " * (len(character_set) % 2)
    return file[:start] + element(0x0008, 0x0005, b"CS", text) + file[start:]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_character_set_right_or_wrong_changes_no_byte_and_breaks_no_search(
    receipt: Receipt, store: Store, make: Make, encode: Encode, database: Database, blobs: FileBlobStore
) -> None:
    for name, (character_set, raw, shown) in NAMES.items():
        made = make(PatientID=f"id of {name}")
        file = with_name(made, encode, character_set, raw)
        assert store(receipt, file).outcome is Outcome.STORED, name
        with database.transaction() as connection:
            row = connection.execute(
                "SELECT * FROM instance WHERE sop_instance_uid = %s", (made.SOPInstanceUID,)
            ).fetchone()
            assert row is not None
            assert metadata.project_series(connection, blobs, row["series"]) == 1, name
            by_id = Condition(("00100020",), "LO", f"id of {name}")
            (study,) = search_sql.run(connection, Search(Level.STUDY, (by_id,)), None)
            if shown is not None:
                by_name = Condition(("00100010",), "PN", shown)
                found = search_sql.run(connection, Search(Level.STUDY, (by_id, by_name)), None)
                assert [each["study_instance_uid"] for each in found] == [made.StudyInstanceUID], name
        assert blobs.read(row["blob_key"]) == file
        document = metadata.instance_metadata(blobs, row)
        for where in (study["study_attributes"], document):
            assert where["00100020"]["Value"] == [f"id of {name}"]
            if shown is not None:
                assert where["00100010"]["Value"][0]["Alphabetic"] == shown, name
            elif "Value" in where.get("00100010", {}):
                assert isinstance(where["00100010"]["Value"][0]["Alphabetic"], str), name


def test_a_character_set_that_nobody_can_read_is_not_archived(
    receipt: Receipt, store: Store, make: Make, encode: Encode, refused: Refused
) -> None:
    file = with_name(make(), encode, "ISO\0\x1b_IR 192", b"Muller^Joerg")
    assert "Specific Character Set is malformed" in refused(store(receipt, file), file)


def test_a_bare_data_set_gets_the_file_meta_information_it_says(make: Make, encode: Encode) -> None:
    made = make()
    content = bare(encode(made))
    meta = file_meta(ExplicitVRLittleEndian, made.SOPClassUID, made.SOPInstanceUID, "MODALITY")
    read = pydicom.dcmread(io.BytesIO(meta + content))
    assert read.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    examination = Examination(RLELossless)
    examination.feed(content)
    with pytest.raises(Unfit, match="pixel data is native"):
        examination.finish(lambda: io.BytesIO(meta + content))
